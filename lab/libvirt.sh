#!/bin/sh
# SPDX-License-Identifier: MIT
# libvirt.sh BUILD [CASE]... - what docs/qemu.md says of libvirt, done: with Debian's libvirt and AppArmor in an emulated host, on what
# `make install` installs. A line for each way and event; fails if a clock of ours moved by more than 1 ns. Logs in out/lab/libvirt.
# CASE: stock, wrapper, environment (all; three minutes each on two busy CPUs). LAB_SECONDS: the limit (900).
set -eu
cd "$(dirname "$0")/.."
build=$1
shift
export BUILD="$build"
scripts/build.sh "$build/release" -Dtests=false
lab/fetch.sh "$build" libvirt
lab/image.sh "$build"
installed=$(cd "$build/lab" && pwd)/installed
rm -rf "$installed"
meson configure "$build/release" -Dprefix=/usr/local
DESTDIR=$installed meson install -C "$build/release" --quiet >/dev/null
lab/libraries.sh "$build" "$installed/usr/local/bin/pvclock"
cp lab/libvirt-host.sh docs/qemu.md "$installed"
rm -rf out/lab/libvirt
lab/boot.sh --name libvirt --timeout "${LAB_SECONDS:-900}" -- /bin/sh /lab/installed/libvirt-host.sh "$@"
