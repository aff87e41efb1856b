#!/bin/sh
# SPDX-License-Identifier: MIT
# demo.sh BUILD - builds quietly, then shows guests whose clocks are kept beside guests whose clocks are not; rows and picture land in out/.
#
# First a stock Debian guest on a stock QEMU: on this machine's KVM where Linux boots on it in useful time, else on an emulated host (the
# lab). Then guests of our own, which read their clocks a million times a second; in the lab too where there is no KVM, or PVCLOCK_LAB=1.
set -eu
cd "$(dirname "$0")/.."
build=$1
export BUILD="$build"
scripts/build.sh "$build/release" -Dtests=false
mkdir -p out/lab/demo
rm -f out/lab/demo/*.json
linux="lab/drive/pvclock-lab --who stock,steer,own --scenarios linux-pause --events 5 --timeout 240"

# one line a clock, as it comes; all of it is in the log
watch() { tr -d '\r' | tee out/lab/demo/log | grep --line-buffered -E '^(stock|steer|own) +linux|^(BROKEN|FAILED|SKIP)|^lab .*: (the host died|not done)' || :; }

# The driver's exit status is not asked for: a promise that its rows break is told, and counted, with all the others.
lab=no
if lab/fetch.sh "$build" && lab/image.sh "$build"; then
	lab=yes
	lab/libraries.sh "$build" "$build/release/lab/drive/pvclock-lab" "$build/release/tools/pvclock/pvclock" "$build/release/demo/pvclock-demo"
else
	echo "So there is no Debian guest in this demo." >&2
fi

if [ "${PVCLOCK_LAB:-0}" != 1 ] && "$build/release/demo/pvclock-demo" --check; then
	if [ $lab = no ]; then
		:
	elif lab/native.sh "$build"; then
		"$build/release"/$linux --lab "$build/lab" --out out/lab/demo/linux.json --logs out/lab/demo/logs 2>&1 | watch
	else
		echo "Booting Debian on an emulated host (about 90 s; nothing is installed) ..."
		lab/boot.sh --name demo-host --timeout 300 -- "/p/release/"$linux --out /out/demo/linux.json --logs /out/demo/logs 2>&1 | watch
	fi
	set --
	[ ! -f out/lab/demo/linux.json ] || set -- --rows out/lab/demo/linux.json
	echo "Now guests of our own, on this machine's KVM (about 40 s) ..."
	exec "$build/release/demo/pvclock-demo" --out out "$@"
fi
[ $lab = yes ] || exit 1
echo "All on an emulated host, for there is no KVM here (about 3 minutes; nothing is installed) ..."
lab/boot.sh --name demo --timeout 900 -- sh -c "/p/release/$linux --out /out/demo/linux.json --logs /out/demo/logs
	exec /p/release/demo/pvclock-demo --out /out/demo --rows /out/demo/linux.json" && status=0 || status=$?
for file in demo.json report.html report.svg; do
	[ ! -f "out/lab/demo/$file" ] || mv "out/lab/demo/$file" out/
done
exit $status
