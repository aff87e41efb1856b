#!/bin/sh
# SPDX-License-Identifier: MIT
# install.sh SOURCE BUILD MESON SANITIZE: the installed library is what its users find. Installs BUILD into an empty folder, and there:
# the headers each compile alone, as C and C++; the library exports what they declare and nothing else; a program compiles,
# links and runs, shared and static; so does what the manual shows; and a kernel without a libc links the guest's part.
# SANITIZE: what the build was given for b_sanitize; a program then links with the same.
# shellcheck disable=SC2046,SC2086 # flags are lists of words
set -eu
source=$1 build=$2 meson=$3 sanitize=$4
here=$source/tests/install
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CCACHE_DISABLE=1
cc=${CC:-cc} cxx=${CXX:-g++}
. "$(dirname "$0")/../fail.sh"

# --- install --------------------------------------------------------------------------------
"$meson" install -C "$build" --no-rebuild --destdir "$work/root" >"$work/log" 2>&1 || {
	cat "$work/log"
	exit 1
}
pc=$(find "$work/root" -name pvclock.pc)
[ -n "$pc" ] || { echo "FAIL: no pvclock.pc was installed"; exit 1; }
export PKG_CONFIG_SYSROOT_DIR="$work/root" PKG_CONFIG_LIBDIR="${pc%/*}"
export PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1
cflags=$(pkg-config --cflags pvclock)
libs=$(pkg-config --libs pvclock)
static_libs=$(pkg-config --static --libs pvclock)
libdir=$(pkg-config --variable=libdir pvclock)
includedir=$(pkg-config --variable=includedir pvclock)
# some pkg-configs put the sysroot before variables too
case $libdir in "$work"/*) ;; *) libdir=$work/root$libdir ;; esac
case $includedir in "$work"/*) ;; *) includedir=$work/root$includedir ;; esac
shared=$libdir/libpvclock.so
export LD_LIBRARY_PATH="$libdir"
warnings="-O2 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror"
c="$cc -std=c11 $warnings"
cpp="$cxx -std=c++11 $warnings"
if [ "$sanitize" != none ]; then
	c="$c -fsanitize=$sanitize" cpp="$cpp -fsanitize=$sanitize"
fi
command -v "$cxx" >/dev/null || { echo "skipped: $cxx is not here, so nothing is tried as C++"; cpp=; }

# try WHAT COMMAND...: says what failed, and how
try()
{
	trying=$1
	shift
	"$@" >"$work/log" 2>&1 || {
		echo "$*"
		cat "$work/log"
		fail "$trying"
		return 1
	}
}

# --- headers --------------------------------------------------------------------------------
count=0
for header in "$source"/include/pvclock/*.h; do
	name=$(basename "$header")
	if ! cmp -s "$header" "$includedir/pvclock/$name"; then
		fail "$name is not installed"
		continue
	fi
	echo "#include <pvclock/$name>" >"$work/alone.c"
	try "$name alone" $c $cflags -c "$work/alone.c" -o "$work/alone.o" || true
	[ -z "$cpp" ] || try "$name alone, as C++" $cpp $cflags -x c++ -c "$work/alone.c" -o "$work/alone.o" || true
	count=$((count + 1))
done
echo "headers: $count, each compiles alone"

# --- symbols --------------------------------------------------------------------------------
CC=$cc "$here/declared.sh" "$includedir" >"$work/declared"
sed -n 's/^extern //p' "$work/declared" | sort >"$work/wanted"
nm -D --defined-only "$shared" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort -u >"$work/exported"
[ "$(wc -l <"$work/wanted")" -gt 50 ] || fail "declared.sh finds hardly a function: it reads the headers wrongly"
for name in $(comm -23 "$work/wanted" "$work/exported"); do
	fail "$name is declared and not exported: add it to src/pvclock.map"
done
for name in $(comm -13 "$work/wanted" "$work/exported"); do
	fail "$name is exported and no header declares it"
done
echo "exported: $(wc -l <"$work/exported") symbols, $(wc -l <"$work/wanted") declared"

# --- a program ------------------------------------------------------------------------------
# run NAME COMPILE...: compiles to $work/NAME and runs it
run()
{
	name=$1
	shift
	try "use.c, $name: does not compile" "$@" -o "$work/$name" || return 0
	try "use.c, $name: does not run" "$work/$name" || return 0
	echo "use.c, $name: ran"
}

run shared $c $cflags "$here/use.c" $libs
readelf -d "$work/shared" | grep -q 'NEEDED.*libpvclock\.so\.0' || fail "the shared program does not ask for libpvclock.so.0"
run static $c $cflags "$here/use.c" "$libdir/libpvclock.a" $(echo "$static_libs" | sed 's/-lpvclock//')
if readelf -d "$work/static" | grep -q libpvclock; then
	fail "the static program asks for a shared libpvclock"
fi
[ -z "$cpp" ] || run c++ $cpp $cflags -x c++ "$here/use.c" -x none $libs

# --- what the manual shows --------------------------------------------------------------------
# Each literal block that begins with an #include compiles: a synopsis agrees with the headers, or the compiler says where.
examples=0
for page in "$source"/man/*.scd; do
	name=$(basename "$page" .scd)
	rm -f "$work"/block-*
	awk -v prefix="$work/block-" '
		/^```/ { inside = !inside; if (inside) { number++; first = 1 } next }
		inside { if (first) { take = /^#include/; first = 0 } if (take) print > (prefix number ".c") }' "$page"
	# as a reader sees it: scdoc takes a backslash away
	sed -i 's/\\\(.\)/\1/g' "$work"/block-*.c 2>/dev/null || true
	for block in "$work"/block-*.c; do
		[ -e "$block" ] || continue
		examples=$((examples + 1))
		if ! grep -q 'main(' "$block"; then
			try "a synopsis in $name" $c $cflags -c "$block" -o "$work/block.o" || true
			continue
		fi
		try "the example in $name" $c $cflags "$block" $libs -o "$work/example" || continue
		case $name in
		pvclock_kvm.3 | pvclock_source.3) continue ;; # run where the machine can
		esac
		try "the example in $name does not run" "$work/example" || true
	done
done
echo "manual: $examples blocks of C compile"

# --- a kernel -------------------------------------------------------------------------------
if [ "$sanitize" != none ]; then
	echo "skipped: a guest without a libc cannot link what $sanitize adds"
else
	freestanding="-std=c11 $warnings -ffreestanding -fno-stack-protector -fno-pic -mgeneral-regs-only -mno-red-zone"
	if try "a kernel does not compile" $cc $freestanding $cflags -c "$here/kernel.c" -o "$work/kernel.o" &&
	    try "a kernel does not link" $cc -nostdlib -static -no-pie -Wl,-e,start "$work/kernel.o" \
	    -L"$libdir" -lpvclock-guest -o "$work/kernel"; then
		undefined=$(nm -u "$work/kernel")
		[ -z "$undefined" ] || fail "a kernel would need $undefined"
	fi
	# the lines that the README shows one
	awk '/^## / { inside = $0 == "## Link it into a guest kernel" } !inside { next } /^```/ { block = !block; next } !block { next }
		/^$/ { print "void start(void);\nvoid start(void)\n{"; next }
		{ print } END { print "\tfor (;;)\n\t\t;\n}" }' "$source/README.md" >"$work/readme.c"
	grep -q pvclock_clocks_begin "$work/readme.c" || fail "README.md shows no guest kernel"
	try "the README's kernel does not compile" $cc $freestanding $cflags -c "$work/readme.c" -o "$work/readme.o" &&
		try "the README's kernel does not link" $cc -nostdlib -static -no-pie -Wl,-e,start "$work/readme.o" \
		    -L"$libdir" -lpvclock-guest -o "$work/readme" || true
	# not only what that kernel uses: all of the archive
	if try "the guest's archive" ld -r --whole-archive "$libdir/libpvclock-guest.a" -o "$work/whole.o"; then
		undefined=$(nm -u "$work/whole.o")
		[ -z "$undefined" ] || fail "libpvclock-guest.a needs $undefined"
	fi
	[ $failed != 0 ] || echo "kernel: linked, nothing undefined"
fi
exit $failed
