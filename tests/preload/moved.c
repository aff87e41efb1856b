/* SPDX-License-Identifier: MIT */
/*
 * moved.c - P8: a VMM on a machine whose host moves it, on a real KVM. The preload is linked in here, with another parent_machine.c: the
 * machine's host is this test. It moves the machine to another rate between two calls, as docs/spec/nested.md has it, and the VMM
 * notices nothing. (The machine stays where it is, in truth, so its clock then runs at another rate than it says.)
 *
 * Exit: 0 passed, 1 failed, 77 not here (with the reason).
 */
#include "qemu_like.h"

#include "../../tools/preload/parent.h"
#include "../../tools/preload/preload.h"

#include <pvclock/interface.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static _Alignas(4096) struct pvclock_nested_page page;
static struct machine_parent machine = { .page = &page };
static bool unreached;

/* --- the machine's host ---------------------------------------------------------------------------- */

static int write_msr(void *ctx, uint32_t msr, uint64_t value)
{
	(void)ctx;
	if (msr == PVCLOCK_MSR_NESTED && value != 0)
		pvclock_nested_begin(&page);
	return 0;
}

static int locate(void *ctx, const void *host, uint64_t size, uint64_t *gpa)
{
	(void)ctx;
	(void)size;
	*gpa = (uintptr_t)host;
	return unreached && host != &page ? -1 : 0;
}

static const struct pvclock_parent_ops parent_ops = { .write_msr = write_msr, .locate = locate };

const struct machine_parent *machine_parent(void)
{
	if (machine.parent == NULL && pvclock_parent_open(&parent_ops, NULL, &page, 0, &machine.parent) != 0)
		return NULL;
	return &machine;
}

/* This machine's line, as good as any: what the first guest's was at first, over the host's TSC. */
static struct pvclock_line host;
static struct pvclock_tsc_transform guest;

/* Its clock runs faster by one part in `part` from now on. The change; the guest's page is followed, where it is named. */
static struct pvclock_line_change move(struct like *like, int64_t part)
{
	struct pvclock_line_change change = { .old = host, .old_ticks = pvclock_os_linux()->ops->read_tsc(NULL).ticks };
	unsigned int rewritten = 0, refused = 0;
	struct pvclock_nested_entry entry;
	struct pvclock_slope slope;
	struct pvclock_line line = host;

	line.mul += (uint32_t)(line.mul / part);
	change.next_ticks = change.old_ticks;
	check(like, pvclock_slope_from_line(&line, &slope) &&
	      pvclock_line_continue(&host, change.old_ticks, change.next_ticks, &slope, &change.next, NULL), "the machine is moved");
	for (unsigned int i = 0; i < pvclock_nested_count(&page); i++) {
		struct pvclock_tsc_transform tsc;

		if (!pvclock_nested_look(&page, i, &entry))
			continue;
		tsc = (struct pvclock_tsc_transform){ .ratio = entry.ratio, .offset = entry.offset, .frac_bits = entry.frac_bits };
		if (pvclock_page_follow((void *)(uintptr_t)entry.gpa, &change, 1, &tsc, PVCLOCK_TSC_STABLE, &line))
			rewritten++;
		else
			refused++;
	}
	pvclock_nested_tell(&page, &change, rewritten, refused);
	host = change.next;
	return change;
}

static void learn_host(struct like *like, const struct plain *plain)
{
	struct pvclock_nested_entry entry = { 0 };
	struct pvclock_snapshot first = plain_page(plain, 0);

	check(like, pvclock_nested_look(&page, 0, &entry) && entry.gpa == (uintptr_t)plain->memory + PLAIN_PAGE(0),
	      "a page that a guest registers is named to the machine's host");
	guest = (struct pvclock_tsc_transform){ .ratio = entry.ratio, .offset = entry.offset, .frac_bits = entry.frac_bits };
	host = first.line;
	pvclock_line_shift(&host, (int64_t)-guest.offset);
}

/* --- what the VMM and its guest see ------------------------------------------------------------------ */

/* Between two entries of a guest that runs: nothing was called in between but KVM_RUN. */
static void moved_while_it_runs(struct like *like, struct plain *plain, bool named)
{
	struct pvclock_snapshot before = plain_page(plain, 0), found, after;
	struct pvclock_line_change change;
	struct pvclock_line expected;
	int64_t value = -1;
	uint64_t tsc;

	like_forget_log(like);
	change = move(like, 10);
	found = plain_page(plain, 0);
	check(like, like_same_line(like, &found.line, &before.line, 0) == !named, "the host has %srewritten the page", named ? "" : "not ");
	tsc = plain_rdtsc(plain, 0);
	after = plain_page(plain, 0);
	check(like, pvclock_line_follow(&change, &guest, &before.line, &expected) && like_same_line(like, &after.line, &expected, tsc),
	      "after the next entry the guest's clock is as the rule has it");
	check(like, !named || like_same_line(like, &after.line, &found.line, tsc), "which is what the host wrote, bit for bit");
	check(like, after.flags & PVCLOCK_TSC_STABLE, "it is stable");
	check(like, like_event(like, "followed", "generation", &value) == 1 && (uint64_t)value == pvclock_nested_generation(&page),
	      "the log has it once, with its generation");
	check(like, like_event(like, "followed", "stable", &value) == 1 && value == 1, "and that it followed");
	check(like, pvclock_nested_acknowledged(&page) == pvclock_nested_generation(&page), "the host is told, too");
	plain_rdtsc(plain, 0);
	check(like, like_event(like, "followed", NULL, &value) == 1 && like_event(like, "moved", NULL, &value) == 0, "and then no more");
}

static void moved_while_it_stands_still(struct like *like, struct plain *plain)
{
	struct pvclock_snapshot before, after;
	struct pvclock_line_change change;
	struct pvclock_line expected;
	struct plain_stop stop;
	uint64_t tsc;
	int64_t value;

	like_forget_log(like);
	plain_stop(plain, &stop);
	before = plain_page(plain, 0);
	change = move(like, -10);
	plain_go_on(plain, stop.clock.clock);
	tsc = plain_rdtsc(plain, 0);
	after = plain_page(plain, 0);
	check(like, pvclock_line_follow(&change, &guest, &before.line, &expected) && like_same_line(like, &after.line, &expected, tsc),
	      "moved while it stands still, it goes on as the rule has it");
	check(like, like_event(like, "followed", NULL, &value) == 1, "and that is said");
}

/* Moved between a stop and a state that comes back: by the rate that the machine has now, so nothing of the function is lost. */
static void a_state_comes_back(struct like *like, struct plain *plain)
{
	struct pvclock_snapshot before, after;
	struct plain_stop stop;
	int64_t value;

	like_forget_log(like);
	plain_stop(plain, &stop);
	move(like, 10);
	before = plain_page(plain, 0);
	plain_set_msr(plain, 0, 0x10, stop.tsc[0]);
	plain_go_on(plain, stop.clock.clock);
	plain_rdtsc(plain, 0);
	after = plain_page(plain, 0);
	check(like, like_event(like, "arrive", "exact", &value) == 1 && value == 1, "a state that comes back then is the same function");
	check(like, after.line.mul == before.line.mul && after.line.shift == before.line.shift, "at the same rate");
	check(like, pvclock_nested_count(&page) > 0 && like_event(like, "followed", NULL, &value) == 0, "and nothing is followed twice");
}

/* Moved after its vCPU was made, when the host's rate was learnt, and before it runs. */
static void moved_before_it_starts(struct like *like)
{
	struct pvclock_slope slope, machine_slope;
	struct pvclock_snapshot first;
	struct plain plain;
	int64_t value;

	like_forget_log(like);
	plain_create(&plain);
	plain_add_vcpu(&plain, 0);
	move(like, 5);
	plain_go_on(&plain, 0);
	like_register(like, &plain, 1);
	first = plain_page(&plain, 0);
	check(like, pvclock_slope_from_line(&host, &machine_slope) && pvclock_slope_from_line(&first.line, &slope) &&
	      pvclock_slope_difference(&slope, &machine_slope) == 0, "a VM that starts after a move runs at the machine's new rate");
	check(like, like_event(like, "followed", NULL, &value) == 0, "from its beginning");
	plain_destroy(&plain);
}

static void too_far_behind(struct like *like, struct plain *plain)
{
	int64_t value = 1;

	like_forget_log(like);
	for (unsigned int i = 0; i <= PVCLOCK_NESTED_CHANGES; i++)
		move(like, i & 1 ? 20 : -20);
	plain_rdtsc(plain, 0);
	check(like, like_event(like, "followed", "stable", &value) == 1 && value == 0, "a VM that is told too late is unstable, and it is said");
	check(like, !(plain_page(plain, 0).flags & PVCLOCK_TSC_STABLE), "and its guest runs and knows");
}

int main(void)
{
	struct like like = { .log = "/tmp/pvclock-moved-XXXXXX", .own = true, .random = 1 };
	struct plain plain;
	int64_t value;

	live_begin(&like.live);
	close(mkstemp(like.log));
	setenv("PVCLOCK_LOG", like.log, 1);
	setenv("PVCLOCK_MODE", "own", 1);
	unsetenv("PVCLOCK_POLICY");
	plain_start(&plain, 1);
	if (!like_event(&like, "attach", NULL, &value) || like_event(&like, "aside", NULL, &value)) {
		unlink(like.log);
		printf("1..0 # SKIP own mode is not to be had on this KVM\n");
		return 77;
	}
	like_register(&like, &plain, 1);
	learn_host(&like, &plain);
	moved_while_it_runs(&like, &plain, true);
	moved_while_it_stands_still(&like, &plain);
	unreached = true; /* who is told alone comes to the same, at its next entry */
	like_register(&like, &plain, 1);
	moved_while_it_runs(&like, &plain, false);
	unreached = false;
	like_register(&like, &plain, 1);
	a_state_comes_back(&like, &plain);
	unreached = true;
	like_register(&like, &plain, 1);
	too_far_behind(&like, &plain);
	plain_destroy(&plain);
	moved_before_it_starts(&like);
	unlink(like.log);
	return live_end(&like.live);
}
