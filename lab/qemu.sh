#!/bin/sh
# SPDX-License-Identifier: MIT
# qemu.sh BUILD ARGUMENTS... - runs the QEMU that emulates the lab's host, with its own libraries, from where fetch.sh unpacked it.
# LAB_PACE other than 1 makes its time run at that pace (lab/pace.c). With --cpus-safe alone it says how many CPUs that QEMU can emulate at once without hanging.
#
# Two faults of QEMU's TCG say which one it has to be:
# - before 8.1, a thread per CPU may keep the translation of code that another CPU has just changed. Linux changes its own code
#   whenever the first VM starts and the last one ends (static keys, through an int3): seen with 7.2, some minutes into the suite, all
#   CPUs took that int3 for ever, long after it was gone from memory. So: a later QEMU, or one CPU, whose only thread cannot race.
# - before 10.2, VMRUN with a virtual interrupt pending changes the CPU's interrupt requests without the lock that its timers' thread
#   holds, so a timer's interrupt can be lost. Seen with 10.0 in about one nested run of eight: everything idle for ever, or the
#   guest's guest restarted. More CPUs are no help against it.
set -eu
emulator=$(cd "$1" && pwd)/lab/emulator
if [ "${2-}" = --cpus-safe ]; then
	version=$("$0" "$1" --version | sed -n 's/^QEMU emulator version \([0-9.]*\).*/\1/p')
	dpkg --compare-versions "$version" lt 8.1 && echo 1 || echo 255
	exit
fi
build=$1
shift
libraries=$emulator/usr/lib/x86_64-linux-gnu
export QEMU_MODULE_DIR="$libraries/qemu"
pace=$(cd "$build" && pwd)/release/lab/lab-pace.so
case ${LAB_PACE:-1} in
1) pace= ;;
esac
exec "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" ${pace:+--preload "$pace"} "$emulator/usr/bin/qemu-system-x86_64" \
	-L "$emulator/usr/share/qemu" -L "$emulator/usr/share/seabios" "$@"
