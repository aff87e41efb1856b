#!/bin/sh
# SPDX-License-Identifier: MIT
#
# cross.sh BUILD [MACHINE...] - what a guest links, on every machine that it is for: x86_64, i386, aarch64, riscv64.
#   - src/line, src/page and src/guest compile freestanding at any optimisation, and the whole of it needs nothing but, at most, a
#     kernel's memcpy and memset;
#   - tests/line/digest.c computes there, bit for bit, what it computes here, with __int128 and without;
#   - the layers' tests run there (qemu-user), the readers on the machine's own counter.
# One line for each check; exit 1 if any failed, 77 if a compiler or an emulator is not to be had.
set -u
cd "$(dirname "$0")/.."
build=$1
shift
[ $# -gt 0 ] || set -- x86_64 i386 aarch64 riscv64
scripts/deps.sh build cross || { echo "SKIP: no cross compilers (scripts/deps.sh cross)"; exit 77; }
work=$build/cross
failed=0
checks=0
warnings="-std=gnu11 -Wall -Wextra -Wshadow -Wconversion -Werror -Iinclude"

passes() { # WHAT COMMAND...
	what=$1
	shift
	checks=$((checks + 1))
	if "$@" >"$dir/log" 2>&1; then
		echo "ok $machine: $what"
	else
		echo "not ok $machine: $what: $*"
		tail -n 20 "$dir/log"
		failed=1
		return 1
	fi
}

needs_nothing() { # LEVEL
	objects=
	for source in src/line/*.c src/page/*.c src/guest/*.c; do
		object=$dir/$(echo "$source" | tr '/' '-').o
		objects="$objects $object"
		# shellcheck disable=SC2086
		$cc $warnings $kernel "$1" -c "$source" -o "$object" || return 1
	done
	# shellcheck disable=SC2086
	$ld -r $objects -o "$dir/whole.o" || return 1
	! nm -u "$dir/whole.o" | grep -v ' mem\(cpy\|set\)$'
}

links() { # NAME SOURCE FLAGS...: a static program of it and the layers
	name=$1 source=$2
	shift 2
	# shellcheck disable=SC2086
	$cc $warnings -O2 -static -pthread -Itests/cross "$@" "$source" src/line/*.c src/page/*.c src/guest/*.c -o "$dir/$name"
}

computes_the_same() { # NAME
	$run "$dir/$1" >"$dir/$1.out" && diff "$work/digest.expected" "$dir/$1.out"
}

test_here() { # NAME SOURCE FLAGS...
	name=$1
	links "$@" && $run "$dir/$name"
}

mkdir -p "$work"
cc=gcc dir=$work machine=here
# shellcheck disable=SC2086
$cc $warnings -O2 tests/line/digest.c src/line/*.c src/page/*.c src/guest/*.c -o "$work/digest" && "$work/digest" >"$work/digest.expected" || exit 1

on() { # MACHINE
	machine=$1 checks=0 failed=0
	dir=$work/$machine
	mkdir -p "$dir"
	kernel="-ffreestanding -fno-stack-protector -fno-asynchronous-unwind-tables -fno-pic"
	ld="ld" run="qemu-$machine-static"
	case $machine in
	x86_64) cc=gcc run= kernel="$kernel -mgeneral-regs-only -mno-red-zone" ;;
	i386) cc=i686-linux-gnu-gcc ld=i686-linux-gnu-ld kernel="$kernel -mgeneral-regs-only" ;;
	# atomics in place: a kernel has no library that looks which ones this CPU has
	aarch64) cc="aarch64-linux-gnu-gcc -mno-outline-atomics" ld=aarch64-linux-gnu-ld kernel="$kernel -mgeneral-regs-only" ;;
	riscv64) cc=riscv64-linux-gnu-gcc ld=riscv64-linux-gnu-ld ;;
	*) echo "cross.sh: no machine \"$machine\"" >&2; return 2 ;;
	esac
	for level in -O0 -O1 -O2 -O3 -Os; do
		passes "freestanding, $level, needs nothing" needs_nothing $level
	done
	passes "the digest builds" links digest tests/line/digest.c &&
		passes "the digest is the same" computes_the_same digest
	passes "the digest builds without __int128" links digest-halves tests/line/digest.c -DPVCLOCK_NO_INT128 &&
		passes "the digest without __int128 is the same" computes_the_same digest-halves
	passes "the page's test" test_here page_test tests/page/page_test.c
	# these three bring their own copy of some of the sources
	passes "every order of a page's stores" test_here order_test tests/page/order_test.c -Wl,-z,muldefs
	passes "every order of a write and a reading" test_here clocks_order_test tests/guest/clocks_order_test.c -Wl,-z,muldefs
	passes "what is ready for readers" test_here clocks_ready_test tests/guest/clocks_ready_test.c -Wl,-z,muldefs
	passes "the reader's test" test_here clock_test tests/guest/clock_test.c
	# its oracle has 128 bits
	[ "$machine" = i386 ] || passes "all clocks' test" test_here clocks_test tests/guest/clocks_test.c
	# an emulator reads the time of riscv64 by a bare rdtsc, and the torture sees what the fence before it is for: as it does
	# here with the lfence taken out
	if [ "$machine" = riscv64 ] && [ -n "$run" ]; then
		echo "skipped $machine: all clocks' torture: the emulator does not keep the counter behind the loads before it"
	else
		passes "all clocks' torture" test_here clocks_torture tests/guest/clocks_torture.c
	fi
	echo "$checks $failed" >"$dir/counts"
}

# two at a time, and told one after the other
beside=
for machine; do
	on "$machine" >"$work/$machine.log" 2>&1 &
	[ -z "$beside" ] || { wait; beside=; continue; }
	beside=$!
done
wait
for machine; do
	cat "$work/$machine.log"
	read -r some broken <"$work/$machine/counts" || broken=1 some=0
	checks=$((checks + some))
	[ "$broken" = 0 ] || failed=1
done
echo "$checks checks, $([ $failed = 0 ] && echo "none" || echo "some") failed"
exit $failed
