#!/bin/sh
# SPDX-License-Identifier: MIT
# native.sh BUILD - succeeds if this machine's own KVM boots a Linux guest in useful time; says in one line what it found.
# A KVM that is itself software may run small guests well and yet be too slow for Linux. Asked once; BUILD/lab/native has the answer.
set -eu
limit=8 # s: a CPU that virtualizes needs 1, an emulated one some 10, and what hangs hangs
here=$(dirname "$0")
lab=$1/lab
if [ ! -f "$lab/native" ]; then
	if [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
		echo "no: there is no /dev/kvm that this user may use" >"$lab/native"
	else
		console=$(mktemp)
		trap 'rm -f "$console"' EXIT
		timeout -k 1 $limit "$here/qemu.sh" "$1" -nodefaults -no-user-config -M q35 -accel kvm -cpu host -m 512 -display none -no-reboot \
			-kernel "$lab/kernel/boot/linux" -initrd "$lab/guest.cpio" -append "console=ttyS0 quiet panic=-1 pci=lastbus=0" \
			-serial stdio -serial null </dev/null >"$console" 2>&1 && status=0 || status=$?
		if grep -q '^lab: guest is up' "$console"; then
			echo "yes: /dev/kvm boots Linux" >"$lab/native"
		elif [ $status = 124 ]; then
			echo "no: Linux does not boot in $limit s on this machine's /dev/kvm" >"$lab/native"
		else
			echo "no: QEMU cannot use this machine's /dev/kvm: $(grep -a -m 1 ": " "$console" | cut -c1-160)" >"$lab/native"
		fi
	fi
fi
read -r answer reason <"$lab/native"
case $answer in
yes:) echo "lab: native: $reason" ;;
*) echo "lab: emulated: $reason" ;;
esac
[ "$answer" = yes: ]
