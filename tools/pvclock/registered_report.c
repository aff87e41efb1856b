/* SPDX-License-Identifier: MIT */
/* registered_report.c - what a guest has registered, for people and for programs. */
#define _GNU_SOURCE
#include "registered.h"

#include <inttypes.h>
#include <math.h>

static const char *status_name(uint8_t status)
{
	static const char *const names[] = { "unknown", "initializing", "synchronized", "free-running", "unreliable" };

	return status < sizeof(names) / sizeof(names[0]) ? names[status] : "in a state that this pvclock does not know";
}

static void print_counter(const struct registered *registered)
{
	const uint64_t units = registered->counter;

	if (!registered->counter_known)
		return;
	if (!registered->counter_compared)
		print_item("counter", "Hyper-V's: %" PRIu64 " x 100 ns; there is no page to compare it with", units);
	else if (registered->counter_off_ns == 0)
		print_item("counter", "Hyper-V's: %" PRIu64 " x 100 ns, as its page has it", units);
	else
		print_item("counter", "Hyper-V's: %" PRIu64 " x 100 ns, %+" PRId64 " ns from its page", units,
			   registered->counter_off_ns);
}

static bool print_told(const char *name, const struct told *told)
{
	if (told->known && told->why == NULL)
		return true;
	if (told->known && told->msr & PVCLOCK_MSR_ENABLE)
		print_item(name, "page at 0x%" PRIx64 ": not live (%s)", told->msr - PVCLOCK_MSR_ENABLE, told->why);
	else if (told->known)
		print_item(name, "no page (%s)", told->why);
	return false;
}

static void print_suspend(const struct registered *registered)
{
	const struct pvclock_suspend *slept = &registered->slept;

	if (!print_told("suspend", &registered->suspend))
		return;
	print_item("suspend", "page at 0x%" PRIx64 ": live, %" PRIu64 " times, last %s",
		   registered->suspend.msr - PVCLOCK_MSR_ENABLE, slept->count, pvclock_cause_name(slept->cause));
	print_item("", "%" PRIu64 " ns not counted, %" PRIu64 " ns counted, from tick %" PRIu64, slept->uncounted_ns,
		   slept->counted_ns, slept->counter);
}

static void print_nested(const struct registered *registered)
{
	const struct pvclock_nested *table = &registered->table;

	if (!print_told("nested", &registered->nested))
		return;
	print_item("nested", "page at 0x%" PRIx64 ": live, generation %" PRIu64 ", %s", registered->nested.msr - PVCLOCK_MSR_ENABLE,
		   table->generation, table->acknowledged == table->generation ? "acknowledged" : "not acknowledged");
	print_item("", "entries: %u pvclock pages, %u tables", registered->entries[PVCLOCK_NESTED_PAGE],
		   registered->entries[PVCLOCK_NESTED_TABLE]);
	if (table->rewritten != UINT32_MAX && table->generation != 0)
		print_item("", "at the last change %" PRIu32 " rewritten, %" PRIu32 " refused", table->rewritten, table->refused);
}

static void print_vmclock(const struct vmclock_view *view)
{
	const char *type = view->holds.time_type == PVCLOCK_VMCLOCK_TAI ? "TAI" : "UTC";

	if (!view->found)
		return;
	if (view->why != NULL) {
		print_item("VMClock", "not live (%s)", view->why);
		return;
	}
	print_item("VMClock", "live, %s, %s, sequence %" PRIu32, status_name(view->holds.status), type, view->holds.sequence);
	print_item("", "%" PRIu64 " s and %" PRIu64 " / 2^64 at tick %" PRIu64 ", period %" PRIu64 " / 2^%u s", view->holds.sec,
		   view->holds.frac, view->holds.counter, view->holds.period, 64 + view->holds.period_shift);
	if (view->rate_known)
		print_item("", "%.3f ppb %s than the pvclock page, as its host's clock is disciplined", fabs(view->rate_ppb),
			   view->rate_ppb < 0 ? "slower" : "faster");
	if (view->utc.known)
		print_item("", "%+" PRId64 " ns from CLOCK_REALTIME, within %" PRIu64 " ns", view->utc.ns, view->utc.error_ns);
}

void print_registered(const struct registered *registered)
{
	if (registered->msrs) {
		print_pages(registered->pages, registered->count);
		print_apart(&registered->apart);
	}
	print_counter(registered);
	print_suspend(registered);
	print_nested(registered);
	print_vmclock(&registered->vmclock);
}

/* --- JSON ------------------------------------------------------------------------------------------------- */

static json_t *told_to_json(const struct told *told)
{
	json_t *object;

	if (!told->known)
		return json_null();
	object = json_object();
	set_flag(object, "live", told->why == NULL);
	if (told->msr & PVCLOCK_MSR_ENABLE)
		set_number(object, "gpa", told->msr - PVCLOCK_MSR_ENABLE);
	if (told->why != NULL)
		set_text(object, "why", told->why);
	return object;
}

static json_t *suspend_to_json(const struct registered *registered)
{
	json_t *object = told_to_json(&registered->suspend);

	if (!json_is_object(object) || registered->suspend.why != NULL)
		return object;
	set_number(object, "count", registered->slept.count);
	set_text(object, "cause", pvclock_cause_name(registered->slept.cause));
	set_number(object, "uncounted_ns", registered->slept.uncounted_ns);
	set_number(object, "counted_ns", registered->slept.counted_ns);
	set_number(object, "counter", registered->slept.counter);
	return object;
}

static json_t *nested_to_json(const struct registered *registered)
{
	json_t *object = told_to_json(&registered->nested);

	if (!json_is_object(object) || registered->nested.why != NULL)
		return object;
	set_number(object, "generation", registered->table.generation);
	set_number(object, "acknowledged", registered->table.acknowledged);
	set_number(object, "pages", registered->entries[PVCLOCK_NESTED_PAGE]);
	set_number(object, "tables", registered->entries[PVCLOCK_NESTED_TABLE]);
	if (registered->table.rewritten != UINT32_MAX) {
		set_number(object, "rewritten", registered->table.rewritten);
		set_number(object, "refused", registered->table.refused);
	}
	return object;
}

static json_t *vmclock_to_json(const struct vmclock_view *view)
{
	json_t *object = json_object();
	char number[24];

	set_flag(object, "live", view->why == NULL);
	if (view->why != NULL) {
		set_text(object, "why", view->why);
		return object;
	}
	set_text(object, "status", status_name(view->holds.status));
	set_text(object, "type", view->holds.time_type == PVCLOCK_VMCLOCK_TAI ? "TAI" : "UTC");
	set_number(object, "sequence", view->holds.sequence);
	set_number(object, "counter", view->holds.counter);
	set_number(object, "seconds", view->holds.sec);
	/* 64 bits, of which readers of JSON may lose some */
	snprintf(number, sizeof(number), "%" PRIu64, view->holds.frac);
	set_text(object, "fraction", number);
	snprintf(number, sizeof(number), "%" PRIu64, view->holds.period);
	set_text(object, "period", number);
	set_number(object, "period_shift", view->holds.period_shift);
	if (view->rate_known)
		set_real(object, "rate_ppb", view->rate_ppb);
	if (view->utc.known) {
		json_object_set_new(object, "realtime_ns", json_integer(view->utc.ns));
		set_number(object, "realtime_error_ns", view->utc.error_ns);
	}
	if (view->utc.known && view->max_error_ns != PVCLOCK_VMCLOCK_ERROR_UNKNOWN)
		set_number(object, "max_error_ns", view->max_error_ns);
	return object;
}

void set_registered(json_t *object, const struct registered *registered)
{
	json_t *counter = json_null();

	if (registered->counter_known) {
		counter = json_object();
		set_number(counter, "units", registered->counter);
		if (registered->counter_compared)
			json_object_set_new(counter, "off_ns", json_integer(registered->counter_off_ns));
	}
	json_object_set_new(object, "hyperv_counter", counter);
	json_object_set_new(object, "suspend", suspend_to_json(registered));
	json_object_set_new(object, "nested", nested_to_json(registered));
	json_object_set_new(object, "vmclock", vmclock_to_json(&registered->vmclock));
}
