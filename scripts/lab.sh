#!/bin/sh
# SPDX-License-Identifier: MIT
# lab.sh BUILD [SCENARIOS [CLOCKS]] - stock Linux guests on a stock QEMU, with KVM's clock and with pvclock's; rows in out/lab.json.
# On this machine's own KVM where Linux boots on it, else in emulated hosts, two or three at a time: one for what takes one guest, one for
# guests' guests and for those that move their host's clock, and then two pairs: of different TSC rates, and of clocks that chronyd keeps.
#
# SCENARIOS: all (of which the two that take minutes are run in own mode alone), short, or names with commas (all);
# CLOCKS of stock, steer, own (all three). LAB_SECONDS: the limit for each host.
set -eu
cd "$(dirname "$0")/.."
build=$1 scenarios=${2:-all} clocks=${3:-stock,steer,own} seconds=${LAB_SECONDS:-3000}
export BUILD="$build"
driver=lab/drive/pvclock-lab # below build/release, /p/release in there
scripts/build.sh "$build/release" -Dtests=false
lab/fetch.sh "$build"
lab/image.sh "$build"
lab/libraries.sh "$build" "$build/release/$driver" "$build/release/tools/pvclock/pvclock" "$build/release/tools/preload/libpvclock-preload.so"
rm -rf out/lab/rows out/lab.json
mkdir -p out/lab/rows

# pick WORDS: those of the scenarios asked for that match (an extended regular expression), with commas
all=$("$build/release/$driver" --list | sed 's/ .*//')
[ "$scenarios" = all ] && asked=$all || asked=$(echo "$scenarios" | tr , '\n')
pick() { echo "$asked" | grep -Ex "$1" | paste -s -d , || :; }
long= nested=$(pick 'nested.*|snapshot-.*|migrate-clock-.*') linked=$(pick linux-migrate-new-rate) chrony=$(pick two-hosts-chrony)
[ "$scenarios" != all ] || long=linux-faults,linux-soak
plain=$(echo "$asked" | grep -Exv "nested.*|snapshot-.*|migrate-clock-.*|linux-migrate-new-rate|two-hosts-chrony|$(echo "${long:-none}" | tr , '|')" | paste -s -d , || :)

# drive RELEASE OUT ROWS SCENARIOS CLOCKS [OPTIONS]: the command for one host
drive() {
	[ -z "$4" ] || echo "$1/$driver --append --scenarios $4 --who $5 --out $2/rows/$3.json --logs $2/logs --timeout $seconds ${6-} || status=\$?"
}
# host NAME COMMANDS [OPTIONS]: an emulated one that does them
host() {
	[ -z "$(printf %s "$2" | tr -d '\n')" ] || lab/boot.sh --name "$1" --timeout $((seconds + 60)) ${3-} -- sh -c "status=0
$2
exit \$status"
}
# pair NAME PACE SCENARIOS: two emulated hosts, of which the second one's seconds are so much longer than this machine's
pair() {
	[ -n "$3" ] || return 0
	pair_status=0 link=$(mktemp -u)
	lab/boot.sh --name "peer-$1" --pace "$2" --link connect "$link" --timeout $((seconds + 60)) -- "/p/release/$driver" --agent &
	peer=$!
	trap 'kill $peer 2>/dev/null || :' EXIT TERM
	host "host-$1" "$(drive /p/release /out "$1" "$3" "$clocks" "--peer 10.0.0.2")" "--link listen $link" || pair_status=$?
	kill $peer 2>/dev/null || : # where its work is done it has gone already
	wait $peer 2>/dev/null || :
	return $pair_status
}
nested_and_linked() {
	nested_status=0
	host host-nested "$(drive /p/release /out nested "$nested" "$clocks")" || nested_status=$?
	pair linked 2.6 "$linked" || nested_status=$? # some 1000 MHz there where this machine has 2600
	pair chrony 1 "$chrony" || nested_status=$?
	return $nested_status
}

# A promise that is broken anywhere makes the whole run fail.
status=0
if lab/native.sh "$build"; then
	eval "$(drive "$build/release" out/lab plain "$plain${nested:+,$nested}${linked:+,$linked}${chrony:+,$chrony}" "$clocks" "--lab $build/lab")"
	eval "$(drive "$build/release" out/lab long "$long" own "--lab $build/lab")"
else
	nested_and_linked &
	beside=$!
	trap 'kill $beside 2>/dev/null || :' EXIT
	host host "$(drive /p/release /out plain "$plain" "$clocks")
$(drive /p/release /out long "$long" own)" || status=$?
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
