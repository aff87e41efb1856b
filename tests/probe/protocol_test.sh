#!/bin/sh
# SPDX-License-Identifier: MIT
# protocol_test.sh PROBE JSON_GET: the program itself on this machine, whatever it is: one object for each line, and
# every line answered.
set -u
probe=$1 json_get=$2
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
. "$(dirname "$0")/../fail.sh"

# talk: commands come from standard input; replies go to $dir/1, $dir/2, ...
talk()
{
	rm -f "$dir"/[0-9]*
	timeout 60 "$probe" --stdio >"$dir/out" 2>"$dir/err"
	code=$?
	[ $code = 0 ] || fail "exit status $code"
	[ ! -s "$dir/err" ] || fail "it said $(cat "$dir/err")"
	replies=0
	while IFS= read -r reply; do
		replies=$((replies + 1))
		printf '%s\n' "$reply" >"$dir/$replies"
	done <"$dir/out"
}

get() # REPLY MEMBER
{
	"$json_get" "$2" <"$dir/$1"
}

is() # REPLY MEMBER VALUE
{
	value=$(get "$1" "$2") || { fail "reply $1 has no $2: $(cat "$dir/$1")"; return; }
	[ "$value" = "$3" ] || fail "reply $1: $2 is $value, not $3"
}

error() # REPLY WORD
{
	value=$(get "$1" error) || { fail "reply $1 is no error: $(cat "$dir/$1")"; return; }
	case $value in
	*"$2"*) ;;
	*) fail "reply $1 does not name $2: $value" ;;
	esac
}

count()
{
	[ "$replies" = "$1" ] || fail "$replies replies, not $1"
}

# --- a conversation ------------------------------------------------------------------------------
talk <<'COMMANDS'
hello
begin one
end one
end two
begin "a\b"
end "a\b"
cost
rate 0.05
report
quit
never read
COMMANDS
count 11
is 1 ready true
is 2 hello true
is 2 kernel "$(uname -r)"
is 3 begin one
is 4 end one
is 4 backwards_within 0
is 4 backwards_between 0
is 5 end two
is 5 unmatched true
is 5 begun null
is 6 begin '"a\b"'
is 7 end '"a\b"'
is 8 cost true
is 9 rate true
is 10 report true
is 10 events 3
is 10 unannounced 0
is 11 quit true
"$json_get" unmatched <"$dir/4" 2>/dev/null && fail "a matched end says that it is not"
cpus=$(get 2 cpus)
[ "$cpus" -ge 1 ] || fail "no CPU is watched"
[ "$(get 4 samples)" -ge $((64 * cpus)) ] || fail "an event ended before every CPU had looked"
[ "$(get 10 samples)" -ge "$(get 4 samples)" ] || fail "a report has fewer samples than an event"
for reply in 2 10; do
	page=$(get $reply page) || fail "reply $reply has no page"
	[ "$page" = null ] || is $reply page.stable "$(get $reply page.stable)"
done
if [ "$(get 2 page)" = null ]; then
	is 4 page_known false
	is 4 page_jump_ns null
else
	is 4 page_known true
fi
# against what the kernel says of the same clocks
for member in measured_shift_ns measured_bracket_ns monotonic_shift_ns realtime_step_ns boottime_step_ns tsc_step; do
	get 4 $member >/dev/null || fail "an event's end has no $member"
done

# --- what is no command -----------------------------------------------------------------------------
long=$(printf '%300s' '' | tr ' ' x)
talk <<COMMANDS
nonsense
begin
end
begin $(printf '%64s' '' | tr ' ' n)
begin $(printf '%63s' '' | tr ' ' n)
hello you
rate
rate x
rate 0
rate -1
rate nan
rate 601
$long
  hello

hell
helloo
hello
COMMANDS
count 18
error 2 nonsense
error 3 begin
error 4 end
error 5 begin
get 6 begin >/dev/null || fail "a name of 63 letters is refused"
error 7 hello
for reply in 8 9 10 11 12 13; do
	error $reply rate
done
error 14 255
error 15 'no command'
error 16 hell
error 17 helloo
is 18 hello true # and the end of the input ends it

# --- pieces of lines, carriage returns, bytes that are no text ------------------------------------------
pieces()
{
	printf 'hel'
	sleep 0.3
	printf 'lo\r\nhe'
	sleep 0.3
	printf 'llo\n\n\r\n\377\001"\nreport' # the last is no line
}
pieces >"$dir/whole" # what comes at once, and then in pieces
talk <"$dir/whole"
count 4
mkfifo "$dir/fifo"
pieces >"$dir/fifo" &
talk <"$dir/fifo"
wait
count 4
is 2 hello true
is 3 hello true
error 4 'no command'

# --- a line that ends ------------------------------------------------------------------------------------
talk </dev/null
count 1

# --- for a person, and usage ------------------------------------------------------------------------------
timeout 60 "$probe" --once 0.2 >"$dir/out" 2>&1
code=$?
[ $code = 0 ] || fail "--once: exit status $code: $(cat "$dir/out")"
grep -q 'steps back *0 on one CPU, 0 from' "$dir/out" || fail "--once says nothing of steps back"
usage()
{
	timeout 60 "$probe" "$@" >"$dir/out" 2>"$dir/err" </dev/null
	code=$?
	[ $code = 2 ] || fail "$*: exit status $code, not 2"
	[ -s "$dir/err" ] || fail "$*: nothing is said"
}
usage
usage --nonsense
usage --once
usage --once x
usage --once 0
usage --once nan
usage --stdio more
timeout 60 "$probe" "$dir/none" 2>"$dir/err"
code=$?
{ [ $code = 1 ] && grep -q "$dir/none" "$dir/err"; } || fail "a line that is not there is not named"
timeout 60 "$probe" /dev/null 2>"$dir/err"
code=$?
{ [ $code = 1 ] && grep -q /dev/null "$dir/err"; } || fail "what is no serial line is not named"
exit $failed
