#!/bin/sh
# SPDX-License-Identifier: MIT
# deps.sh GROUP... - installs what is missing of Debian's packages for the groups: build, test, fuzz, docs, lab, cross.
# As root it asks apt-get; otherwise it prints the one line to run, and fails.
set -eu

packages() {
	case $1 in
	build) echo "gcc:gcc libc6-dev:/usr/include/stdio.h linux-libc-dev:/usr/include/linux/kvm.h meson:meson ninja-build:ninja pkg-config:pkg-config libjansson-dev:/usr/include/jansson.h" ;;
	test) echo "libcmocka-dev:/usr/include/cmocka.h libgmp-dev:/usr/include/x86_64-linux-gnu/gmp.h util-linux:setarch libsystemd-dev:/usr/include/systemd/sd-bus.h dbus-daemon:dbus-daemon" ;;
	fuzz) echo "clang:clang libclang-rt-14-dev:/usr/lib/llvm-14/lib/clang/14.0.6/lib/linux/libclang_rt.fuzzer-x86_64.a" ;;
	docs) echo "scdoc:scdoc mandoc:mandoc" ;;
	lab) echo "apt:apt-get util-linux:flock" ;; # with tar: on every Debian; the rest is unpacked, not installed
	cross) echo "gcc-i686-linux-gnu:i686-linux-gnu-gcc libc6-dev-i386-cross:/usr/i686-linux-gnu/include/stdio.h gcc-aarch64-linux-gnu:aarch64-linux-gnu-gcc libc6-dev-arm64-cross:/usr/aarch64-linux-gnu/include/stdio.h gcc-riscv64-linux-gnu:riscv64-linux-gnu-gcc libc6-dev-riscv64-cross:/usr/riscv64-linux-gnu/include/stdio.h qemu-user-static:qemu-aarch64-static" ;;
	*) echo "deps.sh: no group \"$1\"; there are build, test, fuzz, docs, lab, cross." >&2; exit 2 ;;
	esac
}

missing=
for group; do
	for entry in $(packages "$group"); do
		package=${entry%%:*} proof=${entry#*:}
		case $proof in
		/*) [ -e "$proof" ] || missing="$missing $package" ;;
		*) command -v "$proof" >/dev/null 2>&1 || missing="$missing $package" ;;
		esac
	done
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "pvclock needs these Debian packages; run:  sudo apt-get install -y$missing" >&2
	exit 1
fi
echo "installing:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
if ! apt-get install -y -q --no-install-recommends $missing >/tmp/pvclock-deps.log 2>&1; then
	apt-get update -q >>/tmp/pvclock-deps.log 2>&1
	apt-get install -y -q --no-install-recommends $missing >>/tmp/pvclock-deps.log 2>&1 || {
		tail -5 /tmp/pvclock-deps.log >&2
		echo "apt-get could not install:$missing (log: /tmp/pvclock-deps.log)" >&2
		exit 1
	}
fi
