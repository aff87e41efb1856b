#!/bin/sh
# SPDX-License-Identifier: MIT
# tools_test.sh PVCLOCK JSON_GET: the commands on this machine, whatever it is: what they print is JSON, agrees with
# itself and with the exit code, and everything that is missing has a sentence.
set -u
pvclock=$1 json_get=$2
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
. "$(dirname "$0")/../fail.sh"

# expect CODE ARGUMENT...: the exit code of pvclock; output in $dir/out
expect()
{
	code=$1
	shift
	"$pvclock" "$@" >"$dir/out" 2>"$dir/err"
	got=$?
	case " $code " in
	*" $got "*) ;;
	*) fail "pvclock $*: exit code $got, not $code"; cat "$dir/err" ;;
	esac
}

get()
{
	"$json_get" "$1" <"$dir/out" || fail "$1"
}

is()
{
	value=$(get "$1")
	[ "$value" = "$2" ] || fail "$1 is $value, not $2"
}

has_notes()
{
	[ "$(get notes)" != "[]" ] || fail "something is missing and nothing says so"
	get notes | grep -Eq '\."[],]' || fail "a note is no sentence"
}

# --- usage ------------------------------------------------------------------------------------
expect 2
expect 2 nonsense
grep -q nonsense "$dir/err" || fail "an unknown command is not named"
expect 0 --help
grep -q host "$dir/out" && grep -q guest "$dir/out" || fail "--help lists no commands"
expect 0 --version
for command in host guest; do
	expect 0 $command --help
	expect 2 $command --nonsense
	expect 2 $command nonsense
done
for seconds in 0 -1 x 1x '' nan 1e9; do
	expect 2 guest --seconds "$seconds"
done

# --- a host without a KVM -----------------------------------------------------------------------
expect 1 host --json --kvm "$dir/none"
is mode stock
is kvm.usable false
has_notes
get notes | grep -q "$dir/none is not there" || fail "the missing device is not named"
expect 1 host --json --kvm /dev/null
is mode stock
has_notes

# --- this host ------------------------------------------------------------------------------------
expect "0 1" host --json
code=$got
for member in kernel cpu clocksource.current clocksource.available why; do
	get $member >/dev/null
done
case $(get mode) in
own | steer) [ "$code" -eq 0 ] || fail "a good mode and exit code $code" ;;
stock) [ "$code" -eq 1 ] || fail "no mode and exit code $code"; has_notes ;;
*) fail "mode $(get mode)" ;;
esac
if [ "$(get line.proven)" = true ]; then
	[ "$(get line.mult)" -gt 0 ] || fail "a proven mult of 0"
	[ "$(get line.millihertz)" -gt 100000000000 ] || fail "a TSC below 100 MHz"
	[ "$(get line.page.mul)" -ge 2147483648 ] || fail "a page's mul below 2^31"
	echo "this host: $(get line.mult) / 2^$(get line.shift), mode $(get mode)"
else
	get line.reason.code >/dev/null
	[ -n "$(get line.reason.text)" ] || fail "no line and no reason"
	has_notes
	echo "this host: no line ($(get line.reason.code))"
fi
[ "$(get kvm.usable)" = true ] || has_notes

grep -qw hypervisor /proc/cpuinfo && is_guest=true || is_guest=false
is nesting.guest "$is_guest"
if [ "$(get nesting.guest)" = true ]; then
	[ "$(get nesting.depth)" -ge 1 ] || fail "a guest of depth $(get nesting.depth)"
else
	is nesting.depth 0
	is nesting.exact true
	is parent null
fi
get pages | grep -q "\"whose\"" || fail "host names no pages"
nesting=$(get nesting) parent=$(get parent) hypervisors=$(get hypervisors)

# --- this guest, if it is one ------------------------------------------------------------------------
expect "0 1" guest --json --seconds 0.2
code=$got
for member in kernel hypervisors kvm_features clocksource.current steps_back.cpus clock_gettime.vdso_answers; do
	get $member >/dev/null
done
is nesting "$nesting"
is parent "$parent"
is hypervisors "$hypervisors"
if [ "$(get page)" = null ]; then
	[ "$code" -eq 1 ] || fail "no page and exit code $code"
	has_notes
	echo "this guest: no page: $(get notes)"
else
	[ "$(($(get page.version) % 2))" -eq 0 ] || fail "an odd version"
	[ "$(get steps_back.page.reads)" -gt 0 ] || fail "the page's clock was not read"
	if [ "$(get steps_back.tsc.backward)$(get steps_back.raw.backward)$(get steps_back.page.backward)" = 000 ]; then
		[ "$code" -eq 0 ] || fail "no step back and exit code $code"
	else
		[ "$code" -eq 1 ] || fail "a step back and exit code $code"
		has_notes
	fi
	echo "this guest: mul $(get page.mul), shift $(get page.shift), exit code $code"
fi

# --- for people ---------------------------------------------------------------------------------------
expect "0 1" host
grep -q '^mode ' "$dir/out" || fail "host prints no mode"
expect "0 1" guest --seconds 0.1
grep -q '^page ' "$dir/out" || fail "guest prints no page"
exit $failed
