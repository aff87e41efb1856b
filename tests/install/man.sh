#!/bin/sh
# SPDX-License-Identifier: MIT
# man.sh SOURCE: the manual is whole and well formed. mandoc has nothing against any page; each page is built; each
# reference leads to a page; and every function that a header declares has its synopsis in one, and its name in NAME.
# (That the synopses and examples are true is for the compiler to say: install.sh.)
set -eu
source=$1
for tool in scdoc mandoc; do
	command -v $tool >/dev/null || { echo "SKIP: $tool is not here (Debian: apt-get install $tool)"; exit 77; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
. "$(dirname "$0")/../fail.sh"

count=0
for page in "$source"/man/*.scd; do
	name=$(basename "$page" .scd)
	count=$((count + 1))
	scdoc <"$page" >"$work/$name" 2>"$work/log" || { fail "$name: $(cat "$work/log")"; continue; }
	# scdoc begins a paragraph after each heading and list, which roff does by itself: harmless, and no page's fault
	mandoc -T lint -W warning "$work/$name" | grep -v 'skipping paragraph macro: PP \(empty\|after S[HS]\)$' >"$work/log" || true
	[ ! -s "$work/log" ] || { cat "$work/log"; fail "$name: mandoc warns"; }
	grep -q "'$name'" "$source/man/meson.build" || fail "$name: man/meson.build does not build it"
	# scdoc eats one in code as well
	awk '/^```/ { inside = !inside } inside { gsub(/\\\\/, ""); if (/\\/) bad = 1 } END { exit bad }' "$page" ||
		fail "$name: a backslash in a literal block that is not doubled will not be seen"
	for section in NAME DESCRIPTION "SEE ALSO"; do
		grep -q "^# $section\$" "$page" || fail "$name: has no $section"
	done

	# a page of functions is what its NAME lists, and a reference to a function is one to its page
	awk '/^# /{ inside = $2 == "NAME"; next } inside' "$page" | sed 's/ - .*//' | tr -s ', ' '\n' | grep . |
		sed "s/\$/(${name##*.})/" >>"$work/named"
	echo "$name" | sed 's/\.\([0-9]\)$/(\1)/' >>"$work/named"
	grep -o '\*pvclock[a-z0-9_-]*\*([0-9])' "$page" | tr -d '*' | sort -u | sed "s/\$/ $name/" >>"$work/referred" || true
	awk '/^# /{ inside = $2 == "SYNOPSIS"; next } inside' "$page" | grep -o 'pvclock_[a-z0-9_]*(' | tr -d '(' >>"$work/synopses" || true
done
sort -u "$work/named" >"$work/names"
sort -u "$work/synopses" >"$work/shown"

while read -r reference name; do
	grep -Fxq "$reference" "$work/names" || fail "$name: refers to $reference, which is nowhere"
done <"$work/referred"

"$source/tests/install/declared.sh" "$source/include" | cut -d' ' -f2 | sort >"$work/declared"
for function in $(comm -23 "$work/declared" "$work/shown"); do
	fail "$function is in no page's SYNOPSIS"
done
for function in $(comm -13 "$work/declared" "$work/shown"); do
	fail "a SYNOPSIS has $function, which no header declares"
done
while read -r function; do
	grep -Fxq "$function(3)" "$work/names" || fail "$function is in no page's NAME"
done <"$work/declared"
echo "$count pages, $(wc -l <"$work/declared") functions, $(wc -l <"$work/referred") references"
exit $failed
