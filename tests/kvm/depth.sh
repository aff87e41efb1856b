#!/bin/sh
# SPDX-License-Identifier: MIT
# depth - a guest of pvclock-vmm reads in CPUID how deep it is nested: one more than this machine's own depth, or 0 where nobody said
# that. Run on a machine that is no guest it shows the number; elsewhere, that none is made up.
build=$(dirname "$0")/../..
pvclock=$build/tools/pvclock/pvclock vmm=$build/vmm/pvclock-vmm
[ -w /dev/kvm ] || { echo "1..0 # SKIP no /dev/kvm"; exit 77; }
code=$(mktemp) || exit 1
trap 'rm -f "$code"' EXIT
host=$("$pvclock" host)
echo "$host" | grep -q '^mode  *own' || { echo "1..0 # SKIP no own mode here, and without it nothing is offered"; exit 77; }
case $(echo "$host" | sed -n 's/^nesting *//p') in
"at least"*) expected=0 ;;
*) expected=$(($(echo "$host" | sed -n 's/^nesting *\([0-9]*\) deep.*/\1/p') + 1)) ;;
esac
# mov $0x40000101, %eax; cpuid; cmp $1, %ebx (the version); je 1f; mov $-1, %ecx; 1: add $64, %ecx; mov %ecx, %eax; out %al, $0xf4; hlt
printf '\270\001\001\000\100\017\242\203\373\001\164\005\271\377\377\377\377\203\301\100\211\310\346\364\364' >"$code"
timeout 60 "$vmm" --mode own "$code" 2>/dev/null
depth=$(($? - 64))
if [ $depth -eq $expected ]; then
	echo "ok 1 - the guest reads depth $depth"
else
	echo "not ok 1 - the guest reads depth $depth, and not $expected (-1: no such leaf; below that: it did not run)"
	exit 1
fi
