/* SPDX-License-Identifier: MIT */
/* host_report.c - what pvclock host found, for people and for programs. */
#define _GNU_SOURCE
#include "host.h"

#include <inttypes.h>
#include <math.h>

static const char *yes(bool value)
{
	return value ? "yes" : "no";
}

static uint64_t source_millihertz(const struct pvclock_source_state *source)
{
	return millihertz(source->mult, 32 - (int)source->shift);
}

/* Where the line is from: for programs, and for people. */
static const char *from_name(enum pvclock_source_from from)
{
	switch (from) {
	case PVCLOCK_SOURCE_FROM_KVM_PAGE:
		return "kvm-page";
	case PVCLOCK_SOURCE_FROM_HYPERV_PAGE:
		return "hyperv-page";
	case PVCLOCK_SOURCE_FROM_SAMPLES:
	default:
		return "samples";
	}
}

static const char *from_text(enum pvclock_source_from from)
{
	switch (from) {
	case PVCLOCK_SOURCE_FROM_KVM_PAGE:
		return "read from the hypervisor's pvclock page and verified";
	case PVCLOCK_SOURCE_FROM_HYPERV_PAGE:
		return "read from Hyper-V's TSC page (here its nearest 32 bits) and verified";
	case PVCLOCK_SOURCE_FROM_SAMPLES:
	default:
		return "proven";
	}
}

/* The best estimate against the line, in ppb: what the samples by themselves can say of a page. */
static double residual_ppb(const struct pvclock_source_state *source)
{
	return source->residual / source->mult * 1e9;
}

static void print_line(const struct host *host)
{
	const struct pvclock_source_state *source = &host->source;
	uint64_t mhz = source_millihertz(source);

	if (!host->line) {
		print_item("line", "none (%s)", pvclock_reason_name(host->source_reason.code));
		return;
	}
	print_item("line", "%" PRIu32 " / 2^%u ns per tick, %s: a TSC of %" PRIu64 ".%03" PRIu64 " Hz",
		   source->mult, source->shift, from_text(source->from), mhz / 1000, mhz % 1000);
	if (source->from == PVCLOCK_SOURCE_FROM_SAMPLES)
		print_item("", "%" PRIu64 " samples in %.2f s, narrowest bracket %" PRIu64 " ticks, best estimate off "
			   "by %+.4f of one unit", source->samples, (double)source->elapsed_ns / 1e9,
			   source->bracket_ticks, source->residual);
	else
		print_item("", "%" PRIu64 " samples in %.2f s, narrowest bracket %" PRIu64 " ticks, none against it; "
			   "best estimate off by %+.0f ppb", source->samples, (double)source->elapsed_ns / 1e9,
			   source->bracket_ticks, residual_ppb(source));
	print_item("as a page", "mul %" PRIu32 ", shift %d: %s", host->page.mul, host->page.shift,
		   host->page_exact ? "exact" : "the nearest of 32 bits, up to 0.233 ppb off");
}

static void print_kvm(const struct host *host)
{
	const struct pvclock_kvm_capabilities *can = &host->capabilities;
	const char *offset = can->tsc_offset_honoured ? "yes" : can->tsc_offset_attribute ? "ignored" : "no";

	if (!host->kvm) {
		print_item("KVM", "none");
		return;
	}
	if (host->kvm_page)
		print_item("KVM's page", "mul %" PRIu32 ", shift %d, made of %" PRIu32 " kHz", host->kvm_line.mul,
			   host->kvm_line.shift, can->tsc_khz);
	if (host->kvm_off_known)
		print_item("", "%.3f ppb %s than this machine's clock: %.3f ms a day", fabs(host->kvm_off_ppb),
			   host->kvm_off_ppb < 0 ? "slower" : "faster", fabs(host->kvm_off_ppb) * 86400 / 1e6);
	print_item("KVM", "%s: MSR filter %s, TSC offset %s, TSC scaling %s, deadline timer %s, clock flags 0x%" PRIx32,
		   host->kvm_path, yes(can->user_space_msr && can->msr_filter), offset, yes(can->tsc_control),
		   yes(can->tsc_deadline_timer), can->clock_flags);
	print_item("stolen time", "%s", can->steal_kernel && can->steal_own ? "told by KVM, or in own mode by the VMM" : can->steal_kernel ?
		   "told by KVM" : can->steal_own ? "told in own mode by the VMM; KVM does not" : "told by nobody");
	print_item("master clock", "%s", !can->master_clock ? "off" : can->clock_guest ?
		   "on; steer mode sets it by KVM_SET_CLOCK_GUEST" :
		   "on; steer mode aims it by trial, as this kernel has no KVM_SET_CLOCK_GUEST");
}

void print_host(const struct host *host)
{
	print_item("kernel", "%s", host->kernel.release);
	print_item("CPU", "%s", host->cpu[0] != '\0' ? host->cpu : "unknown");
	print_item("clocksource", "%s (available: %s)", host->clocksources.current, host->clocksources.available);
	print_machine(&host->machine);
	if (host->machine.guest)
		print_vdso_pages(&host->vdso);
	print_line(host);
	print_kvm(host);
	print_item("mode", "%s: %s", pvclock_mode_name(host->mode), host->why);
	print_notes(&host->notes);
}

static json_t *line_to_json(const struct host *host)
{
	const struct pvclock_source_state *source = &host->source;
	json_t *object = json_object(), *page, *reason;

	set_flag(object, "proven", host->line);
	if (!host->line) {
		reason = json_object();
		set_text(reason, "code", pvclock_reason_name(host->source_reason.code));
		set_text(reason, "text", host->source_reason.text);
		json_object_set_new(object, "reason", reason);
		return object;
	}
	set_text(object, "from", from_name(source->from));
	set_number(object, "mult", source->mult);
	set_number(object, "shift", source->shift);
	set_number(object, "millihertz", source_millihertz(source));
	set_number(object, "samples", source->samples);
	set_real(object, "seconds", (double)source->elapsed_ns / 1e9);
	set_number(object, "bracket_ticks", source->bracket_ticks);
	set_real(object, "estimate", source->estimate);
	set_real(object, "residual", source->residual);
	set_real(object, "residual_ppb", residual_ppb(source));
	page = json_object();
	set_number(page, "mul", host->page.mul);
	json_object_set_new(page, "shift", json_integer(host->page.shift));
	set_flag(page, "exact", host->page_exact);
	json_object_set_new(object, "page", page);
	return object;
}

static json_t *kvm_to_json(const struct host *host)
{
	const struct pvclock_kvm_capabilities *can = &host->capabilities;
	json_t *object = json_object(), *page;

	set_text(object, "device", host->kvm_path);
	set_flag(object, "usable", host->kvm);
	if (!host->kvm)
		return object;
	set_flag(object, "user_space_msr", can->user_space_msr);
	set_flag(object, "msr_filter", can->msr_filter);
	set_number(object, "clock_flags", can->clock_flags);
	set_flag(object, "tsc_control", can->tsc_control);
	set_flag(object, "vm_tsc_control", can->vm_tsc_control);
	set_flag(object, "tsc_offset_attribute", can->tsc_offset_attribute);
	set_flag(object, "tsc_offset_honoured", can->tsc_offset_honoured);
	set_flag(object, "kvmclock_ctrl", can->kvmclock_ctrl);
	set_flag(object, "immediate_exit", can->immediate_exit);
	set_flag(object, "tsc_deadline_timer", can->tsc_deadline_timer);
	set_number(object, "tsc_khz", can->tsc_khz);
	set_flag(object, "clock_guest", can->clock_guest);
	set_flag(object, "steal_kernel", can->steal_kernel);
	set_flag(object, "steal_own", can->steal_own);
	set_flag(object, "master_clock", can->master_clock);
	if (!can->master_clock)
		set_text(object, "master_clock_reason", can->master_clock_reason.text);
	if (host->kvm_page) {
		page = json_object();
		set_number(page, "mul", host->kvm_line.mul);
		json_object_set_new(page, "shift", json_integer(host->kvm_line.shift));
		if (host->kvm_off_known)
			set_real(page, "off_ppb", host->kvm_off_ppb);
		json_object_set_new(object, "page", page);
	}
	return object;
}

void print_host_json(const struct host *host)
{
	json_t *object = json_object();

	set_text(object, "kernel", host->kernel.release);
	set_text(object, "cpu", host->cpu);
	json_object_set_new(object, "clocksource", clocksources_to_json(&host->clocksources));
	set_machine(object, &host->machine);
	json_object_set_new(object, "pages", vdso_pages_to_json(&host->vdso));
	json_object_set_new(object, "apart", apart_to_json(&host->vdso.apart));
	json_object_set_new(object, "line", line_to_json(host));
	json_object_set_new(object, "kvm", kvm_to_json(host));
	set_text(object, "mode", pvclock_mode_name(host->mode));
	set_text(object, "why", host->why);
	json_object_set_new(object, "notes", notes_to_json(&host->notes));
	print_json(object);
}
