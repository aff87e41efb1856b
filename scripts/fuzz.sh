#!/bin/sh
# SPDX-License-Identifier: MIT
# fuzz.sh BUILD SECONDS - runs every fuzz target that long; a finding is left in out/fuzz with the line that repeats it.
set -eu
cd "$(dirname "$0")/.."
build=$1 seconds=$2
scripts/deps.sh build fuzz
CC=clang TARGETS=fuzz scripts/build.sh "$build/fuzz" -Dfuzz=true -Dtests=false -Db_sanitize=address,undefined -Db_lundef=false
mkdir -p out/fuzz
# else what UBSan finds is printed, and the run goes on to say that nothing was found
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1

one() { # TARGET
	name=$(basename "$1")
	mkdir -p "out/fuzz/$name"
	if [ "$name" = fuzz-record ]; then # sealed, agreeing, of either version (fuzz/record.c)
		{ printf "\007"; cat tests/host/golden/record-1.bin; } >"out/fuzz/$name/record-1"
		{ printf "\005"; cat tests/host/golden/record-2.bin; } >"out/fuzz/$name/record-2"
		{ printf "\005"; cat tests/host/golden/record-4.bin; } >"out/fuzz/$name/record-4"
	fi
	if "$1" -max_total_time="$seconds" -timeout=5 -print_final_stats=1 -artifact_prefix="out/fuzz/$name-" \
	    "out/fuzz/$name" >"out/fuzz/$name.log" 2>&1; then
		echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "out/fuzz/$name.log") executions, no finding"
	else
		tail -n 30 "out/fuzz/$name.log"
		echo "$name: a finding; repeat it with: $1 out/fuzz/$name-*"
		return 1
	fi
}

# as many at a time as there are CPUs
status=0 running=
finish() {
	for pid in $running; do
		wait "$pid" || status=1
	done
	running=
}
for target in "$build"/fuzz/fuzz/fuzz-*; do
	[ -x "$target" ] && [ -f "$target" ] || continue
	one "$target" &
	running="$running $!"
	[ "$(echo "$running" | wc -w)" -lt "$(nproc)" ] || finish
done
finish
exit $status
