#!/bin/sh
# SPDX-License-Identifier: MIT
# test.sh BUILD quick|all - every test, counted. The last line is "N passed, N failed, N skipped".
#
# Variants: asan (all suites, ASan+UBSan), tsan (suites unit and torture), plain (suite kvm, as it is shipped).
set -u
cd "$(dirname "$0")/.."
build=$1 what=$2
scripts/deps.sh build test docs || exit 1

passed=0 failed=0 skipped=0

# run DIR SUITES...: meson test, its lines counted
run() {
	dir=$1
	shift
	suites=
	for suite; do suites="$suites --suite $suite"; done
	echo "== $dir:$suites"
	log=$(mktemp)
	# TSan's and ASan's shadow memory want the usual address space layout
	setarch -R meson test -C "$dir" --no-rebuild --print-errorlogs --num-processes "$jobs" $suites >"$log" 2>&1
	grep -E '^ *[0-9]+/[0-9]+ ' "$log"
	grep -qE '^ *[0-9]+/[0-9]+ .*(FAIL|TIMEOUT|ERROR)' "$log" && sed -n '/^――/,$p' "$log" | head -n 200
	count() { sed -nE "s/^$1: +([0-9]+).*/\1/p" "$log" | tail -n 1 | grep . || echo 0; }
	passed=$((passed + $(count Ok) + $(count 'Expected Fail')))
	failed=$((failed + $(count Fail) + $(count Timeout) + $(count 'Unexpected Pass')))
	skipped=$((skipped + $(count Skipped)))
	if ! grep -qE '^Ok: ' "$log"; then
		tail -n 20 "$log"
		failed=$((failed + 1))
	fi
	rm -f "$log"
}

finish() {
	echo "$passed passed, $failed failed, $skipped skipped"
	[ "$failed" -eq 0 ]
	exit
}

variant() { # DIR options...: a build that breaks is a failure, told in the last line like any other
	scripts/build.sh "$@" || { failed=$((failed + 1)); finish; }
}

jobs=2
variant "$build/asan" -Db_sanitize=address,undefined -Dbuildtype=debugoptimized
if [ "$what" = quick ]; then
	run "$build/asan" quick
	finish
fi
variant "$build/tsan" -Db_sanitize=thread -Db_lundef=false
variant "$build/plain"
run "$build/asan" quick unit torture
run "$build/tsan" unit torture
jobs=1 # guests want the machine for themselves
run "$build/plain" install kvm
run "$build/asan" kvm
# Limits are the bench's own; a run disturbed by a neighbour is repeated, not forgiven.
bench() {
	echo "== bench"
	for try in 1 2 3; do
		"$build/plain/bench/pvclock-bench" && return 0
	done
	return 1
}
bench && passed=$((passed + 1)) || failed=$((failed + 1))
echo "== fuzz, 10 s a target"
scripts/fuzz.sh "$build" 10 && passed=$((passed + 1)) || failed=$((failed + 1))
finish
