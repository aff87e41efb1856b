#!/bin/sh
# SPDX-License-Identifier: MIT
# guest.h compiles as C++, and, as C and without libc or FPU, for 64 and 32 bits; what a guest links asks for nothing.
set -u
root=$1
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
tried=0
failed=0
warnings="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror -O2"

cat >"$scratch/use.c" <<'EOF'
#include <pvclock/guest.h>

#ifdef __cplusplus
extern "C"
#endif
uint64_t now(struct pvclock_page *page, uint64_t *last);

uint64_t now(struct pvclock_page *page, uint64_t *last)
{
	struct pvclock_reading reading;

	if (pvclock_take_guest_stopped(page))
		*last = 0;
	pvclock_read_clock(page, &reading);
#ifdef __cplusplus
	return pvclock_guard(last, reading.ns);
#else
	return pvclock_guard((_Atomic uint64_t *)last, reading.ns);
#endif
}
EOF

try()
{
	tried=$((tried + 1))
	echo "$*"
	# shellcheck disable=SC2086
	"$@" $warnings -I"$root/include" || failed=1
}

for compiler in gcc clang; do
	command -v "$compiler" >/dev/null || continue
	for bits in -m64 -m32; do
		objects=
		for source in "$scratch/use.c" "$root/src/page/read.c" "$root/src/page/write.c" \
			"$root/src/guest/guard.c" "$root/src/guest/stopped.c"; do
			object=$scratch/$(basename "$source" .c).o
			objects="$objects $object"
			try "$compiler" -std=c11 $bits -ffreestanding -fno-pic -mno-sse -mgeneral-regs-only \
				-c "$source" -o "$object"
		done
		# the writer of the wall clock divides 64 bits, for which 32-bit compilers call their own library;
		# a guest writes none
		[ $bits = -m32 ] && objects=$(echo "$objects" | sed 's, [^ ]*/write.o,,')
		[ $failed = 0 ] || continue
		# shellcheck disable=SC2086
		ld -r $([ $bits = -m32 ] && echo -m elf_i386) $objects -o "$scratch/all.o" || failed=1
		undefined=$(nm -u "$scratch/all.o")
		if [ -n "$undefined" ]; then
			echo "$compiler $bits: a guest would need $undefined"
			failed=1
		fi
	done
done
for compiler in g++ clang++; do
	command -v "$compiler" >/dev/null || continue
	for standard in c++11 c++17 c++20; do
		try "$compiler" -x c++ -std=$standard -c "$scratch/use.c" -o "$scratch/use.o"
	done
done
if [ $tried = 0 ]; then
	echo "SKIP: neither gcc nor clang is here"
	exit 77
fi
exit $failed
