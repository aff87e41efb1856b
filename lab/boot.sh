#!/bin/sh
# SPDX-License-Identifier: MIT
# boot.sh [options] -- COMMAND... - boots Debian's own kernel as a KVM host on an emulated CPU, runs COMMAND in it, and ends as it ends.
# The console is shown and kept in out/lab/NAME.log. /p in there is the build folder $BUILD, and /out is out/lab. Needs no root.
#
#   --name NAME               of this host and of its log (host)
#   --timeout S               QEMU is killed then, whatever happens; exit status 124 (300)
#   --cpus N, --memory MB     (2, 3072)
#   --pace X                  this host's seconds per second: its TSC has an Xth of the rate of the others' (1; lab/pace.c)
#   --link listen|connect P   a network to one other host through the unix socket P: 10.0.0.1 for listen, 10.0.0.2 for connect
#   --local                   on copies of the shares: a host that is to sleep; what is in /out is there when it ends
#   --clock NAME              the host's clocksource (tsc)
#   --append WORDS            for the kernel's command line
set -eu
here=$(cd "$(dirname "$0")" && pwd)
usage() {
	sed -n '/^# boot.sh/,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
	[ $# = 0 ] || echo "boot.sh: $*" >&2
	exit 2
}
name=host timeout=300 cpus=2 memory=3072 pace=1 link= socket= clock=tsc append= local=
while [ $# -gt 0 ]; do
	case $1 in
	--) shift; break ;;
	--local) local=lab.local; shift; continue ;;
	--link) [ $# -gt 2 ] || usage "--link wants listen or connect, and a path."; link=$2 socket=$3; shift 3; continue ;;
	--name | --timeout | --cpus | --memory | --pace | --clock | --append) [ $# -gt 1 ] || usage "$1 wants a value."; eval "${1#--}=\$2"; shift 2 ;;
	*) usage "no option $1." ;;
	esac
done
[ $# -gt 0 ] || usage "no command; write it after --."
for number in "$timeout" "$cpus" "$memory"; do
	case $number in
	'' | 0* | *[!0-9]*) usage "\"$number\" is no number above 0." ;;
	esac
done

build=${BUILD:-$here/../build}
mkdir -p "$build" "$here/../out/lab"
build=$(cd "$build" && pwd) out=$(cd "$here/../out/lab" && pwd)
lab=$build/lab
"$here/fetch.sh" "$build"
"$here/image.sh" "$build"

job=$(mktemp -d)
qemu=
stop() {
	trap '' INT TERM HUP
	[ -z "$qemu" ] || { kill "$qemu" 2>/dev/null || :; wait "$qemu" 2>/dev/null || :; }
	[ "$link" != listen ] || rm -f "$socket"
	rm -rf "$job"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# the words of COMMAND, quoted for the shell in there
for word; do
	printf "'%s' " "$(printf %s "$word" | sed "s/'/'\\\\''/g")"
done >"$job/command"

safe=$("$here/qemu.sh" "$build" --cpus-safe)
[ "$cpus" -le "$safe" ] || { echo "lab $name: $safe CPU instead of $cpus: this QEMU is too old for more (see lab/qemu.sh)." >&2; cpus=$safe; }
case $clock in
tsc) append="tsc=reliable $append" ;;
*) append="clocksource=$clock $append" ;;
esac
case $link in
'') network= ;;
listen)
	rm -f "$socket"
	network="server=on" address=10.0.0.1 ;;
connect)
	tries=0
	until [ -S "$socket" ]; do
		[ $tries -lt 300 ] || { echo "lab $name: nobody listens on $socket after 30 s; boot the other host with --link listen $socket." >&2; exit 1; }
		sleep 0.1
		tries=$((tries + 1))
	done
	network="server=off" address=10.0.0.2 ;;
*) usage "--link is listen or connect, not $link." ;;
esac
if [ -n "$network" ]; then
	echo $address >"$job/address"
	network="-netdev stream,id=link,$network,addr.type=unix,addr.path=$socket -device virtio-net-pci,netdev=link,romfile=,mac=52:54:00:00:00:0${address##*.}"
fi

kernel=$(echo "$lab"/kernel/boot/vmlinuz-*) # the packed one: one that was entered as PVH does not come back from S3
# one file, since many small ones take a share a minute
[ -z "$local" ] || (cd "$build" && tar -c -f "$job/local.tar" --exclude '*.p' --exclude '*.a' --exclude '*.fd' --transform 's,^,p/,S' \
	release lab/root lab/kernel/boot lab/guest.cpio lab/host.cpio)

share() { echo "-virtfs local,mount_tag=$1,path=$2,security_model=none,multidevs=remap${3-}"; }
# `timeout` outlives this script: even if that is killed, QEMU ends. no_timer_check: on a busy machine an emulated timer's first interrupts
# come too late for the kernel, which then panics
LAB_PACE=$pace timeout -k 3 "$timeout" "$here/qemu.sh" "$build" -nodefaults -no-user-config -M q35 -accel tcg,thread=multi,tb-size=512 -cpu EPYC,+svm,+npt -smp $cpus -m $memory \
	-kernel "$kernel" -initrd "$lab/host.cpio" \
	-append "console=ttyS0 quiet loglevel=3 panic=-1 no_timer_check lab.clock=$clock $local $append" -no-reboot -display none \
	-chardev stdio,id=console,signal=off,logfile="$out/$name.log" -serial chardev:console \
	-monitor "unix:$job/monitor,server=on,wait=off" \
	$(share p "$build" ,readonly=on) $(share out "$out") $(share job "$job") $network </dev/null 2>"$job/stderr" &
qemu=$!
wait $qemu && ended=0 || ended=$?
qemu=
if [ -s "$job/status" ]; then
	read -r status begin end <"$job/status"
	exit "$status"
fi
case $ended in
124 | 137) echo "lab $name: not done after $timeout s; the console's last lines:" >&2; status=124 ;;
*) echo "lab $name: the host died (QEMU's status $ended); the console's last lines:" >&2; status=125 ;;
esac
{
	grep -v 'TCG doesn.t support requested feature' "$job/stderr" || : # it is told every time, of every CPU
	tail -n 15 "$out/$name.log" | tr -d '\r'
} | sed 's/^/  /' >&2
exit $status
