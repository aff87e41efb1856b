#!/bin/sh
# SPDX-License-Identifier: MIT
# nested-host.sh CLOCK [PARENT] - runs in a guest that is a host, and can be moved while it is: it has no shares, all is in its image. Its own
# guest's probe answers on this machine's second serial line. What its QEMU and its preload say is on the first one.
#
# CLOCK: stock, steer or own. PARENT: PVCLOCK_PARENT for the preload.
set -u
clock=$1
[ $# -lt 2 ] || export PVCLOCK_PARENT="$2"
# How far its guest's counter is ahead of its own, which no clock tells.
tell_offset() {
	mount -t debugfs none /sys/kernel/debug
	until grep -q "guest is up" /tmp/console; do sleep 1; done
	echo "lab: tsc-offset $(cat /sys/kernel/debug/kvm/*/vcpu0/tsc-offset)"
}
tell_offset >/dev/ttyS0 2>/dev/null &
run=
[ "$clock" = stock ] || run="/p/release/tools/pvclock/pvclock run --mode $clock --log /dev/ttyS0 --"
$run qemu-system-x86_64 -nodefaults -no-user-config -M q35,hpet=off -accel kvm -cpu host -m 128 -display none \
	-kernel /lab/kernel/boot/linux -initrd /lab/guest.cpio -append "console=ttyS0 panic=-1 quiet pci=lastbus=0 pvclock.probe=ttyS1" \
	-serial file:/tmp/console -serial /dev/ttyS1 >/dev/ttyS0 2>&1
echo "lab: this guest's QEMU ended: $?; its guest's last words:"
tail -n 5 /tmp/console
