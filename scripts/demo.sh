#!/bin/sh
# SPDX-License-Identifier: MIT
# demo.sh BUILD - builds quietly, then runs the demo; its rows and picture land in out/.
set -eu
cd "$(dirname "$0")/.."
scripts/build.sh "$1/release" -Dtests=false
exec "$1/release/demo/pvclock-demo" --out out
