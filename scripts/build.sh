#!/bin/sh
# SPDX-License-Identifier: MIT
# build.sh DIR [meson options] - sets up and compiles one variant (or its $TARGETS); says nothing unless something is wrong.
set -eu
cd "$(dirname "$0")/.."
dir=$1
shift
scripts/deps.sh build
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if [ ! -f "$dir/build.ninja" ]; then
	meson setup "$dir" "$@" >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
fi
ninja -C "$dir" ${TARGETS:-} >"$log" 2>&1 || { sed -n '/FAILED\|ERROR/,$p' "$log" | grep -v '^\[' >&2; exit 1; }
