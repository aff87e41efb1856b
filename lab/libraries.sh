#!/bin/sh
# SPDX-License-Identifier: MIT
# libraries.sh BUILD PROGRAM... - copies into BUILD/lab/root the libraries that these programs are linked with and that it lacks,
# so that what was built here runs in there.
set -eu
root=$1/lab/root
shift
ldd "$@" | sed -n 's|.*=> \(/[^ ]*\) .*|\1|p' | sort -u | while read -r library; do
	[ -e "$root$library" ] || { mkdir -p "$root$(dirname "$library")"; cp -L "$library" "$root$library"; }
done
