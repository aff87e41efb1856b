#!/bin/sh
# SPDX-License-Identifier: MIT
# clock.h and deadline.h, which bring guest.h, compile as C++, and, as C and without libc or FPU, for 64 and 32 bits; what a guest links asks for nothing.
set -u
root=$1
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
tried=0
failed=0
warnings="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror -O2"

cat >"$scratch/use.c" <<'EOF'
#include <pvclock/clock.h>
#include <pvclock/deadline.h>

#ifdef __cplusplus
extern "C"
#endif
enum pvclock_timer_state sleep_until(struct pvclock_timer *timer, const struct pvclock_page *page, uint64_t ns);
#ifdef __cplusplus
extern "C"
#endif
uint64_t now(struct pvclock_user_page *user, pvclock_last *last, unsigned int id);

uint64_t now(struct pvclock_user_page *user, pvclock_last *last, unsigned int id)
{
	struct pvclock_reading reading;
	struct pvclock_time time;
	uint64_t ns;

	if (pvclock_take_guest_stopped(&user->page))
		return 0;
	if (pvclock_user_time(user, PVCLOCK_REALTIME, &time) == PVCLOCK_READ_OK && time.sec > 0)
		return time.nsec;
	if (pvclock_coarse_ns(user, id, &ns) == PVCLOCK_READ_OK || pvclock_kernel_ns(user, &user->page, last, id, &ns) == PVCLOCK_READ_OK)
		return ns;
	pvclock_read_clock(&user->page, &reading);
	return pvclock_guard(last, reading.ns);
}

enum pvclock_timer_state sleep_until(struct pvclock_timer *timer, const struct pvclock_page *page, uint64_t ns)
{
	if (timer->kind == PVCLOCK_TIMER_NONE)
		pvclock_timer_start(timer, pvclock_timer_find(), page, (volatile uint32_t *)0, 0x40);
	pvclock_timer_arm(timer, ns);
	return pvclock_timer_check(timer);
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
		for source in "$scratch/use.c" "$root/src/page/read.c" "$root/src/page/suspend.c" "$root/src/page/write.c" \
			"$root/src/guest/clock.c" "$root/src/guest/guard.c" "$root/src/guest/stopped.c" "$root/src/guest/deadline.c" \
			"$root/src/guest/interface.c" "$root/src/line/inverse.c"; do
			object=$scratch/$(basename "$source" .c).o
			objects="$objects $object"
			try "$compiler" -std=c11 $bits -ffreestanding -fno-pic -mno-sse -mgeneral-regs-only \
				-c "$source" -o "$object"
		done
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
