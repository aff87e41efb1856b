#!/bin/sh
# SPDX-License-Identifier: MIT
# fuzz.sh BUILD SECONDS - runs every fuzz target that long; a finding is left in out/fuzz with the line that repeats it.
set -eu
cd "$(dirname "$0")/.."
build=$1 seconds=$2
scripts/deps.sh build fuzz
CC=clang TARGETS=fuzz scripts/build.sh "$build/fuzz" -Dfuzz=true -Dtests=false -Db_sanitize=address,undefined -Db_lundef=false
mkdir -p out/fuzz
for target in "$build"/fuzz/fuzz/fuzz-*; do
	[ -x "$target" ] && [ -f "$target" ] || continue
	name=$(basename "$target")
	mkdir -p "out/fuzz/$name"
	if [ "$name" = fuzz-record ]; then # sealed, agreeing, of either version (fuzz/record.c)
		{ printf "\007"; cat tests/host/golden/record-1.bin; } >"out/fuzz/$name/record-1"
		{ printf "\005"; cat tests/host/golden/record-2.bin; } >"out/fuzz/$name/record-2"
	fi
	if "$target" -max_total_time="$seconds" -timeout=5 -print_final_stats=1 -artifact_prefix="out/fuzz/$name-" \
	    "out/fuzz/$name" >"out/fuzz/$name.log" 2>&1; then
		echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "out/fuzz/$name.log") executions, no finding"
	else
		tail -n 30 "out/fuzz/$name.log"
		echo "$name: a finding; repeat it with: $target out/fuzz/$name-*"
		exit 1
	fi
done
