# SPDX-License-Identifier: MIT
# What a person types. Everything is built by Meson, each variant in a folder of its own below build/.
#
#   make demo    build, run a guest whose clock pvclock owns, and show it beside stock KVM (out/report.html)
#   make test    all tests: under ASan+UBSan, units and torture under TSan, on the real KVM
#   make quick   the tests that take seconds
#   make lab     stock Linux guests on stock QEMU, with and without pvclock, on any machine (out/lab.json)
#   make lab-libvirt   docs/qemu.md's lines for libvirt, tried there with Debian's libvirt and AppArmor
#   make bench   ratios in one run          make fuzz   each fuzz target for FUZZ_SECONDS
#   make install PREFIX=/usr/local          make clean

BUILD ?= build
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 30

.PHONY: all demo test quick lab lab-libvirt bench fuzz docs install clean

all: $(BUILD)/release/build.ninja
	@meson compile -C $(BUILD)/release

demo:
	@scripts/demo.sh $(BUILD)

test:
	@scripts/test.sh $(BUILD) all

quick:
	@scripts/test.sh $(BUILD) quick

lab:
	@scripts/lab.sh $(BUILD) $(SCENARIOS)

lab-libvirt:
	@lab/libvirt.sh $(BUILD)

bench: all
	@$(BUILD)/release/bench/pvclock-bench

fuzz:
	@scripts/fuzz.sh $(BUILD) $(FUZZ_SECONDS)

install: all
	@meson configure $(BUILD)/release -Dprefix=$(PREFIX)
	@meson install -C $(BUILD)/release

$(BUILD)/release/build.ninja:
	@scripts/deps.sh build
	@meson setup $(BUILD)/release -Dtests=false >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }

clean:
	rm -rf $(BUILD) $(BUILD).log out
