#!/bin/sh
# SPDX-License-Identifier: MIT
#
# What a guest links needs nothing but itself: for a 32-bit target without __int128, at any optimisation, the linked objects
# have no undefined symbol - no __udivdi3 for a 64-bit division, and in src/line no memcpy, either: the layers above it have
# structures, for which a compiler that does not optimise may call the kernel's. And, run there, it computes the same.
#     freestanding.sh SOURCE_ROOT DIGEST...    DIGEST: digest.c built for this machine, each another way
set -eu
root=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

first=
for digest in "$@"; do
	"$digest" >"$work/out"
	if [ -z "$first" ]; then
		first=$digest
		mv "$work/out" "$work/expected"
		cat "$work/expected"
	elif ! diff "$work/expected" "$work/out"; then
		echo "FAIL: $digest computes otherwise than $first"
		exit 1
	fi
done

tried=0
ran=0
for compiler in gcc clang; do
	command -v $compiler >/dev/null || continue
	for level in -O0 -O1 -O2 -O3 -Os; do
		flags="-m32 -std=c11 $level -ffreestanding -fno-pic -fno-stack-protector -fno-asynchronous-unwind-tables"
		flags="$flags -Wall -Wextra -Wshadow -Wconversion -Werror -I$root/include"
		rm -f "$work"/*.o
		for source in "$root"/src/line/*.c "$root"/src/page/*.c "$root"/src/guest/*.c; do
			# shellcheck disable=SC2086
			$compiler $flags -c "$source" -o "$work/$(basename "$(dirname "$source")")-$(basename "$source" .c).o" 2>"$work/log" || {
				# no 32-bit target in this compiler; anything else is our fault
				if echo 'int x;' | $compiler -m32 -c -x c - -o /dev/null 2>/dev/null; then
					cat "$work/log"
					exit 1
				fi
				continue 3
			}
		done
		ld -m elf_i386 -r "$work"/line-*.o -o "$work/line"
		ld -m elf_i386 -r "$work"/*.o -o "$work/all"
		needs=$(nm -u "$work/line"; nm -u "$work/all" | grep -v ' mem\(cpy\|set\)$' || true)
		if [ -n "$needs" ]; then
			echo "FAIL: $compiler $level: a guest would need: $needs"
			exit 1
		fi
		tried=$((tried + 1))

		# shellcheck disable=SC2086
		$compiler $flags -DPVCLOCK_DIGEST_I386 -c "$root/tests/line/digest.c" -o "$work/digest.o"
		ld -m elf_i386 -e _start "$work"/*.o -o "$work/run"
		"$work/run" >"$work/out" 2>/dev/null || continue # a kernel without 32-bit programs
		if ! diff "$work/expected" "$work/out"; then
			echo "FAIL: $compiler $level: 32 bits compute otherwise"
			exit 1
		fi
		ran=$((ran + 1))
	done
done
if [ $tried = 0 ]; then
	echo "SKIP: no compiler here makes 32-bit objects"
	exit 77
fi
echo "$tried builds for 32 bits need nothing; $ran of them ran and computed the same"
