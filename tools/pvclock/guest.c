/* SPDX-License-Identifier: MIT */
/* guest.c - pvclock guest: the clock that this virtual machine was given, decoded and measured. */
#define _GNU_SOURCE
#include "guest.h"

#include <pvclock/os.h>

#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What the guest's kernel told the host. For root, with the msr module. */
static void read_registered(struct guest *guest)
{
	struct kernel_memory memory;
	struct access access = { .read_msr = read_cpu_msr, .read_memory = read_kernel_memory, .ctx = &memory };
	long cpus = sysconf(_SC_NPROCESSORS_CONF); /* offline ones are passed over */

	kernel_memory_open(&memory, "/proc/kcore");
	access.vmclock = map_vmclock("/dev/vmclock0");
	look_at_registered(pvclock_os_linux(), &guest->machine, &access, cpus > 0 ? (unsigned int)cpus : 1, &guest->vdso,
			   &guest->registered);
	kernel_memory_close(&memory);
}

static void explain_page(struct guest *guest)
{
	struct notes *notes = &guest->notes;
	bool offered = strstr(guest->clocksources.available, "kvm-clock") != NULL;

	if (!guest->machine.guest) {
		note(notes, "CPUID names no hypervisor: this is no virtual machine, and its clock is its own; see "
			    "pvclock host.");
		return;
	}
	if (!guest->machine.kvm) {
		note(notes, "The hypervisor does not say KVM (CPUID 0x40000000), so there is no pvclock page to look "
			    "at.");
		return;
	}
	if ((guest->machine.kvm_features & (1u << 0 | 1u << 3)) == 0) {
		note(notes, "This VM was not given kvm-clock (CPUID 0x40000001 EAX bits 0 and 3 are clear): have its "
			    "host offer "
			    "it (QEMU: -cpu ...,kvmclock=on).");
		return;
	}
	switch (guest->found) {
	case PAGE_FOUND:
		break;
	case PAGE_NO_MAPPING:
		note(notes, "This process has no vDSO data ([vvar]) to find the page in: boot the kernel without "
			    "vdso=0, and use a 64-bit pvclock.");
		break;
	case PAGE_FAULTS:
		if (!offered)
			note(notes, "The kernel does not map the page, for it does not use kvm-clock: boot it with "
				    "CONFIG_KVM_GUEST and "
				    "without no-kvmclock.");
		else
			note(notes, "The kernel maps the page only once it has kept time by kvm-clock, and only if the "
				    "host called it stable: "
				    "as root, echo kvm-clock > "
				    "/sys/devices/system/clocksource/clocksource0/current_clocksource, and try again.");
		break;
	case PAGE_NONSENSE:
		note(notes, "What this kernel maps where the page should be is no page of a running clock: it lays its "
			    "vDSO data out "
			    "otherwise than Linux 4.x to 6.x.");
		break;
	case PAGE_BUSY:
		note(notes, "The page's version stays odd: its host began to write it and never finished. Pause and "
			    "resume the VM.");
		break;
	}
}

static void judge_page(struct guest *guest)
{
	bool stable = (guest->snapshot.flags & PVCLOCK_TSC_STABLE) != 0;

	if (!stable)
		note(&guest->notes, "The page is not marked stable: every CPU has a line of its own, and the kernel "
				    "answers clock_gettime by "
		     "syscall; on the host, pvclock host says why.");
	if (stable && (guest->machine.kvm_features & 1u << 24) == 0)
		note(&guest->notes, "The page is marked stable, but CPUID (0x40000001 EAX bit 24) does not promise the "
				    "flag, so the kernel "
		     "ignores it: have the host offer it (QEMU: -cpu ...,kvmclock-stable-bit=on).");
	if (guest->snapshot.flags & PVCLOCK_GUEST_STOPPED)
		note(&guest->notes, "The host said that this VM was stopped, and the kernel has not looked yet: a "
				    "kernel that keeps time by the "
		     "TSC never does.");
}

static bool went_back(const struct guest *guest)
{
	for (unsigned int i = 0; i < WARP_CLOCKS; i++)
		if (guest->warps.clocks[i].backward != 0)
			return true;
	return false;
}

static void print_help(void)
{
	puts("Usage: pvclock guest [--json] [--seconds N]\n\n"
	     "Inside a KVM virtual machine: decodes the clock page that the host writes, measures its drift, looks for "
	     "steps\n"
	     "back between CPUs, and tells what reading the clock costs. Needs no privileges.\n\n"
	     "  --json       print JSON\n"
	     "  --seconds N  look for steps back so long (default 2)\n\n"
	     "Exit code: 0 if the page could be read and nothing went back, 1 if not, 2 for a usage error.");
}

int guest_command(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "seconds", required_argument, NULL, 's' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct guest guest = { 0 };
	double seconds = 2;
	bool json = false;
	int option;

	while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		char *end;

		switch (option) {
		case 'j':
			json = true;
			break;
		case 's':
			seconds = strtod(optarg, &end);
			if (*optarg == '\0' || *end != '\0' || !(seconds > 0 && seconds <= 86400)) {
				fprintf(stderr, "pvclock guest: --seconds takes a number above 0, up to 86400\n");
				return usage_error("guest");
			}
			break;
		case 'h':
			print_help();
			return EXIT_FINE;
		default:
			return usage_error("guest");
		}
	}
	if (optind != argc) {
		fprintf(stderr, "pvclock guest: %s is no option\n", argv[optind]);
		return usage_error("guest");
	}

	uname(&guest.kernel);
	read_clocksources(&guest.clocksources);
	look_at_machine(pvclock_os_linux(), &guest.machine);
	look_at_vdso_pages(pvclock_os_linux(), &guest.machine, true, &guest.vdso);
	/* elsewhere there may be anything at that place */
	guest.found = guest.machine.kvm ? find_page(&guest.page, &guest.snapshot) : PAGE_NO_MAPPING;
	explain_page(&guest);
	if (guest.page != NULL) {
		const struct pvclock_os *os = pvclock_os_linux();
		uint64_t now = pvclock_line_ns(&guest.snapshot.line, os->ops->read_tsc(os->ctx).ticks);

		guest.age_seconds = (double)(now - guest.snapshot.line.ns) / 1e9;
		judge_page(&guest);
	}
	measure_guest(&guest, seconds);
	look_at_vdso_pages(pvclock_os_linux(), &guest.machine, false, &guest.vdso);
	read_registered(&guest);
	if (went_back(&guest))
		note(&guest.notes, "Time went back from one CPU to another: the CPUs' TSCs or lines are not in step; "
				   "on the host, pvclock host "
		     "says why.");
	if (json)
		print_guest_json(&guest);
	else
		print_guest(&guest);
	registered_clear(&guest.registered);
	return guest.page != NULL && !went_back(&guest) ? EXIT_FINE : EXIT_LACKING;
}
