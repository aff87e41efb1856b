#!/bin/sh
# SPDX-License-Identifier: MIT
# example - what examples/ shows: the small VMM runs the small guest, whose sleeps are never short.
export ASAN_OPTIONS=detect_leaks=0 # it ends with its process
examples=$(dirname "$0")/../../examples
[ -w /dev/kvm ] || { echo "1..0 # SKIP no /dev/kvm"; exit 77; }
said=$(timeout 120 "$examples/example-vmm" "$examples/example-guest.elf") || { echo "not ok 1 - it ended with $?: $said"; exit 1; }
echo "$said" | awk '
	{ mono = $5 }
	mono < (NR == 1 ? 0 : last) + 1e8 { print "# line " NR ": " mono - last " ns after the one before"; short++ }
	{ last = mono }
	END {
		print (NR == 10 && !short ? "ok" : "not ok") " 1 - P5 examples: ten sleeps of 100 ms, " short + 0 " of them short, of " NR
		exit NR != 10 || short
	}'
