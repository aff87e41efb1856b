#!/bin/sh
# SPDX-License-Identifier: MIT
# run_test.sh PVCLOCK STATIC LIBRARY: `pvclock run` itself, on programs that are no VMMs. What cannot be done gets one sentence and its exit
# code; what can leaves the program as it is but for three variables. STATIC is a statically linked program, LIBRARY any library.
set -u
pvclock=$(realpath "$1") static=$2 library=$3
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
. "$(dirname "$0")/../fail.sh"
unset LD_PRELOAD PVCLOCK_MODE PVCLOCK_LOG PVCLOCK_PRELOAD PVCLOCK_POLICY PVCLOCK_RECORDS PVCLOCK_OFFER PVCLOCK_PARENT

# run CODE ARGUMENT...: output in $dir/out and $dir/err
run()
{
	code=$1
	shift
	"$pvclock" run "$@" >"$dir/out" 2>"$dir/err"
	got=$?
	[ "$got" -eq "$code" ] || { fail "pvclock run $*: exit code $got, not $code"; cat "$dir/err"; }
}

# refused CODE WORD ARGUMENT...: one sentence on standard error that has WORD in it, and nothing else
refused()
{
	wanted=$1 word=$2
	shift 2
	run "$wanted" "$@"
	[ -s "$dir/out" ] && fail "pvclock run $*: something was started"
	[ "$(wc -l <"$dir/err")" -eq 1 ] || fail "pvclock run $*: not one line: $(cat "$dir/err")"
	grep -Eq '^pvclock run: .*\.$' "$dir/err" || fail "pvclock run $*: no sentence: $(cat "$dir/err")"
	grep -Fq -e "$word" "$dir/err" || fail "pvclock run $*: \"$word\" is not named: $(cat "$dir/err")"
}

# --- usage ------------------------------------------------------------------------------------------
run 0 --help
grep -q -- '--mode' "$dir/out" || fail "--help does not tell of --mode"
run 2 --nonsense -- true
grep -q nonsense "$dir/err" || fail "an unknown option is not named"
run 2 --mode
run 2 --log
refused 2 '-- qemu-system-x86_64' --mode own
refused 2 '-- qemu-system-x86_64' --mode own --
for mode in '' Own owner 0 stock-ish; do
	refused 2 "\"$mode\"" --mode "$mode" -- true
done

for policy in snapshot snapshot=stop nap=freeze advance_max_ns=-1 fall_back=1 "pause=$(printf %090d 0)"; do
	refused 2 Policy --policy "$policy" -- true
done
refused 2 "$dir/nowhere" --policy "@$dir/nowhere" -- true
printf '# by day\nsnapshot=advance\n\n  pause=freeze # and so on\n' >"$dir/policy"
(cd "$dir" && "$pvclock" run --policy @policy -- env) >"$dir/out" 2>/dev/null
grep -qx "PVCLOCK_POLICY=@$dir/policy" "$dir/out" || fail "--policy @FILE is not handed on by its whole path: $(grep POLICY "$dir/out")"
echo pause=never >>"$dir/policy"
refused 2 'pause=never' --policy "@$dir/policy" -- true
refused 1 "$dir/nowhere" --records "$dir/nowhere" -- true
refused 1 /dev/null --records /dev/null -- true
(cd "$dir" && "$pvclock" run --policy snapshot=advance,advance_max_ns=none --records . -- env) >"$dir/out" 2>/dev/null
grep -qx PVCLOCK_POLICY=snapshot=advance,advance_max_ns=none "$dir/out" || fail "--policy is not handed on"
grep -qx "PVCLOCK_RECORDS=$dir/." "$dir/out" || fail "--records is not handed on by its whole path: $(grep RECORDS "$dir/out")"

for offer in '' nest suspend, nested,deadline ,nested; do
	refused 2 "--offer $offer:" --offer "$offer" -- true
done
"$pvclock" run --offer suspend,nested -- env | grep -qx PVCLOCK_OFFER=suspend,nested || fail "--offer is not handed on"

# --- programs that cannot take it ---------------------------------------------------------------------
echo 'echo started' >"$dir/plain"
refused 1 "$dir/none" -- "$dir/none"
refused 1 no-such-program -- no-such-program
refused 1 "$dir/plain" -- "$dir/plain"
refused 1 "$dir" -- "$dir"
refused 1 statically -- "$static"
cp /bin/true "$dir/setuid" && chmod u+s "$dir/setuid"
refused 1 set-user-ID -- "$dir/setuid"
cp /bin/true "$dir/setgid" && chmod g+s "$dir/setgid"
refused 1 set-user-ID -- "$dir/setgid"
# an ELF header of class 32
{ printf '\177ELF\001\001\001'; head -c 60 /dev/zero; } >"$dir/old"
chmod +x "$dir/old"
refused 1 x86-64 -- "$dir/old"
PVCLOCK_PRELOAD=$dir/none refused 1 libpvclock-preload.so -- true

# --- programs that can ---------------------------------------------------------------------------------
say='printf "%s\n" "$LD_PRELOAD" "$PVCLOCK_MODE" "${PVCLOCK_LOG-unset}"; exit 42'
run 42 -- sh -c "$say"
{ read -r list; read -r mode; read -r log; } <"$dir/out"
case $list in
/*/libpvclock-preload.so) ;;
*) fail "LD_PRELOAD is \"$list\"" ;;
esac
[ "$mode $log" = "auto unset" ] || fail "mode and log are \"$mode $log\""
preload=$list
for mode in own steer auto; do
	run 42 --log "$dir/log" --mode $mode -- sh -c "$say"
	[ "$(sed -n 2,3p "$dir/out" | tr '\n' ' ')" = "$mode $dir/log " ] || fail "--mode $mode: $(cat "$dir/out")"
done
run 0 --no-parent -- env
grep -qx PVCLOCK_PARENT=off "$dir/out" || fail "--no-parent is not handed on"
run 0 -- env
grep -q PVCLOCK_PARENT "$dir/out" && fail "PVCLOCK_PARENT is set without --no-parent"
[ -s "$dir/err" ] && fail "a program that has no VM is told something: $(cat "$dir/err")"
[ -e "$dir/log" ] && fail "a program that has no VM has a log"
if "$pvclock" run --logind -- true 2>"$dir/err" || ! grep -q libsystemd-dev "$dir/err"; then
	# who listens to logind holds nothing open of what the program was given, says where it cannot listen, and ends with it or before
	DBUS_SYSTEM_BUS_ADDRESS=unix:path=$dir/nowhere run 42 --logind -- sh -c 'echo "${PVCLOCK_SLEEP-unset}"; exit 42'
	grep -Eq '^[0-9]+:[0-9]+$' "$dir/out" || fail "--logind hands on the socket $(cat "$dir/out")"
	for try in 1 2 3 4 5 6 7 8 9 10; do
		grep -q 'the system bus, by which logind' "$dir/err" && break
		sleep 0.5
	done
	[ "$(grep -c 'the system bus, by which logind' "$dir/err")" -eq 1 ] || fail "no word of a bus that is not there: $(cat "$dir/err")"
	[ "$(DBUS_SYSTEM_BUS_ADDRESS=unix:path=$dir/nowhere timeout 20 "$pvclock" run --logind -- echo end 2>/dev/null | tail -n 1)" = end ] ||
		fail "--logind holds the program's output open"
fi
LD_PRELOAD=$library run 42 -- sh -c "$say"
[ "$(head -n 1 "$dir/out")" = "$preload:$library" ] || fail "the user's LD_PRELOAD is not kept: $(head -n 1 "$dir/out")"
LD_PRELOAD='' run 42 -- sh -c "$say"
[ "$(head -n 1 "$dir/out")" = "$preload" ] || fail "an empty LD_PRELOAD becomes: $(head -n 1 "$dir/out")"
PVCLOCK_PRELOAD=$preload run 0 -- true
run 3 -- sh -c 'exit "$1"' sh 3
run 0 -- echo --mode nonsense # the program's own
grep -qx -e '--mode nonsense' "$dir/out" || fail "the program's arguments: $(cat "$dir/out")"
"$pvclock" run -- sh -c 'kill -9 $$' 2>"$dir/err"
[ $? -eq 137 ] || fail "a program that is killed: $?"
echo input | "$pvclock" run -- cat | grep -qx input || fail "the program's input is not its own"
# a script is what its interpreter makes of it, and an empty element of PATH is this folder
printf '#!/bin/sh\nexit 7\n' >"$dir/script"
chmod +x "$dir/script"
run 7 -- "$dir/script"
command=$(realpath "$pvclock")
(cd "$dir" && PATH=":$PATH" "$command" run -- script) 2>"$dir/err"
[ $? -eq 7 ] || fail "a script of this folder: $(cat "$dir/err")"
exit $failed
