#!/bin/sh
# SPDX-License-Identifier: MIT
# image.sh BUILD - packs BUILD/lab/host.cpio.gz and guest.cpio.gz, the initramfs of the lab's host and of its guests,
# from what fetch.sh unpacked, our init scripts, and pvclock-probe where it is built. Does nothing where nothing changed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
lab=$(cd "$1" && pwd)/lab
probe=$1/release/tools/probe/pvclock-probe
busybox=$lab/root/bin/busybox
[ -f "$lab/fetched" ] || { echo "image.sh: nothing is unpacked in $lab; run lab/fetch.sh $1 first." >&2; exit 1; }

# In the order in which they can be loaded. What a kernel has built in is not among its files, and is not missed.
virtio="virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci"
net="failover net_failover virtio_net"
share="netfs fscache 9pnet 9pnet_virtio 9p"
kvm="irqbypass kvm ccp kvm-amd"

fresh() { # IMAGE INPUTS...: none is newer
	image=$1
	shift
	for input; do
		[ "$input" -nt "$image" ] && return 1
	done
	[ -f "$image" ]
}

pack() { # IMAGE INIT FILES...
	image=$1
	shift
	fresh "$image" "$0" "$lab/fetched" "$@" && return
	temp=$(mktemp -d "$lab/image.XXXXXX")
	trap 'rm -rf "$temp"' EXIT
	mkdir -p "$temp/bin" "$temp/modules" "$temp/proc" "$temp/sys" "$temp/dev" "$temp/tmp" "$temp/mnt"
	cp "$busybox" "$temp/bin"
	ln -s busybox "$temp/bin/sh"
	cp "$1" "$temp/init"
	shift
	[ $# = 0 ] || cp "$@" "$temp"
	number=10
	for name in $virtio $net $share $kvm; do
		file=$(find "$lab/kernel" -name "$name.ko*")
		[ -n "$file" ] || continue
		number=$((number + 1))
		case $file in
		*.xz) "$busybox" unxz -c "$file" >"$temp/modules/$number-$name.ko" ;;
		*) cp "$file" "$temp/modules/$number-$name.ko" ;;
		esac
	done
	chmod 755 "$temp/init"
	(cd "$temp" && find . | "$busybox" cpio -o -H newc 2>/dev/null) | gzip -1 >"$temp.gz"
	mv "$temp.gz" "$image"
	rm -rf "$temp"
}

[ -f "$probe" ] || probe=
pack "$lab/host.cpio.gz" "$here/host-init"
pack "$lab/guest.cpio.gz" "$here/guest-init" "$here/host-init" $probe
