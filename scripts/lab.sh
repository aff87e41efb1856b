#!/bin/sh
# SPDX-License-Identifier: MIT
# lab.sh BUILD [SCENARIOS [CLOCKS]]... - stock Linux guests on a stock QEMU, with KVM's clock and with pvclock's; rows in out/lab.json.
# On this machine's own KVM where Linux boots on it, else in emulated hosts, two or three at a time: one for what takes one guest, one for
# guests' guests and for those that move their host's clock, one that sleeps itself, and then two pairs: of different TSC rates, and of clocks that chronyd keeps.
#
# SCENARIOS: all (of which the two that take minutes are run in own mode alone), short, or names with commas (all);
# CLOCKS of stock, steer, own (all three). Several pairs share the hosts' boots. LAB_SECONDS: the limit for each host.
set -eu
cd "$(dirname "$0")/.."
build=$1 seconds=${LAB_SECONDS:-3000}
shift
export BUILD="$build"
driver=lab/drive/pvclock-lab # below build/release, /p/release in there
scripts/build.sh "$build/release" -Dtests=false
lab/fetch.sh "$build"
lab/libraries.sh "$build" "$build/release/$driver" "$build/release/tools/pvclock/pvclock" "$build/release/tools/preload/libpvclock-preload.so"
lab/image.sh "$build"
rm -rf out/lab/rows out/lab.json
mkdir -p out/lab/rows

native=no release=/p/release out=/out options="--slow ${PVCLOCK_SLOW:-2}" # in emulated hosts, of which two share this machine
! lab/native.sh "$build" || { native=yes release=$build/release out=out/lab options="--lab $build/lab"; }

# pick WORDS: those of the scenarios asked for that match (an extended regular expression), with commas
pick() { echo "$asked" | grep -Ex "$1" | paste -s -d , || :; }
all=$("$build/release/$driver" --list | sed 's/ .*//')
short=$("$build/release/$driver" --list | sed -n 's/ .*(short).*//p')
# ask SCENARIOS: sorts them by host
ask() {
	case $1 in
	all) asked=$all ;;
	short) asked=$short ;;
	*) asked=$(echo "$1" | tr , '\n') ;;
	esac
	linked=$(pick ".*-new-rate")
	long= nested=$(pick 'nested.*|hyperv-l1|snapshot-.*|migrate-clock-.*' | tr , '\n' | grep -v 'new-rate$' | paste -s -d , || :) chrony=$(pick two-hosts-chrony)
	asleep=$(pick 'host-suspend|suspend-told|watchdog-quiet')
	[ "$1" != all ] || long=linux-faults,linux-soak
	plain=$(echo "$asked" | grep -Exv "nested.*|hyperv-l1|snapshot-.*|migrate-clock-.*|.*-new-rate|two-hosts-chrony|host-suspend|suspend-told|watchdog-quiet|$(echo "${long:-none}" | tr , '|')" | paste -s -d , || :)
}

# drive HOST ROWS SCENARIOS CLOCKS [OPTIONS]: one more command for that host
plain_host= nested_host= linked_host= chrony_host= asleep_host=
drive() {
	command="$release/$driver --append --scenarios $3 --who $4 --out $out/rows/$2.json --logs $out/logs --timeout $seconds"
	[ -z "$3" ] || eval "$1=\"\$$1$command $options ${5-} || status=\\\$?
\""
}
# Every second pair's guests are the nested ones' host's work: the two hosts have about as much to do.
turn=1
while :; do
	ask "${1:-all}"
	clocks=${2:-stock,steer,own}
	drive $([ $((turn % 2)) = 1 ] && echo plain_host || echo nested_host) plain$turn "$plain" "$clocks"
	drive plain_host long "$long" own
	drive nested_host nested "$nested" "$clocks"
	drive asleep_host asleep "$asleep" "$clocks"
	drive linked_host linked "$linked" "$clocks" "$([ $native = yes ] || echo --peer 10.0.0.2)"
	drive chrony_host chrony "$chrony" "$clocks" "$([ $native = yes ] || echo --peer 10.0.0.2)"
	[ $# -gt 2 ] || break
	turn=$((turn + 1))
	shift 2
done

# host NAME COMMANDS [OPTIONS]: an emulated one that does them
host() {
	[ -z "$2" ] || lab/boot.sh --name "$1" --timeout $((seconds + 60)) ${3-} -- sh -c "mkdir -p $out/rows; status=0
$2
exit \$status"
}
# pair NAME PACE COMMANDS: two emulated hosts, of which the second one's seconds are so much longer than this machine's
pair() {
	[ -n "$3" ] || return 0
	pair_status=0 link=$(mktemp -u)
	# an agent serves one command, and ends
	lab/boot.sh --name "peer-$1" --pace "$2" --link connect "$link" --timeout $((seconds + 60)) -- \
		sh -c "for i in $(echo "$3" | grep . | sed 's/.*/1/' | paste -s -d ' '); do /p/release/$driver --agent; done" &
	peer=$!
	trap 'kill $peer 2>/dev/null || :' EXIT TERM
	host "host-$1" "$3" "--link listen $link" || pair_status=$?
	kill $peer 2>/dev/null || : # where its work is done it has gone already
	wait $peer 2>/dev/null || :
	return $pair_status
}
nested_and_linked() {
	nested_status=0
	host host-nested "$nested_host" || nested_status=$?
	host host-asleep "$asleep_host" --local || nested_status=$?
	pair linked 2.6 "$linked_host" || nested_status=$? # some 1000 MHz there where this machine has 2600
	pair chrony 1 "$chrony_host" || nested_status=$?
	return $nested_status
}

# A promise that is broken anywhere makes the whole run fail.
status=0
if [ $native = yes ]; then
	eval "$plain_host$nested_host$asleep_host$linked_host$chrony_host"
else
	nested_and_linked &
	beside=$!
	trap 'kill $beside 2>/dev/null || :' EXIT
	host host "$plain_host" || status=$?
	wait $beside || status=$?
	trap - EXIT
fi

# One list of all rows: each file is one, a line for each of its brackets.
for file in out/lab/rows/*.json; do
	[ ! -f "$file" ] || sed -e '1d' -e '$d' "$file" | sed '$s/$/,/'
done | sed -e '1i[' -e '$s/,$//' >out/lab.json
echo ']' >>out/lab.json
"$build/release/$driver" --show out/lab.json || status=$?
exit $status
