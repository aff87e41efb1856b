/* SPDX-License-Identifier: MIT */
/* guest_report.c - what pvclock guest found, for people and for programs. */
#define _GNU_SOURCE
#include "guest.h"

#include <inttypes.h>
#include <string.h>

static const char *const clock_names[WARP_CLOCKS] = { "TSC", "CLOCK_MONOTONIC_RAW", "page" };
static const char *const clock_keys[WARP_CLOCKS] = { "tsc", "raw", "page" };

static void print_page(const struct guest *guest)
{
	const struct pvclock_line *line = &guest->snapshot.line;
	uint64_t mhz = millihertz(line->mul, line->shift);

	print_item("page", "version %" PRIu32 ", %s", guest->snapshot.version, page_flag_names(guest->snapshot.flags));
	print_item("", "%" PRIu64 " ns at tick %" PRIu64 ", %.3f s ago", line->ns, line->tsc, guest->age_seconds);
	print_item("", "mul %" PRIu32 ", shift %d: a TSC of %" PRIu64 ".%03" PRIu64 " Hz", line->mul, line->shift,
		   mhz / 1000, mhz % 1000);
	if (guest->drift_measured)
		print_item("drift", "%+.1f ppb against CLOCK_MONOTONIC_RAW, as measured to +-%.1f ppb",
			   guest->drift_ppb, guest->drift_error_ppb);
	if (guest->drift_exact)
		print_item(guest->drift_measured ? "" : "drift", "%+.3f ppb exactly, by the kernel's own integers",
			   guest->drift_exact_ppb);
}

static void print_warps(const struct guest *guest)
{
	for (unsigned int i = 0; i < WARP_CLOCKS; i++) {
		const struct warp *warp = &guest->warps.clocks[i];

		if (i == WARP_PAGE && !guest->warps.page_read)
			continue;
		print_item(i == 0 ? "steps back" : "",
			   "%s: %" PRIu64 " of %" PRIu64 " reads on %u CPUs, the worst %" PRIu64 " %s", clock_names[i],
			   warp->backward, warp->reads, guest->warps.cpus, warp->worst, i == WARP_TSC ? "ticks" : "ns");
	}
}

void print_guest(const struct guest *guest)
{
	print_item("kernel", "%s", guest->kernel.release);
	print_machine(&guest->machine);
	print_item("clocksource", "%s (available: %s)", guest->clocksources.current, guest->clocksources.available);
	if (guest->page != NULL)
		print_page(guest);
	else
		print_item("page", "not to be had");
	if (!guest->registered.msrs && guest->machine.hyperv) {
		print_pages(&guest->vdso.pages[SHOWN_HYPERV], 1);
		print_apart(&guest->vdso.apart);
	}
	if (guest->machine.guest)
		print_registered(&guest->registered);
	print_warps(guest);
	print_item("clock_gettime", "%.1f ns, as a syscall %.1f ns: the vDSO %s", guest->vdso_ns, guest->syscall_ns,
		   guest->vdso_answers ? "answers" : "does not answer");
	print_notes(&guest->notes);
}

static json_t *page_to_json(const struct guest *guest)
{
	const struct pvclock_line *line = &guest->snapshot.line;
	json_t *object, *drift;

	if (guest->page == NULL)
		return json_null();
	object = json_object();
	set_number(object, "version", guest->snapshot.version);
	set_number(object, "tsc_timestamp", line->tsc);
	set_number(object, "system_time", line->ns);
	set_number(object, "mul", line->mul);
	json_object_set_new(object, "shift", json_integer(line->shift));
	set_flag(object, "tsc_stable", guest->snapshot.flags & PVCLOCK_TSC_STABLE);
	set_flag(object, "guest_stopped", guest->snapshot.flags & PVCLOCK_GUEST_STOPPED);
	set_number(object, "millihertz", millihertz(line->mul, line->shift));
	set_real(object, "age_seconds", guest->age_seconds);
	drift = json_object();
	if (guest->drift_measured) {
		set_real(drift, "measured_ppb", guest->drift_ppb);
		set_real(drift, "error_ppb", guest->drift_error_ppb);
	}
	if (guest->drift_exact)
		set_real(drift, "exact_ppb", guest->drift_exact_ppb);
	json_object_set_new(object, "drift", drift);
	return object;
}

static json_t *warps_to_json(const struct guest *guest)
{
	json_t *object = json_object();

	set_number(object, "cpus", guest->warps.cpus);
	for (unsigned int i = 0; i < WARP_CLOCKS; i++) {
		const struct warp *warp = &guest->warps.clocks[i];
		json_t *one;

		if (i == WARP_PAGE && !guest->warps.page_read)
			continue;
		one = json_object();
		set_number(one, "reads", warp->reads);
		set_number(one, "backward", warp->backward);
		set_number(one, i == WARP_TSC ? "worst_ticks" : "worst_ns", warp->worst);
		json_object_set_new(object, clock_keys[i], one);
	}
	return object;
}

/* By the MSRs, where these may be read: those of all vCPUs; else what processes see. */
static void set_pages(json_t *object, const struct guest *guest)
{
	const struct registered *registered = &guest->registered;

	if (registered->msrs) {
		json_object_set_new(object, "pages", pages_to_json(registered->pages, registered->count));
		json_object_set_new(object, "apart", apart_to_json(&registered->apart));
	} else {
		json_object_set_new(object, "pages", vdso_pages_to_json(&guest->vdso));
		json_object_set_new(object, "apart", apart_to_json(&guest->vdso.apart));
	}
	set_registered(object, registered);
}

void print_guest_json(const struct guest *guest)
{
	json_t *object = json_object(), *cost = json_object();

	set_text(object, "kernel", guest->kernel.release);
	set_machine(object, &guest->machine);
	json_object_set_new(object, "clocksource", clocksources_to_json(&guest->clocksources));
	json_object_set_new(object, "page", page_to_json(guest));
	set_pages(object, guest);
	json_object_set_new(object, "steps_back", warps_to_json(guest));
	set_real(cost, "call_ns", guest->vdso_ns);
	set_real(cost, "syscall_ns", guest->syscall_ns);
	set_flag(cost, "vdso_answers", guest->vdso_answers);
	json_object_set_new(object, "clock_gettime", cost);
	json_object_set_new(object, "notes", notes_to_json(&guest->notes));
	print_json(object);
}
