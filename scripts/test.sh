#!/bin/sh
# SPDX-License-Identifier: MIT
# test.sh BUILD quick|all - every test, counted. The last line is "N passed, N failed, N skipped".
#
# Where there is no KVM for our guests (or with PVCLOCK_LAB=1), the suite kvm runs in the lab, on an emulated host.
#
# Variants: asan (all suites, ASan+UBSan), tsan (suites unit and torture), plain (suites kvm and billion, as it is shipped), and
# other machines (scripts/cross.sh).
set -u
cd "$(dirname "$0")/.."
build=$1 what=$2
scripts/deps.sh build test docs || exit 1

passed=0 failed=0 skipped=0

# run DIR SUITES...: meson test, its lines counted; a suite with a - before it is left out
run() {
	dir=$1
	shift
	suites=
	for suite; do
		case $suite in
		-*) suites="$suites --no-suite ${suite#-}" ;;
		*) suites="$suites --suite $suite" ;;
		esac
	done
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

# False, with the reason: this machine has no KVM for our small guests.
kvm_here() {
	if [ "${PVCLOCK_LAB:-0}" = 1 ]; then
		echo "PVCLOCK_LAB=1"
		return 1
	fi
	"$build/plain/tests/kvm/p10_hostile" | sed -n 's/^1\.\.0 # SKIP //p' | grep . && return 1 || return 0
}

# No packages, no lab. Whatever wants it then counts as skipped, with the reason that fetch.sh has told.
lab_ready() {
	lab/fetch.sh "$build" && lab/image.sh "$build" && return
	echo "SKIP: $1"
	skipped=$((skipped + 1))
	return 1
}

# kvm_in_lab VARIANTS...: the suite kvm, the same programs, all on one emulated host
kvm_in_lab() {
	echo "== lab: suite kvm of $*"
	lab_ready "the suite kvm" || return
	log=$(mktemp) names=$(mktemp)
	for variant; do
		lab/libraries.sh "$build" "$build/$variant/vmm/pvclock-vmm" "$build/$variant/tests/kvm/p4_flags"
		# named as they are called: program and arguments
		meson test -C "$build/$variant" --no-rebuild --list --suite kvm 2>/dev/null | sed -n "s|.* / |$variant/tests/kvm/|p"
	done >"$names"
	BUILD="$build" lab/boot.sh --name kvm --timeout 1500 -- sh -c "$(sed 's|.*|timeout 900 /p/& >/tmp/log 2>\&1; s=$?; case $s in 0\|77) ;; *) cat /tmp/log ;; esac; echo "lab: $s: &"|' "$names")" |
		tr -d '\r' | tee "$log" | grep -v '^ok '
	while read -r name; do
		case $(sed -n "s|^lab: \([0-9]*\): $name\$|\1|p" "$log") in
		0) passed=$((passed + 1)) ;;
		77) skipped=$((skipped + 1)) ;;
		*) failed=$((failed + 1)) ;; # also what was not reached
		esac
	done <"$names"
	rm -f "$log" "$names"
}

# scenarios NAMES CLOCKS...: stock Linux guests (scripts/lab.sh); one passed, failed or skipped for each row
scenarios() {
	echo "== lab: scenarios and clocks $*"
	lab_ready "scenarios $*" || return
	log=$(mktemp)
	scripts/lab.sh "$build" "$@" 2>&1 | tr -d '\r' | tee "$log"
	set -- $(awk '
		/^BROKEN / { sub(/:$/, "", $4); broken[$3 " " $4] = 1 }
		/^(stock|steer|own|auto) .*([0-9] s: |FAILED after |SKIP: )/ {
			row[$1 " " $2] = /SKIP: / ? "skipped" : /FAILED after / ? "failed" : "passed"
		}
		/^lab: nobody ended / { count["failed"]++ } # its rows are not there to fail
		END {
			for (key in row)
				count[key in broken ? "failed" : row[key]]++
			print count["passed"] + 0, count["failed"] + 0, count["skipped"] + 0
		}' "$log")
	[ $(($1 + $2 + $3)) -gt 0 ] || set -- 0 1 0 # no row at all
	passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
	rm -f "$log"
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
run "$build/asan" quick unit torture once
run "$build/tsan" unit torture
jobs=1 # guests want the machine for themselves
run "$build/plain" install
run "$build/plain" billion
echo "== cross: what a guest links, on every machine"
scripts/cross.sh "$build"
case $? in
0) passed=$((passed + 1)) ;;
77) skipped=$((skipped + 1)) ;;
*) failed=$((failed + 1)) ;;
esac
if kvm_here; then
	run "$build/plain" kvm
	run "$build/asan" kvm -long
else
	kvm_in_lab plain
fi
# What fits of `make lab`: own mode through everything, the others where they differ most, and a guest's guest.
scenarios short own linux-pause stock,steer nested stock,own
# Limits are the bench's own; a run disturbed by a neighbour is repeated, not forgiven.
bench() {
	echo "== bench"
	for try in 1 2 3; do
		"$build/plain/bench/pvclock-bench" && return 0
	done
	return 1
}
bench && passed=$((passed + 1)) || failed=$((failed + 1))
echo "== fuzz, 5 s a target"
scripts/fuzz.sh "$build" 5 && passed=$((passed + 1)) || failed=$((failed + 1))
finish
