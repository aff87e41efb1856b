#!/bin/sh
# SPDX-License-Identifier: MIT
# declared.sh INCLUDE: what the headers in INCLUDE/pvclock declare, a line each: "extern NAME" for what a library has to
# define, "inline NAME" for what the header defines. As the compiler reads it: after the preprocessor.
set -eu
for header in "$1"/pvclock/*.h; do
	echo "#include \"$header\""
done | ${CC:-cc} -E -I"$1" -x c - | awk '
	/^#/ { ours = $0 ~ /\/pvclock\/[a-z]*\.h"/; next }
	!ours { next }
	{
		for (i = 1; i <= length($0); i++) {
			c = substr($0, i, 1)
			if (c == "{") {
				depth++
			} else if (c == "}") {
				# a function ends without a semicolon; a struct does not
				if (--depth == 0 && said ~ /\(/)
					finish()
			} else if (depth == 0 && c == ";") {
				finish()
			} else if (depth == 0) {
				said = said c
			}
		}
		said = said " "
	}
	function finish() {
		if (said !~ /typedef|_Static_assert/ && match(said, /pvclock_[a-z0-9_]*[ ]*\(/)) {
			name = substr(said, RSTART, RLENGTH - 1)
			sub(/ *$/, "", name)
			print (said ~ /static/ ? "inline " : "extern ") name
		}
		said = ""
	}' | sort -u
