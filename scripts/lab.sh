#!/bin/sh
# SPDX-License-Identifier: MIT
# lab.sh BUILD [SCENARIOS [CLOCKS]]... - stock Linux guests on a stock QEMU, with KVM's clock and with pvclock's; rows in out/lab.json.
# On this machine's own KVM where Linux boots on it, else in emulated hosts. Two of these are busy at a time: each takes the next scenario that
# nobody has taken yet. Some scenarios want a host of their own kind first: one that sleeps itself, and two pairs, of different TSC rates
# and of clocks that chronyd keeps.
#
# SCENARIOS: all, linux (stock guests, and their guests), short, or names with commas (all). Of all and of linux, the two that take minutes are run in own mode alone;
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
rm -rf out/lab/rows out/lab/taken out/lab/ended out/lab.json
mkdir -p out/lab/rows out/lab/taken out/lab/ended

native=no release=/p/release out=/out options="--slow ${PVCLOCK_SLOW:-2}" # in emulated hosts, of which two share this machine
! lab/native.sh "$build" || { native=yes release=$build/release out=out/lab options="--lab $build/lab"; }
peer=
[ $native = yes ] || peer="--peer 10.0.0.2"

# What is asked for, a line each: what kind of host it wants, and the driver's words.
all=$("$build/release/$driver" --list | sed 's/ .*//')
short=$("$build/release/$driver" --list | sed -n 's/ .*(short).*//p')
kind_of() { # SCENARIO
	case $1 in
	*-new-rate) echo linked ;;
	two-hosts-chrony) echo chrony ;;
	host-suspend | suspend-told | watchdog-quiet) echo asleep ;;
	*) echo any ;;
	esac
}
turn=1
while :; do
	case ${1:-all} in
	all) asked=$all ;;
	linux) asked=$(echo "$all" | grep -Ex "linux-.*|nested|nested-hyperv") ;;
	short) asked=$short ;;
	*) asked=$(echo "$1" | tr , '\n') ;;
	esac
	for scenario in $asked; do
		clocks=${2:-stock,steer,own}
		case ${1:-all}:$scenario in
		all:linux-faults | all:linux-soak | linux:linux-faults | linux:linux-soak) clocks=own ;;
		esac
		echo "$(kind_of "$scenario") $turn-$scenario --scenarios $scenario --who $clocks"
	done
	[ $# -gt 2 ] || break
	turn=$((turn + 1))
	shift 2
done >out/lab/asked

# work KIND [OPTIONS]: the commands for a host of that kind. What takes longest comes first: nobody is to wait for it at the end.
long='nested.*|hyperv-l1|linux-soak|linux-faults'
work() {
	{
		grep -E "^$1 [0-9]+-($long) " out/lab/asked || :
		grep -Ev "^[^ ]+ [0-9]+-($long) " out/lab/asked | grep "^$1 " || :
	} | while read -r _ name words; do
		echo "! mkdir $out/taken/$name 2>/dev/null || { $release/$driver --append $words --out $out/rows/$name.json --logs $out/logs --timeout $seconds $options ${2-}; echo \$? >$out/ended/$name; }"
	done
}

# host NAME KIND [OPTIONS OF BOOT [OPTIONS OF THE DRIVER]]: an emulated one that does what there is for its kind
host() {
	commands=$(work "$2" "${4-}")
	[ -z "$commands" ] || lab/boot.sh --name "$1" --timeout $((seconds + 60)) ${3-} -- sh -c "mkdir -p $out/rows $out/taken $out/ended
$commands" || :
}
# pair KIND PACE: two emulated hosts, of which the second one's seconds are so much longer than this machine's
pair() {
	commands=$(work "$1")
	[ -n "$commands" ] || return 0
	link=$(mktemp -u)
	# an agent serves one command, and ends
	lab/boot.sh --name "peer-$1" --pace "$2" --link connect "$link" --timeout $((seconds + 60)) -- \
		sh -c "for i in $(echo "$commands" | sed 's/.*/1/' | paste -s -d ' '); do /p/release/$driver --agent; done" &
	other=$!
	trap 'kill $other 2>/dev/null || :' EXIT TERM
	host "host-$1" "$1" "--link listen $link" "$peer"
	kill $other 2>/dev/null || : # where its work is done it has gone already
	wait $other 2>/dev/null || :
}
pairs_first() {
	pair linked 2.6 # some 1000 MHz there where this machine has 2600
	pair chrony 1
	host host-1 any
}

if [ $native = yes ]; then
	for kind in any asleep linked chrony; do
		eval "$(work $kind)"
	done
else
	pairs_first &
	beside=$!
	trap 'kill $beside 2>/dev/null || :' EXIT
	host host-asleep asleep --local
	host host-2 any
	wait $beside || :
	trap - EXIT
	# An emulated host may die of its emulator's faults, which are no scenario's: what it had begun is begun once more.
	while read -r kind name _; do
		[ ! -f "out/lab/ended/$name" ] || continue
		echo "lab: the host of ${name#*-} died (its log is in out/lab); once more"
		rm -rf "out/lab/taken/$name"
		case $kind in
		linked) pair linked 2.6 ;;
		chrony) pair chrony 1 ;;
		asleep) host host-asleep asleep --local ;;
		any) host host-2 any ;;
		esac </dev/null
	done <out/lab/asked
fi
# A promise that is broken anywhere makes the whole run fail.
status=0
while read -r _ name _; do
	read -r result <"out/lab/ended/$name" 2>/dev/null || { echo "lab: nobody ended ${name#*-}"; result=1; }
	[ "$result" = 0 ] || status=1
done <out/lab/asked

# One list of all rows: each file is one, a line for each of its brackets.
for file in out/lab/rows/*.json; do
	[ ! -f "$file" ] || sed -e '1d' -e '$d' "$file" | sed '$s/$/,/'
done | sed -e '1i[' -e '$s/,$//' >out/lab.json
echo ']' >>out/lab.json
"$build/release/$driver" --show out/lab.json || status=$?
exit $status
