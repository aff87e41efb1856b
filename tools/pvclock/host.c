/* SPDX-License-Identifier: MIT */
/* host.c - pvclock host: the line of this machine, what its KVM can do, and what a VM would get of both. */
#define _GNU_SOURCE
#include "host.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#define LEARN_TIMEOUT_NS 20000000000u
/* A page is proven in 10 ms; as long as a proof from samples takes, the clock says more of it. */
#define COMPARE_NS 1000000000u
#define COMPARE_INTERVAL_NS 10000000u

static int compare_page(struct pvclock_source *source, struct pvclock_reason *reason)
{
	const struct pvclock_os *os = pvclock_os_linux();
	struct pvclock_source_state state;
	int error = 0;

	for (uint64_t slept_ns = 0; error == 0; slept_ns += COMPARE_INTERVAL_NS) {
		pvclock_source_get(source, &state);
		if (state.from == PVCLOCK_SOURCE_FROM_SAMPLES || state.elapsed_ns >= COMPARE_NS ||
		    slept_ns >= COMPARE_NS)
			break;
		os->ops->sleep(os->ctx, COMPARE_INTERVAL_NS);
		error = pvclock_source_sample(source, reason);
		if (error == -EAGAIN)
			error = 0; /* the page was being written: proven it is all the same */
	}
	return error;
}

void learn_host(struct host *host)
{
	struct pvclock_source *source;
	int error = pvclock_source_open(pvclock_os_linux(), &source, &host->source_reason);

	if (error == 0) {
		error = pvclock_source_learn(source, LEARN_TIMEOUT_NS, &host->source_reason);
		if (error == 0)
			error = compare_page(source, &host->source_reason);
		pvclock_source_get(source, &host->source);
		pvclock_source_close(source);
	}
	if (error == 0) {
		host->line = pvclock_line_make(&host->page, 0, 0, &host->source.slope, &host->page_exact);
		if (host->source.moves != 0)
			note(&host->notes, "The hypervisor moved this machine's clock by %" PRId64 " ns while it was "
					   "looked at; guests in own mode do not see it.", host->source.moved_ns);
		return;
	}
	if (error == -ENOMEM)
		snprintf(host->source_reason.text, sizeof(host->source_reason.text), "Out of memory.");
	note(&host->notes, "%s", host->source_reason.text);
}

void probe_host_kvm(struct host *host)
{
	int fd = open(host->kvm_path, O_RDWR | O_CLOEXEC), error;

	if (fd < 0) {
		switch (errno) {
		case ENOENT:
		case ENODEV:
		case ENXIO:
			note(&host->notes,
			     "%s is not there: load kvm_intel or kvm_amd; if that fails, enable virtualization in the "
			     "firmware or, inside "
			     "a virtual machine, nested virtualization on its host.", host->kvm_path);
			break;
		case EACCES:
		case EPERM:
			note(&host->notes, "%s may not be opened by this user: join the group that owns it (often "
					   "kvm), or run as root.",
			     host->kvm_path);
			break;
		default:
			note(&host->notes, "Opening %s failed: %s.", host->kvm_path, strerror(errno));
			break;
		}
		return;
	}
	error = pvclock_kvm_probe(pvclock_os_linux(), fd, &host->capabilities);
	close(fd);
	if (error < 0) {
		note(&host->notes, "KVM made no virtual machine on %s: %s; another hypervisor may be using the "
				   "CPU.", host->kvm_path,
		     strerror(-error));
		return;
	}
	host->kvm = true;
}

/* What KVM makes of its kHz, and how far that is from the truth. */
static void compare_kvm_page(struct host *host)
{
	struct pvclock_slope slope;

	if (!host->kvm || !pvclock_line_make_kvm(&host->kvm_line, 0, 0, host->capabilities.tsc_khz) ||
	    !pvclock_slope_from_line(&host->kvm_line, &slope))
		return;
	host->kvm_page = true;
	if (!host->line)
		return;
	host->kvm_off_known = true;
	host->kvm_off_ppb = to_ppb(pvclock_slope_difference(&slope, &host->source.slope));
}

static void note_capabilities(struct host *host)
{
	const struct pvclock_kvm_capabilities *can = &host->capabilities;

	if (!can->user_space_msr || !can->msr_filter)
		note(&host->notes, "KVM cannot hand a guest's clock MSRs to userspace (KVM_CAP_X86_USER_SPACE_MSR and "
		     "KVM_CAP_X86_MSR_FILTER), which own mode needs: use Linux 5.10 or newer.");
	if (!can->master_clock)
		note(&host->notes, "%s", can->master_clock_reason.text);
	if (!(can->clock_flags & KVM_CLOCK_HOST_TSC))
		note(&host->notes, "KVM_GET_CLOCK does not tell the host TSC, which steer mode needs: use Linux 5.16 "
				   "or newer.");
	if (!can->tsc_offset_attribute)
		note(&host->notes, "KVM has no KVM_VCPU_TSC_OFFSET, so a guest's TSC cannot be set exactly, and a "
				   "freeze needs a new line: use "
		     "Linux 5.16 or newer.");
	else if (!can->tsc_offset_honoured)
		note(&host->notes, "KVM accepts a TSC offset and ignores it, as software-nested KVMs do: guests keep "
				   "this machine's TSC, a freeze "
		     "needs a new line, and only a host whose KVM offsets the TSC does better.");
	if (!can->tsc_control)
		note(&host->notes, "This CPU (or the hypervisor below) does not scale the TSC: a VM from a host with "
				   "another TSC rate gets a new "
		     "line here, continuous at the switch; only a CPU with TSC scaling keeps its rate.");
	if (!can->kvmclock_ctrl)
		note(&host->notes, "KVM has no KVM_KVMCLOCK_CTRL, so outside own mode a guest is not told that it was "
				   "stopped: use own mode.");
	if (!can->immediate_exit)
		note(&host->notes, "KVM has no immediate_exit, so a pending MSR exit cannot be completed before a "
				   "save: use Linux 4.12 or newer.");
	if (!can->steal_own)
		note(&host->notes, "This kernel does not say how long a thread waited for a CPU (/proc/PID/task/TID/schedstat), so a VMM cannot tell its "
		     "guests their stolen time: use one with CONFIG_SCHED_INFO.");
	if (!can->tsc_deadline_timer)
		note(&host->notes, "KVM offers no TSC deadline timer: guests fall back to the APIC's counter, whose "
				   "expiry pvclock cannot compute.");
}

static void choose_mode(struct host *host)
{
	const struct pvclock_kvm_capabilities *can = &host->capabilities;

	host->mode = PVCLOCK_MODE_STOCK;
	if (!host->kvm)
		snprintf(host->why, sizeof(host->why), "there is no usable KVM");
	else if (can->user_space_msr && can->msr_filter && host->line) {
		host->mode = PVCLOCK_MODE_OWN;
		snprintf(host->why, sizeof(host->why), "userspace publishes the page, with the host's %s slope",
			 host->page_exact ? "exact" : "nearest");
	} else if (can->master_clock && (can->clock_flags & KVM_CLOCK_HOST_TSC)) {
		host->mode = PVCLOCK_MODE_STEER;
		snprintf(host->why, sizeof(host->why), "KVM publishes the page and is aimed to 1 ns, because %s",
			 host->line ? "KVM does not hand over the clock MSRs" : "the host's own line is not known");
	} else
		snprintf(host->why, sizeof(host->why), "%s, and %s",
			 host->line ? "KVM does not hand over the clock MSRs" : "the host's own line is not known",
			 can->master_clock ? "KVM does not tell the host TSC" : "KVM's master clock is off");
}

static void print_help(void)
{
	puts("Usage: pvclock host [--json] [--kvm PATH]\n\n"
	     "Learns this machine's clock exactly (about a second), looks at what its KVM can do, and says which clock "
	     "a\n"
	     "virtual machine would get, and why.\n\n"
	     "  --json      print JSON\n"
	     "  --kvm PATH  the KVM device (default /dev/kvm)\n\n"
	     "Exit code: 0 if pvclock can give a VM its clock (own or steer mode), 1 if not, 2 for a usage error.");
}

int host_command(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "kvm", required_argument, NULL, 'k' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct host host = { .kvm_path = "/dev/kvm" };
	bool json = false;
	int option;

	while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (option) {
		case 'j':
			json = true;
			break;
		case 'k':
			host.kvm_path = optarg;
			break;
		case 'h':
			print_help();
			return EXIT_FINE;
		default:
			return usage_error("host");
		}
	}
	if (optind != argc) {
		fprintf(stderr, "pvclock host: %s is no option\n", argv[optind]);
		return usage_error("host");
	}

	uname(&host.kernel);
	read_field("/proc/cpuinfo", "model name", host.cpu, sizeof(host.cpu));
	read_clocksources(&host.clocksources);
	look_at_machine(pvclock_os_linux(), &host.machine);
	look_at_vdso_pages(pvclock_os_linux(), &host.machine, true, &host.vdso);
	learn_host(&host);
	look_at_vdso_pages(pvclock_os_linux(), &host.machine, false, &host.vdso);
	probe_host_kvm(&host);
	compare_kvm_page(&host);
	if (host.kvm)
		note_capabilities(&host);
	choose_mode(&host);
	if (json)
		print_host_json(&host);
	else
		print_host(&host);
	return host.mode == PVCLOCK_MODE_STOCK ? EXIT_LACKING : EXIT_FINE;
}
