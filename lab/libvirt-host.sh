#!/bin/sh
# SPDX-License-Identifier: MIT
# libvirt-host.sh [CASE]... - in the lab's host: Debian's libvirt, with AppArmor as Debian has it, starts a guest without pvclock, and
# in each of the two ways of docs/qemu.md, with the lines that stand there. Each is suspended and resumed, saved and restored. Begun by
# lab/libvirt.sh.
set -u
export LANG=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
logs=/out/libvirt
boot=/var/lib/libvirt/boot
page=/lab/installed/qemu.md
failed=0

complain() { # SENTENCE
	echo "libvirt: $*" >&2
	failed=1
}

# AppArmor knows files by their path from the root of all mounts, and to it a chroot is a folder: become what is mounted at /.
if [ "${1-}" != at-root ]; then
	exec chroot /proc/1/root /bin/busybox unshare -m /bin/busybox sh -c "
		mkdir -p /at-root && mount -o rbind /mnt/p/lab/root /at-root && cd /at-root && mount -o move . / &&
		exec chroot . /bin/sh '$0' at-root $*"
fi
shift

# --- a Debian, as far as libvirt asks for one --------------------------------------------------------

writable() { # DIRECTORY [ORIGIN]: a copy that can be changed
	mkdir -p "/run/writable$1"
	cp -a "${2-$1}/." "/run/writable$1"
	mount --bind "/run/writable$1" "$1"
}

# The indented lines that follow where docs/qemu.md first names this file; nothing where it does not.
documented() { # FILE
	awk -v file="\`$1\`" '
		index($0, file) { found = 1 }
		found && /^    / { sub(/^    /, ""); print; begun = 1; next }
		begun { exit }' $page
}

prepare() {
	writable /etc
	writable /var
	ln -sfn /run /var/run
	writable /usr/local /lab/installed/usr/local
	documented /usr/local/bin/qemu-pvclock >/usr/local/bin/qemu-pvclock
	chmod 755 /usr/local/bin/qemu-pvclock
	mount -t securityfs securityfs /sys/kernel/security
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	cat >>/etc/passwd <<-END
		nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
		libvirt-qemu:x:64055:104:Libvirt Qemu:/var/lib/libvirt:/usr/sbin/nologin
	END
	cat >>/etc/group <<-END
		tty:x:5:
		nogroup:x:65534:
		kvm:x:104:
		libvirt:x:105:
		libvirt-qemu:x:64055:libvirt-qemu
	END
	echo "127.0.0.1 localhost $(hostname)" >/etc/hosts
	echo 5d1f0a52c7d24bb8a0e3f9a9d7c1b2e3 >/etc/machine-id
	chown root:kvm /dev/kvm
	chmod 660 /dev/kvm
	chown -R libvirt-qemu:kvm /var/lib/libvirt/qemu
	cat >>/etc/libvirt/libvirtd.conf <<-END
		auth_unix_ro = "none" # there is no polkit; all else is as Debian has it
		auth_unix_rw = "none"
		host_uuid = "5d1f0a52-c7d2-4bb8-a0e3-f9a9d7c1b2e3"
		log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
	END
	for profile in usr.sbin.libvirtd usr.lib.libvirt.virt-aa-helper abstractions/libvirt-qemu; do
		mkdir -p "$(dirname "/etc/apparmor.d/local/$profile")"
		documented "/etc/apparmor.d/local/$profile" >"/etc/apparmor.d/local/$profile"
	done
	mkdir -p "$logs" "$boot" /var/log/libvirt/pvclock /run/probe
	chown libvirt-qemu /var/log/libvirt/pvclock
	cp /lab/kernel/boot/vmlinuz-* "$boot/vmlinuz"
	cp /lab/guest.cpio "$boot/initrd"
}

start_libvirt() {
	apparmor_parser -r /etc/apparmor.d/usr.sbin.libvirtd /etc/apparmor.d/usr.lib.libvirt.virt-aa-helper
	virtlogd -d && libvirtd -d || return
	for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		[ ! -S /run/libvirt/libvirt-sock ] || virsh -q list >/dev/null 2>&1 && return
		sleep 0.5
	done
	false
}

# --- the guest, and the probe in it -------------------------------------------------------------------

domain() { # NAME EMULATOR VARIABLES: with those of the page's <qemu:env> that are called so (a|b|c)
	cat <<-END
		<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
		  <name>$1</name>
		  <memory unit='MiB'>256</memory>
		  <vcpu>2</vcpu>
		  <os>
		    <type arch='x86_64' machine='q35'>hvm</type>
		    <kernel>$boot/vmlinuz</kernel>
		    <initrd>$boot/initrd</initrd>
		    <cmdline>console=ttyS0 panic=-1 quiet pvclock.probe=ttyS1</cmdline>
		  </os>
		  <features><acpi/><apic/></features>
		  <cpu mode='host-passthrough'/>
		  <clock offset='utc'><timer name='hpet' present='no'/></clock>
		  <devices>
		    <emulator>$2</emulator>
		    <serial type='file'><source path='/var/log/libvirt/qemu/$1.console'/></serial>
		    <serial type='pipe'><source path='/run/probe/$1'/><target port='1'/></serial>
		    <controller type='usb' model='none'/>
		    <memballoon model='none'/>
		  </devices>
		  <qemu:commandline>
	END
	sed -nE "/^ *<qemu:env name='($3)'/{s/NAME/$1/;p;}" $page
	echo '</qemu:commandline></domain>'
}

# Descriptor 3 goes to the probe in the guest; all that it ever said is in $said. Both outlive the guest's QEMUs.
meet_probe() { # NAME
	said=/run/probe/$1.said
	mkfifo "/run/probe/$1.in" "/run/probe/$1.out"
	exec 3<>"/run/probe/$1.in" 4<>"/run/probe/$1.out"
	cat <&4 >"$said" 3>&- &
	listener=$!
}

part_probe() {
	kill $listener
	wait $listener 2>/dev/null
	exec 3>&- 4>&-
	cp "$said" "$logs"
}

heard() { # PATTERN: waits for such a line, and puts it in $line
	tries=0
	until line=$(head -n "$(wc -l <"$said")" "$said" | grep -m 1 "$1"); do # not one that is still being written
		[ $tries -lt 240 ] || return
		sleep 0.5
		tries=$((tries + 1))
	done
}

ask() { # COMMAND [EVENT]
	echo "$*" >&3
	heard "\"$1\":${2:+\"$2\"}" || { complain "$name: the probe does not answer \"$*\"."; false; }
}

number() { # KEY of $line
	echo "$line" | sed -n "s/.*\"$1\": *\(-\{0,1\}[0-9]*\).*/\1/p"
}

# --- what happens to it -------------------------------------------------------------------------------

quietly() {
	"$@" >/run/answer 2>&1 || { complain "$name: $*: $(grep . /run/answer | head -n 1)"; false; }
}

suspend_resume() {
	quietly virsh suspend "$name" && sleep 1 && quietly virsh resume "$name"
}

save_restore() {
	quietly virsh save "$name" /var/lib/libvirt/qemu/save/lab && sleep 1 && quietly virsh restore /var/lib/libvirt/qemu/save/lab
}

row() { printf '%-14s %-6s %-12s %7s %15s %10s %7s\n' "$@"; }

# The largest jump and all steps back of so many events. A clock of ours may not move by more than 1 ns; KVM's own must be seen to
# move, or this measures nothing.
events() { # SCENARIO COUNT ACTION
	jump=0 backwards=0 stable=yes count=0
	while [ $count -lt "$2" ]; do
		ask begin "$1-$count" && "$3" && ask end "$1-$count" || break
		is=$(number page_jump_ns) within=$(number backwards_within) between=$(number backwards_between)
		[ -n "$is" ] && [ -n "$within" ] && [ -n "$between" ] || { complain "$name: no figures in $line"; break; }
		[ "${is#-}" -le "${jump#-}" ] || jump=$is
		backwards=$((backwards + within + between))
		case $line in *'"stable":true'*) ;; *) stable=no ;; esac
		count=$((count + 1))
	done
	row "$1" "$who" "$by" $count "$jump" $backwards $stable
	[ $count = "$2" ] || complain "$name: $1: $count events of $2."
	case $who in
	own) [ "${jump#-}" -le 1 ] && [ $backwards = 0 ] && [ $stable = yes ] || complain "$name: $1: the clock was not kept." ;;
	stock) [ "${jump#-}" -gt 1000 ] || complain "$name: $1: KVM's own clock was not seen to move." ;;
	esac
}

# Own mode in each QEMU that the guest had, and nobody said that it is not.
check_mode() {
	[ "$(grep -c '"event":"attach","mode":"own"' "/var/log/libvirt/pvclock/$name.log")" = $((1 + $1)) ] ||
		complain "$name: not own mode in each of $((1 + $1)) QEMUs: $(grep -h '"attach"' "/var/log/libvirt/pvclock/$name.log")"
	! grep -E '^pvclock: |cannot be preloaded' "/var/log/libvirt/qemu/$name.log" >&2 || complain "$name: see above."
}

play() { # NAME WHO BY EMULATOR ENVIRONMENT SUSPENDS SAVES
	name=$1 who=$2 by=$3
	domain "$name" "$4" "$5" >"$logs/$name.xml"
	meet_probe "$name"
	if quietly virsh define "$logs/$name.xml" && quietly virsh start "$name"; then
		if heard '"ready":true' && ask hello; then
			events libvirt-pause "$6" suspend_resume
			events libvirt-save "$7" save_restore
			[ "$who" = stock ] || check_mode "$7"
		else
			complain "$name: the guest's probe does not answer."
		fi
		virsh -q destroy "$name" >/dev/null 2>&1
	fi
	part_probe
	cp "/var/log/libvirt/qemu/$name".* "$logs"
	[ "$who" = stock ] || cp "/var/log/libvirt/pvclock/$name.log" "$logs/$name.preload"
}

prepare
if start_libvirt && grep -q enforce "/proc/$(cat /run/libvirtd.pid)/attr/current"; then
	row scenario who by events jump_ns_max backwards stable
	for case in ${*:-stock wrapper environment}; do
		case $case in
		stock) play stock stock - /usr/bin/qemu-system-x86_64 none 1 1 ;;
		wrapper) play wrapper own wrapper /usr/local/bin/qemu-pvclock PVCLOCK_LOG 3 2 ;;
		environment) play environment own environment /usr/bin/qemu-system-x86_64 'LD_PRELOAD|PVCLOCK_MODE|PVCLOCK_LOG' 3 2 ;;
		*) complain "there is no case $case; there are stock, wrapper, environment." ;;
		esac
	done
else
	complain "libvirtd does not start, or AppArmor does not confine it."
fi
cp /var/log/libvirt/libvirtd.log "$logs"
dmesg | grep 'apparmor="DENIED"' >"$logs/denied"
[ $failed = 0 ] || cat "$logs/denied" >&2
exit $failed
