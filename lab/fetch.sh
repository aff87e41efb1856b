#!/bin/sh
# SPDX-License-Identifier: MIT
# fetch.sh BUILD [libvirt] - unpacks Debian's QEMU, busybox and kernel below BUILD/lab/root and BUILD/lab/kernel, once.
# With libvirt, also libvirt and AppArmor.
# Installs nothing and needs no root: apt-get gets a state of its own, in which no package is installed.
#
# BUILD/lab/emulator is the QEMU that emulates the lab's host: Debian's too, from trixie's backports where this machine's own release has none
# from 10.2 on, or at least from its own backports (why: lab/qemu.sh).
set -eu
"$(dirname "$0")/../scripts/deps.sh" lab
mkdir -p "$1/lab"
lab=$(cd "$1/lab" && pwd)
packages="qemu-system-x86 qemu-utils busybox-static libjansson4 chrony xz-utils" # what they depend on comes by itself
kernel=linux-image-amd64
case ${2-} in
libvirt) packages="$packages libvirt-daemon-system libvirt-clients apparmor dash" ;;
esac

exec 9>"$lab/.lock"
flock 9 # two of us at once: the second one finds the work done
wanted="emulator 10.2 $packages"
case $(cat "$lab/fetched" 2>/dev/null || :) in
"$wanted"*) exit 0 ;; # also where more than this was asked for before
esac

temp=$(mktemp -d "$lab/fetch.XXXXXX")
trap 'rm -rf "$temp"' EXIT
trap 'exit 1' INT TERM HUP
log=$temp/log
die() {
	echo "The lab's packages could not be had: $1" >&2
	tail -n 3 "$log" | sed 's/^/  /' >&2
	echo "It needs a Debian (amd64) that reaches the archives in its sources.list; or copy the folder $lab from a machine that has it." >&2
	exit 1
}

# the machine's own sources, keys and proxies; everything that apt writes is ours
apt() { # PROGRAM ARGUMENTS...
	program=$1
	shift
	"$program" -q -o Dir::State="$temp/state" -o Dir::State::status="$temp/state/status" -o Dir::Cache="$temp/cache" \
		-o Dir::Etc::SourceParts="$temp/sources" -o APT::Sandbox::User=root -o APT::Install-Recommends=false \
		-o APT::Architecture=amd64 -o Debug::NoLocking=true -o Acquire::Retries=2 -o Acquire::http::Timeout=20 "$@" \
		2>>"$log" 9>&-
}
# unpack DIRECTORY PACKAGES...: with all that they depend on, as a root file system. False: cannot be had.
unpack() {
	directory=$1
	shift
	apt apt-get install -y --download-only "$@" >>"$log" || return
	# merged /usr, as Debian has it: the packages unpack through these links (dpkg -x would put directories in their place)
	for name in bin sbin lib lib64; do
		mkdir -p "$directory/usr/$name"
		ln -s "usr/$name" "$directory/$name"
	done
	for deb in "$temp"/cache/archives/*.deb; do
		dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$directory" 2>>"$log" || return
		rm "$deb"
	done
}

mkdir -p "$temp/state/lists/partial" "$temp/cache/archives/partial" "$temp/sources" "$temp/image" "$temp/kernel"
: >"$temp/state/status"
: >"$log"
command -v apt-get >/dev/null || die "there is no apt-get here."
ln -s /etc/apt/sources.list.d/* "$temp/sources" 2>/dev/null || :
echo "lab: fetching $packages $kernel (150 MB, once)" >&2
apt apt-get update >>"$log" || : # a foreign source that does not answer is nothing to us: the next line decides
unpack "$temp/root" $packages || die "there is no way to $packages."

image=$(apt apt-cache depends $kernel | sed -n 's/^ *Depends: *\(linux-image-[^ ]*\).*/\1/p' | head -n 1)
[ -n "$image" ] || die "no package $kernel is known."
(cd "$temp/image" && apt apt-get download "$image" >>"$log") || die "the download of $image failed."
dpkg-deb -x "$temp"/image/*.deb "$temp/kernel" || die "$image does not unpack."

# The emulator's own release: the first that can be had. apt's pick among the sources known by then is the newest version.
version=$(apt apt-cache show --no-all-versions qemu-system-x86 | sed -n 's/^Version: //p')
if dpkg --compare-versions "$version" lt 1:10.2; then
	key=/usr/share/keyrings/debian-archive-keyring.gpg
	[ -f $key ] && key="[signed-by=$key]" || key=
	apt apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(ORIGIN)' 'Created-By: Packages' |
		awk '$3 == "Debian" && $2 !~ /-/ { print $1, $2; exit }' >"$temp/here"
	read -r uri codename <"$temp/here" || :
	for release in trixie "$codename"; do
		printf "deb $key $uri %s main\n" "$release" "$release-backports" >"$temp/sources/emulator.list"
		apt apt-get update >>"$log" || :
		unpack "$temp/emulator" -t "$release-backports" qemu-system-x86 && break
		rm -rf "$temp/emulator" "$temp"/cache/archives/*.deb
	done
	[ -d "$temp/emulator" ] || echo "lab: no backports with a later QEMU can be had; the lab's hosts get one CPU, see lab/qemu.sh" >&2
fi
[ -d "$temp/emulator" ] || ln -s root "$temp/emulator"

# what a chroot needs beyond packages: mount points, a shell, and the files that maintainer scripts would have made
cd "$temp/root"
mkdir -p dev proc sys tmp run out p lab root etc var/tmp usr/local
for applet in $(bin/busybox --list); do
	[ -e "usr/bin/$applet" ] || [ -e "usr/sbin/$applet" ] || ln -s busybox "usr/bin/$applet"
done
echo 'root:x:0:0:root:/root:/bin/sh' >etc/passwd
echo 'root:x:0:' >etc/group

# The kernel is booted by its PVH entry, as it lies in the package but unpacked: its unpacker takes an emulated CPU longer than all the rest of a boot.
# Documentation/x86/boot.rst: setup_sects at 0x1f1, payload_offset and payload_length at 0x248; the payload ends with its size in 4 bytes.
bzimage=$(echo "$temp"/kernel/boot/vmlinuz-*)
sectors=$(od -An -tu1 -j 497 -N 1 "$bzimage")
od -An -tu4 -j 584 -N 8 "$bzimage" >"$temp/payload"
read -r offset length <"$temp/payload"
libraries=$temp/root/usr/lib/x86_64-linux-gnu
if ! tail -c +$(((sectors + 1) * 512 + offset + 1)) "$bzimage" | head -c $((length - 4)) |
	"$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "$temp/root/usr/bin/xz" -dc >"$temp/kernel/boot/linux" 2>>"$log"; then
	cp "$bzimage" "$temp/kernel/boot/linux" # another kind of payload: the kernel can do it
fi

cd "$lab"
rm -rf fetched root kernel emulator
mv "$temp/root" "$temp/kernel" "$temp/emulator" .
echo "$wanted, $image" >"$temp/fetched"
mv "$temp/fetched" fetched
