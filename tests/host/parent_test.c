/* SPDX-License-Identifier: MIT */
/*
 * parent_test.c - P2, P5, P7, P8: a VM on KVM whose machine has a host that tells it (pvclock/parent.h). The VMM knows no more
 * than it does of a sleep of the host: it is refused an entry, pauses and resumes. Here the host is the test: it writes what
 * docs/spec/nested.md says it does, between two calls. A failure prints its seed.
 */
#include "machine.h"

#include "../random.h"

#include <pvclock/parent.h>

#include <inttypes.h>

#define SEEDS 1000
#define GUEST_PAGE 64u

static uint64_t seed;

#define require(holds)                                                                    \
	do {                                                                              \
		if (!(holds))                                                             \
			fail_msg("PVCLOCK_SEED=%" PRIu64 " repeats it: %s", seed, #holds); \
	} while (0)

struct told {
	struct machine m; /* first: what the OS ops are given */
	struct pvclock_os_ops ops;
	struct pvclock_nested_page *page;
	struct pvclock_parent *parent;
	struct pvclock_line host; /* this machine's, over its TSC */
	struct pvclock_slope slope;
	bool unreached;           /* nobody knows where the guest's memory lies */
	uint8_t *watched;         /* this machine's own clock page */
	unsigned int registered;  /* so often, the same page counted each time */
};

/* --- this machine -------------------------------------------------------------------------------- */

/* Its kernel keeps all time by its own line: it goes on through whatever its host does. */
static int gettime(void *ctx, clockid_t clock, struct timespec *ts)
{
	struct told *t = ctx;
	uint64_t ns = pvclock_line_ns(&t->host, t->m.fake.os.ops->read_tsc(ctx).ticks);

	(void)clock;
	*ts = (struct timespec){ .tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000) };
	return 0;
}

static const void *clock_page(void *ctx, enum pvclock_clock_page page)
{
	const struct told *t = ctx;

	return page == PVCLOCK_CLOCK_PAGE_KVM ? t->watched : NULL;
}

static int write_msr(void *ctx, uint32_t msr, uint64_t value)
{
	struct told *t = ctx;

	if (msr == PVCLOCK_MSR_NESTED && value != 0) {
		pvclock_nested_begin(t->page);
		t->registered++;
	}
	return 0;
}

static int locate(void *ctx, const void *host, uint64_t size, uint64_t *gpa)
{
	const struct told *t = ctx;

	(void)size;
	*gpa = (uintptr_t)host;
	return t->unreached && host != t->page ? -ENOTSUP : 0;
}

static const struct pvclock_parent_ops parent_ops = { .write_msr = write_msr, .locate = locate };

static struct told *new_told(uint64_t random, bool unreached)
{
	struct told *t = aligned_alloc(64, (sizeof(*t) + 63) / 64 * 64);
	struct pvclock_kvm_config config = { .os = &t->m.fake.os, .vm_fd = 3, .mode = PVCLOCK_MODE_OWN };
	uint64_t generation;

	memset(t, 0, sizeof(*t));
	fake_kvm_init(&t->m.fake, random);
	t->ops = *t->m.fake.os.ops;
	t->ops.clock_gettime = gettime;
	t->ops.clock_page = clock_page;
	t->m.fake.os.ops = &t->ops;
	t->m.fake.tsc = (UINT64_C(1) << 45) + random % (UINT64_C(1) << 50);
	t->m.fake.offset = (random >> 8) % (UINT64_C(1) << 48) - t->m.fake.tsc / 2;
	t->m.fake.khz = 2000000 + (uint32_t)(random % 1000000);
	t->unreached = unreached;
	t->page = aligned_alloc(4096, 4096);
	t->watched = aligned_alloc(64, 64);
	memset(t->page, 0, 4096);
	memset(t->watched, 0, 64);
	assert_true(pvclock_slope_from_khz(t->m.fake.khz, &t->slope));
	assert_true(pvclock_line_make(&t->host, t->m.fake.tsc - random % (UINT64_C(1) << 40), random % (UINT64_C(1) << 55), &t->slope, NULL));
	assert_int_equal(pvclock_vm_create(&t->m.fake.os, &t->m.vm), 0);
	assert_int_equal(pvclock_vm_add_memory(t->m.vm, (struct pvclock_gpa){ 0 }, sizeof(t->m.memory), t->m.memory, 0), 0);
	assert_int_equal(pvclock_vcpu_create(t->m.vm, 0, &t->m.vcpu), 0);
	config.vm = t->m.vm;
	assert_int_equal(pvclock_kvm_attach(&config, &t->m.kvm, NULL), 0);
	assert_int_equal(pvclock_kvm_add_vcpu(t->m.kvm, t->m.vcpu, FAKE_VCPU_FD), 0);
	assert_int_equal(pvclock_parent_open(&parent_ops, t, t->page, 0, &t->parent), 0);
	generation = pvclock_parent_generation(t->parent);
	t->m.fake.tsc += (random >> 16) % (UINT64_C(1) << 34); /* seconds, in which this host's rate is learnt */
	assert_int_equal(pvclock_kvm_start(t->m.kvm, &t->slope), 0);
	assert_null(pvclock_parent_of(t->m.vm));
	assert_int_equal(pvclock_parent_add(t->parent, t->m.vm, generation), 0);
	assert_ptr_equal(pvclock_parent_of(t->m.vm), t->parent);
	assert_int_equal(pvclock_vcpu_write_msr(t->m.vcpu, PVCLOCK_MSR_SYSTEM_TIME, GUEST_PAGE | 1), 0);
	t->m.fake.tsc += 1000000 + random % (UINT64_C(1) << 25);
	return t;
}

static void free_told(struct told *t)
{
	machine_clear(&t->m);
	pvclock_parent_close(t->parent);
	free(t->watched);
	free(t->page);
	free(t);
}

/* --- its host ------------------------------------------------------------------------------------ */

/* Moves the machine to a host with another rate, where its TSC goes on elsewhere: the instant is the same by both lines. */
static struct pvclock_line_change move(struct told *t, uint32_t khz, int64_t jump)
{
	struct pvclock_line_change change = { .old = t->host, .old_ticks = t->m.fake.tsc };
	unsigned int rewritten = 0, refused = 0, count = pvclock_nested_count(t->page);
	struct pvclock_nested_entry entry;
	struct pvclock_line unused;

	t->m.fake.tsc += (uint64_t)jump;
	change.next_ticks = t->m.fake.tsc;
	assert_true(pvclock_slope_from_khz(khz, &t->slope));
	assert_true(pvclock_line_continue(&t->host, change.old_ticks, change.next_ticks, &t->slope, &change.next, NULL));
	for (unsigned int i = 0; i < count; i++) {
		struct pvclock_tsc_transform tsc;

		if (!pvclock_nested_look(t->page, i, &entry))
			continue;
		tsc = (struct pvclock_tsc_transform){ .ratio = entry.ratio, .offset = entry.offset, .frac_bits = entry.frac_bits };
		if (pvclock_page_follow((void *)(uintptr_t)entry.gpa, &change, 1, &tsc, PVCLOCK_TSC_STABLE, &unused))
			rewritten++;
		else
			refused++;
		pvclock_nested_mark(t->page, i, pvclock_nested_generation(t->page) + 1);
	}
	pvclock_nested_tell(t->page, &change, rewritten, refused);
	assert_int_equal(rewritten, !t->unreached);
	assert_int_equal(refused, 0);
	t->host = change.next;
	return change;
}

static struct pvclock_line guest_line(const struct told *t)
{
	struct pvclock_snapshot page;

	assert_int_equal(pvclock_page_read(t->m.memory + GUEST_PAGE, &page), PVCLOCK_READ_OK);
	return page.line;
}

static uint64_t guest_ns(const struct told *t, const struct pvclock_line *line, uint64_t host_tsc)
{
	return pvclock_line_ns(line, host_tsc + t->m.fake.offset);
}

static bool same_line(const struct pvclock_line *a, const struct pvclock_line *b)
{
	return a->tsc == b->tsc && a->ns == b->ns && a->mul == b->mul && a->shift == b->shift;
}

static int enter(struct told *t)
{
	return pvclock_kvm_enter(t->m.kvm, FAKE_VCPU_FD);
}

static int64_t random_jump(uint64_t random)
{
	return (int64_t)(random % (UINT64_C(1) << 44)) - (INT64_C(1) << 43);
}

static void each(void (*property)(uint64_t random))
{
	const char *one = getenv("PVCLOCK_SEED");
	uint64_t last = one ? strtoull(one, NULL, 0) : SEEDS - 1;

	for (seed = one ? last : 0; seed <= last; seed++) {
		uint64_t state = seed;

		property(splitmix64(&state));
	}
}

/* --- what a VMM sees ------------------------------------------------------------------------------- */

/*
 * At the instant of the change the clock goes on from where it was. A guest that nobody could reach has run by the line that had gone
 * until it was stopped, between two ticks of the host: if it has read more there, the clock goes on from that.
 */
static bool goes_on(struct told *t, const struct pvclock_line_change *change, const struct pvclock_line *before, const struct pvclock_line *after,
		    const uint64_t stopped[2], int64_t off_ns)
{
	uint64_t apart = guest_ns(t, after, change->next_ticks) - guest_ns(t, before, change->old_ticks);
	int64_t first = (int64_t)(guest_ns(t, after, stopped[0]) - guest_ns(t, before, stopped[0])),
		last = (int64_t)(guest_ns(t, after, stopped[1]) - guest_ns(t, before, stopped[1]));

	if (stopped[0] == stopped[1])
		return apart <= 1 && off_ns == 0;
	if (apart <= 1) /* it was behind */
		return (first >= -1 || last >= -1) && off_ns <= 1 && (off_ns <= 1 - first || off_ns <= 1 - last) &&
		       (off_ns >= -1 - first || off_ns >= -1 - last);
	return off_ns > 0 && stopped[0] != stopped[1] && (first <= 1 || last <= 1) && (first >= -1 || last >= -1); /* of two floors */
}

/* Refused once, and then as ever; twice, as the second change is followed from the first. */
static void followed(uint64_t random, bool unreached)
{
	struct told *t = new_told(random, unreached);
	struct pvclock_correction correction;
	struct pvclock_line before = guest_line(t), found, after;
	struct pvclock_line_change change;
	struct pvclock_inverse inverse;
	uint64_t deadline = t->m.fake.tsc + t->m.fake.offset + 100000000, armed, stopped[2];

	t->m.fake.deadline[0] = deadline;
	require(enter(t) == 0 && !pvclock_kvm_slept(t->m.kvm));
	for (unsigned int i = 0; i < 2; i++) {
		change = move(t, 1000000 + (uint32_t)((random >> 20 * i) % 3000000), random_jump(random << i));
		found = guest_line(t);
		require(enter(t) == -ESTALE && enter(t) == -ESTALE && pvclock_kvm_slept(t->m.kvm));
		stopped[0] = t->m.fake.tsc;
		assert_int_equal(pvclock_kvm_pause(t->m.kvm), 0);
		stopped[1] = unreached ? t->m.fake.tsc : stopped[0];
		require(pvclock_nested_acknowledged(t->page) == i + 1);
		assert_int_equal(pvclock_kvm_resume(t->m.kvm, &correction, NULL), 0);
		require(enter(t) == 0 && !pvclock_kvm_slept(t->m.kvm));
		after = guest_line(t);
		/* what its host made of the page is what the engine publishes */
		require(same_line(&after, unreached ? &after : &found) && same_line(&found, &before) == unreached);
		require(goes_on(t, &change, &before, &after, stopped, correction.off_ns));
		require(pvclock_slope_difference(&t->m.kvm->host, &t->slope) == 0 ||
			llabs(pvclock_slope_difference(&t->m.kvm->host, &t->slope)) < INT64_C(1) << 34);
		/* armed as a tick, meant as a time */
		pvclock_inverse_make(&inverse, &after);
		require(pvclock_first_tick(&inverse, pvclock_line_ns(&before, deadline), &armed) && t->m.fake.deadline[0] == armed);
		/* no sleep, and no TSC was touched, whatever became of the counter; the blackout was some calls long */
		require(correction.cause == PVCLOCK_CAUSE_PAUSE && t->m.fake.offset_writes == 0);
		require(correction.counted_ns < 1000000 && correction.uncounted_ns == 0);
		require(pvclock_vm_stable(t->m.vm, NULL));
		before = after;
		deadline = armed;
	}
	free_told(t);
}

static void rewritten(uint64_t random)
{
	followed(random, false);
}

static void told_alone(uint64_t random)
{
	followed(random, true);
}

static void p8_an_entry_is_refused_and_the_pause_follows(void **state)
{
	(void)state;
	each(rewritten);
}

static void p8_told_alone_is_followed_too(void **state)
{
	(void)state;
	each(told_alone);
}

/* To a host whose TSC has not counted for as long as the guest has run since its last stop: before that TSC's beginning nothing slept. */
static void begun_lately(uint64_t random)
{
	struct told *t = new_told(random, false);
	struct pvclock_correction correction;
	struct pvclock_line before, after;
	struct pvclock_line_change change;

	require(enter(t) == 0);
	assert_int_equal(pvclock_kvm_pause(t->m.kvm), 0);
	assert_int_equal(pvclock_kvm_set_tsc_offset(t->m.kvm, t->m.vcpu, 0, NULL), 0); /* the guest's does not go below 0 */
	assert_int_equal(pvclock_kvm_resume(t->m.kvm, NULL, NULL), 0);
	before = guest_line(t);
	t->m.fake.tsc += UINT64_C(1) << 38; /* a minute or two */
	change = move(t, t->m.fake.khz + 1000, (int64_t)((UINT64_C(1) << 32) - t->m.fake.tsc));
	require(enter(t) == -ESTALE);
	assert_int_equal(pvclock_kvm_pause(t->m.kvm), 0);
	assert_int_equal(pvclock_kvm_resume(t->m.kvm, &correction, NULL), 0);
	require(enter(t) == 0);
	after = guest_line(t);
	require(correction.cause == PVCLOCK_CAUSE_PAUSE && correction.counted_ns < 1000000 && t->m.fake.offset_writes == 1);
	require(guest_ns(t, &after, change.next_ticks) - guest_ns(t, &before, change.old_ticks) <= 1);
	free_told(t);
}

static void p2_a_tsc_that_began_lately_is_no_sleep(void **state)
{
	(void)state;
	each(begun_lately);
}

/* In the middle of a pause that is not counted: it is measured by either rate for as long as that held. */
static void in_a_pause(uint64_t random)
{
	struct told *t = new_told(random, random & 1);
	struct pvclock_line before = guest_line(t), after;
	struct pvclock_correction correction;
	struct pvclock_policy policy;
	uint64_t read, passed, deadline = t->m.fake.tsc + t->m.fake.offset + 100000000;
	int64_t apart;

	t->m.fake.deadline[0] = deadline;
	pvclock_vm_get_policy(t->m.vm, &policy);
	policy.on[PVCLOCK_BLACKOUT_PAUSE] = PVCLOCK_FREEZE;
	pvclock_vm_set_policy(t->m.vm, &policy);
	require(enter(t) == 0);
	assert_int_equal(pvclock_kvm_pause(t->m.kvm), 0);
	read = guest_ns(t, &before, t->m.fake.tsc);
	passed = pvclock_line_ns(&t->host, t->m.fake.tsc);
	t->m.fake.tsc += 20000000 + random % 20000000;
	move(t, random & 2 ? t->m.fake.khz * 2 : t->m.fake.khz / 2, random_jump(random));
	t->m.fake.tsc += 20000000 + (random >> 32) % 20000000;
	passed = pvclock_line_ns(&t->host, t->m.fake.tsc) - passed;
	assert_int_equal(pvclock_kvm_resume(t->m.kvm, &correction, NULL), 0);
	require(enter(t) == 0);
	after = guest_line(t);
	apart = (int64_t)(guest_ns(t, &after, t->m.fake.tsc) - read);
	require(apart >= -1 && apart < 20000);
	apart = (int64_t)(correction.uncounted_ns - passed);
	require(correction.counted_ns == 0 && apart > -20000 && apart < 20000);
	/* and a timer has as long to go as when it stood still */
	apart = (int64_t)(pvclock_line_ns(&after, t->m.fake.deadline[0]) - pvclock_line_ns(&before, deadline));
	require(apart >= 0 && apart <= 1);
	free_told(t);
}

static void p7_a_blackout_is_measured_by_either_rate(void **state)
{
	(void)state;
	each(in_a_pause);
}

/* More changes than the page keeps: said once, the clock is no stable one, and the guest runs. */
static void p4_too_far_behind_is_unstable(void **state)
{
	struct told *t = new_told(9, true);
	struct pvclock_reason reason;
	struct pvclock_snapshot page;

	(void)state;
	for (unsigned int i = 0; i < PVCLOCK_NESTED_CHANGES; i++)
		move(t, 2000000 + i, 1000000);
	assert_int_equal(enter(t), -ESTALE);
	assert_int_equal(pvclock_kvm_pause(t->m.kvm), 0);
	assert_int_equal(pvclock_kvm_resume(t->m.kvm, NULL, NULL), 0);
	assert_true(pvclock_vm_stable(t->m.vm, NULL)); /* just so */
	for (unsigned int i = 0; i <= PVCLOCK_NESTED_CHANGES; i++)
		move(t, 2000000 + i, 1000000);
	assert_int_equal(enter(t), -ESTALE);
	assert_int_equal(pvclock_kvm_pause(t->m.kvm), 0);
	assert_int_equal(pvclock_kvm_resume(t->m.kvm, NULL, NULL), 0);
	assert_int_equal(enter(t), 0);
	assert_false(pvclock_vm_stable(t->m.vm, &reason));
	assert_non_null(strstr(reason.text, "another 5 times"));
	assert_int_equal(pvclock_page_read(t->m.memory + GUEST_PAGE, &page), PVCLOCK_READ_OK);
	assert_int_equal(page.flags & PVCLOCK_TSC_STABLE, 0);
	free_told(t);
}

/* What the machine's kernel shows of its clock's page. */
static void show(const struct told *t, const struct pvclock_line *line)
{
	pvclock_page_write(t->watched, line, PVCLOCK_TSC_STABLE);
}

/* As a VMM answers it. What the guest's page holds then. */
static struct pvclock_line stop_and_go_on(struct told *t)
{
	assert_int_equal(enter(t), -ESTALE);
	assert_true(pvclock_kvm_slept(t->m.kvm));
	assert_int_equal(pvclock_kvm_pause(t->m.kvm), 0);
	assert_int_equal(pvclock_kvm_resume(t->m.kvm, NULL, NULL), 0);
	assert_false(pvclock_kvm_slept(t->m.kvm));
	assert_int_equal(enter(t), 0);
	return guest_line(t);
}

/*
 * Its host changes the machine's page and tells of it, at one instant: that is one change. A host that changes the page alone knows
 * of no nested page: the VM follows what it sees, and the page is registered once more.
 */
static void p8_a_parent_that_is_silent(void **state)
{
	struct told *t = new_told(10, false);
	struct pvclock_line before, found, after, shown = t->host;
	unsigned int registered = t->registered;

	(void)state;
	show(t, &shown);
	assert_int_equal(pvclock_kvm_watch(t->m.kvm, PVCLOCK_SOURCE_FROM_KVM_PAGE), 0);
	for (unsigned int i = 0; i < 2; i++) {
		move(t, 2000000 + 500000 * i, 1000);
		show(t, &t->host);
		found = guest_line(t);
		after = stop_and_go_on(t);
		assert_true(same_line(&found, &after));
	}
	assert_int_equal(t->registered, registered);

	before = guest_line(t);
	shown = t->host;
	shown.mul += shown.mul / 10;
	show(t, &shown);
	after = stop_and_go_on(t);
	assert_int_not_equal(before.mul, after.mul);
	assert_int_equal(t->registered, registered + 1);

	/* who answers is told of again */
	t->host = shown;
	move(t, 3000000, -5000);
	show(t, &t->host);
	found = guest_line(t);
	after = stop_and_go_on(t);
	assert_true(same_line(&found, &after));
	free_told(t);
}

/* A VM without a parent looks at the page alone. */
static void p8_who_leaves_its_parent_looks_itself(void **state)
{
	struct told *t = new_told(10, false);
	struct pvclock_line before = guest_line(t), after, shown = t->host;
	unsigned int registered;

	(void)state;
	show(t, &shown);
	assert_int_equal(pvclock_kvm_watch(t->m.kvm, PVCLOCK_SOURCE_FROM_KVM_PAGE), 0);
	pvclock_parent_remove(t->m.vm);
	assert_null(pvclock_parent_of(t->m.vm));
	registered = t->registered;
	shown.mul += shown.mul / 10;
	show(t, &shown);
	after = stop_and_go_on(t);
	assert_int_not_equal(before.mul, after.mul);
	assert_int_equal(t->registered, registered);
	free_told(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p8_an_entry_is_refused_and_the_pause_follows),
		cmocka_unit_test(p8_told_alone_is_followed_too),
		cmocka_unit_test(p2_a_tsc_that_began_lately_is_no_sleep),
		cmocka_unit_test(p7_a_blackout_is_measured_by_either_rate),
		cmocka_unit_test(p4_too_far_behind_is_unstable),
		cmocka_unit_test(p8_a_parent_that_is_silent),
		cmocka_unit_test(p8_who_leaves_its_parent_looks_itself),
	};

	return cmocka_run_group_tests_name("parent", tests, NULL, NULL);
}
