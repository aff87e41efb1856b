#!/bin/sh
# SPDX-License-Identifier: MIT
# image.sh BUILD - packs BUILD/lab/host.cpio and guest.cpio, the initramfs of the lab's host and of its guests,
# from what fetch.sh unpacked, our init scripts, and pvclock-probe where it is built; and nested.cpio, of a guest that is a host and
# has no shares: QEMU, the preload, and a guest's image are in it. Does nothing where nothing changed.
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
kvm="irqbypass kvm ccp kvm-amd msr"

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
	archive
}

archive() { # what is in $temp becomes $image
	(cd "$temp" && find . | "$busybox" cpio -o -H newc 2>/dev/null) >"$temp.cpio"
	mv "$temp.cpio" "$image"
	rm -rf "$temp"
}

# What of the root file system QEMU and our programs need, as the share `p` has it, behind the guest's own image: the kernel unpacks both.
pack_nested() {
	image=$lab/nested.cpio
	programs="tools/pvclock/pvclock tools/preload/libpvclock-preload.so"
	release=$(cd "$lab/../release" && pwd)
	fresh "$image" "$0" "$lab/fetched" "$lab/guest.cpio" "$here/nested-host.sh" $(printf "$release/%s\n" $programs) && return
	temp=$(mktemp -d "$lab/image.XXXXXX")
	trap 'rm -rf "$temp"' EXIT
	root=$temp/mnt/p/lab/root
	libraries=usr/lib/x86_64-linux-gnu
	mkdir -p "$root/usr/bin" "$root/$libraries" "$root/usr/lib64" "$root/etc" "$temp/mnt/out" "$temp/mnt/p/lab/kernel/boot"
	for directory in dev proc sys tmp run out p lab root var/tmp usr/local usr/sbin usr/share; do
		mkdir -p "$root/$directory"
	done
	for name in bin sbin lib lib64; do
		ln -s "usr/$name" "$root/$name"
	done
	cp "$lab/root/usr/bin/busybox" "$lab/root/usr/bin/qemu-system-x86_64" "$root/usr/bin"
	for applet in sh tail echo cat grep sleep mount; do
		ln -s busybox "$root/usr/bin/$applet"
	done
	for name in qemu/kvmvapic.bin qemu/pvh.bin seabios/bios-256k.bin; do
		mkdir -p "$root/usr/share/${name%/*}"
		cp "$lab/root/usr/share/$name" "$root/usr/share/$name"
	done
	for program in $programs; do
		mkdir -p "$temp/mnt/p/release/${program%/*}"
		cp "$release/$program" "$temp/mnt/p/release/$program"
	done
	loader=$lab/root/$libraries/ld-linux-x86-64.so.2
	cp -L "$loader" "$root/$libraries" && ln -s "../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" "$root/usr/lib64"
	for program in "$lab/root/usr/bin/qemu-system-x86_64" $(printf "$release/%s\n" $programs); do
		"$loader" --library-path "$lab/root/$libraries" --list "$program"
	done | sed -n "s|.*=> $lab/root/$libraries/\([^ ]*\) .*|\1|p" | sort -u | while read -r name; do
		cp -L "$lab/root/$libraries/$name" "$root/$libraries"
	done
	cp "$lab/kernel/boot/linux" "$temp/mnt/p/lab/kernel/boot"
	cp "$lab/guest.cpio" "$temp/mnt/p/lab"
	cp "$here/nested-host.sh" "$root/nested-host.sh"
	archive
	cat "$lab/guest.cpio" "$image" >"$image.new"
	mv "$image.new" "$image"
}

[ -f "$probe" ] || probe=
pack "$lab/host.cpio" "$here/host-init"
pack "$lab/guest.cpio" "$here/guest-init" "$here/host-init" $probe
[ -z "$probe" ] || pack_nested
