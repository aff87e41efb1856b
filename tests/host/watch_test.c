/* SPDX-License-Identifier: MIT */
/*
 * watch_test.c - P2, P8: a host that is itself a virtual machine, whose hypervisor changes its clock and tells it
 * nothing: the page is seen to be another at the next entry, and a guest's clock follows: as far from the host's as
 * before, and never back. A failure prints its seed.
 */
#include "machine.h"

#include "../random.h"

#include <pvclock/hyperv.h>

#include <inttypes.h>

#define SEEDS 1000
#define GUEST_PAGE 64u
#define BEHIND UINT64_C(182240954) /* ticks by which a hibernated laptop's TSC came back, as reported to the kernel's list */

static _Alignas(64) uint8_t host_page[64];
static enum pvclock_clock_page shown;
static uint64_t seed;

#define require(holds)                                                                    \
	do {                                                                              \
		if (!(holds))                                                             \
			fail_msg("PVCLOCK_SEED=%" PRIu64 " repeats it: %s", seed, #holds); \
	} while (0)

static const void *clock_page(void *ctx, enum pvclock_clock_page page)
{
	(void)ctx;
	return page == shown ? host_page : NULL;
}

struct watched {
	struct machine m;
	struct pvclock_os_ops ops;
	struct pvclock_slope slope;
	struct pvclock_line host;   /* what its hypervisor's page says */
	struct pvclock_hyperv_line hyperv;
	uint32_t sequence;
};

static void show_kvm(struct watched *w)
{
	pvclock_page_write(host_page, &w->host, PVCLOCK_TSC_STABLE);
}

static void show_hyperv(struct watched *w)
{
	w->sequence = pvclock_hyperv_page_write(host_page, &w->hyperv, w->sequence);
}

/* A guest that runs, on a host with that slope. */
static struct watched *new_watched(uint64_t random, enum pvclock_source_from from)
{
	struct watched *w = calloc(1, sizeof(*w));
	struct pvclock_kvm_config config = { .os = &w->m.fake.os, .vm_fd = 3, .mode = PVCLOCK_MODE_OWN };

	memset(host_page, 0, sizeof(host_page));
	fake_kvm_init(&w->m.fake, random);
	w->ops = *w->m.fake.os.ops;
	w->ops.clock_page = clock_page;
	w->m.fake.os.ops = &w->ops;
	w->m.fake.tsc = (UINT64_C(1) << 45) + random % (UINT64_C(1) << 50);
	w->m.fake.offset = (random >> 8) % (UINT64_C(1) << 48) - w->m.fake.tsc / 2;
	w->m.fake.khz = 2000000 + (uint32_t)(random % 1000000);
	assert_int_equal(pvclock_vm_create(&w->m.fake.os, &w->m.vm), 0);
	assert_int_equal(pvclock_vm_add_memory(w->m.vm, (struct pvclock_gpa){ 0 }, sizeof(w->m.memory), w->m.memory, 0), 0);
	assert_int_equal(pvclock_vcpu_create(w->m.vm, 0, &w->m.vcpu), 0);
	config.vm = w->m.vm;
	assert_int_equal(pvclock_kvm_attach(&config, &w->m.kvm, NULL), 0);
	assert_int_equal(pvclock_kvm_add_vcpu(w->m.kvm, w->m.vcpu, FAKE_VCPU_FD), 0);
	assert_true(pvclock_slope_from_khz(w->m.fake.khz, &w->slope));
	assert_true(pvclock_line_make(&w->host, w->m.fake.tsc - random % (UINT64_C(1) << 40), random % (UINT64_C(1) << 55), &w->slope, NULL));
	shown = from == PVCLOCK_SOURCE_FROM_HYPERV_PAGE ? PVCLOCK_CLOCK_PAGE_HYPERV : PVCLOCK_CLOCK_PAGE_KVM;
	if (from == PVCLOCK_SOURCE_FROM_HYPERV_PAGE) {
		assert_true(pvclock_line_to_hyperv(&w->host, &w->hyperv));
		show_hyperv(w);
	} else {
		show_kvm(w);
	}
	assert_int_equal(pvclock_kvm_watch(w->m.kvm, from), 0);
	assert_int_equal(pvclock_kvm_start(w->m.kvm, &w->slope), 0);
	assert_int_equal(pvclock_vcpu_write_msr(w->m.vcpu, PVCLOCK_MSR_SYSTEM_TIME, GUEST_PAGE | 1), 0);
	w->m.fake.tsc += 1000000 + random % (UINT64_C(1) << 25); /* of its start, some ms ago */
	return w;
}

static void free_watched(struct watched *w)
{
	machine_clear(&w->m);
	free(w);
}

static struct pvclock_line guest_line(const struct watched *w)
{
	struct pvclock_snapshot page;

	assert_int_equal(pvclock_page_read(w->m.memory + GUEST_PAGE, &page), PVCLOCK_READ_OK);
	return page.line;
}

static bool same_line(const struct pvclock_line *a, const struct pvclock_line *b)
{
	return a->tsc == b->tsc && a->ns == b->ns && a->mul == b->mul && a->shift == b->shift;
}

static uint64_t guest_ns(const struct watched *w, const struct pvclock_line *line, uint64_t host_tsc)
{
	return pvclock_line_ns(line, host_tsc + w->m.fake.offset);
}

static int enter(struct watched *w)
{
	return pvclock_kvm_enter(w->m.kvm, FAKE_VCPU_FD);
}

/* What a VMM does about -ESTALE. */
static void follow(struct watched *w)
{
	struct pvclock_correction correction;

	assert_int_equal(enter(w), -ESTALE);
	assert_int_equal(pvclock_kvm_pause(w->m.kvm), 0);
	assert_int_equal(pvclock_kvm_resume(w->m.kvm, &correction, NULL), 0);
	require(correction.cause == PVCLOCK_CAUSE_PAUSE); /* no sleep, whatever became of the TSC */
	assert_int_equal(enter(w), 0);
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

/* The same function at another anchor, and a clock of KVM's that was set: nothing of a guest's. */
static void unmoved(uint64_t random)
{
	struct watched *w = new_watched(random, PVCLOCK_SOURCE_FROM_KVM_PAGE);
	struct pvclock_line before = guest_line(w), after;

	require(enter(w) == 0);
	pvclock_line_reanchor(&w->host, w->m.fake.tsc);
	show_kvm(w);
	require(enter(w) == 0);
	w->host.ns -= random % 1000000000;
	show_kvm(w);
	require(enter(w) == 0);
	after = guest_line(w);
	require(same_line(&before, &after));
	free_watched(w);
}

static void p1_the_same_rate_changes_nothing(void **state)
{
	(void)state;
	each(unmoved);
}

/* Another rate, noticed a while after: as far from the host's clock as before, unless that is behind what was read. */
static void another_rate(uint64_t random)
{
	struct watched *w = new_watched(random, PVCLOCK_SOURCE_FROM_KVM_PAGE);
	struct pvclock_line was = w->host, before = guest_line(w), after;
	uint64_t moved = w->m.fake.tsc, noticed, deadline = moved + w->m.fake.offset + 100000000, wanted, read, reads, armed;
	struct pvclock_slope slope;
	struct pvclock_inverse inverse;

	w->m.fake.deadline[0] = deadline;
	assert_true(pvclock_slope_from_khz(w->m.fake.khz / 100 * (50 + random % 100), &slope));
	assert_true(pvclock_line_make(&w->host, moved, pvclock_line_ns(&was, moved), &slope, NULL));
	show_kvm(w);
	w->m.fake.tsc += random % 20000000; /* the window: it ran by the old one */
	noticed = w->m.fake.tsc;
	follow(w);
	after = guest_line(w);
	noticed = noticed > after.tsc - w->m.fake.offset ? noticed : after.tsc - w->m.fake.offset; /* some ticks later, in truth */
	read = guest_ns(w, &before, noticed);
	reads = guest_ns(w, &after, noticed);
	require(reads >= read);
	wanted = read + (pvclock_line_ns(&w->host, noticed) - pvclock_line_ns(&was, noticed));
	if ((int64_t)(wanted - read) > 0)
		require((int64_t)(reads - wanted) >= -2 && (int64_t)(reads - wanted) <= 2); /* a tick, and what five readings floor */
	else
		require(reads - read <= 2);
	/* and its rate is the host's new one */
	require(pvclock_slope_from_line(&w->host, &slope) && pvclock_slope_from_line(&after, &w->slope) &&
		llabs(pvclock_slope_difference(&slope, &w->slope)) < INT64_C(1) << 34);
	/* armed as a tick, meant as a time */
	pvclock_inverse_make(&inverse, &after);
	require(pvclock_first_tick(&inverse, pvclock_line_ns(&before, deadline), &armed) && w->m.fake.deadline[0] == armed);
	require(w->m.fake.offset_writes == 0); /* no TSC was touched for it */
	/* and back: from what the page said last */
	before = after;
	was = w->host;
	noticed = w->m.fake.tsc;
	assert_true(pvclock_slope_from_khz(w->m.fake.khz, &slope));
	assert_true(pvclock_line_make(&w->host, noticed, pvclock_line_ns(&was, noticed), &slope, NULL));
	show_kvm(w);
	follow(w);
	after = guest_line(w);
	require((int64_t)(guest_ns(w, &after, noticed) - guest_ns(w, &before, noticed)) <= 100000);
	require(guest_ns(w, &after, w->m.fake.tsc) >= guest_ns(w, &before, noticed));
	free_watched(w);
}

static void p8_another_rate_is_followed(void **state)
{
	(void)state;
	each(another_rate);
}

/*
 * In the middle of a pause that is not counted, on a host that is twice as fast or half: it is measured by either rate
 * for as long as that held.
 */
static void in_a_pause(uint64_t random)
{
	struct watched *w = new_watched(random, PVCLOCK_SOURCE_FROM_KVM_PAGE);
	struct pvclock_line before = guest_line(w), was = w->host, after;
	struct pvclock_correction correction;
	struct pvclock_policy policy;
	struct pvclock_slope slope;
	uint64_t read, passed;

	pvclock_vm_get_policy(w->m.vm, &policy);
	policy.on[PVCLOCK_BLACKOUT_PAUSE] = PVCLOCK_FREEZE;
	pvclock_vm_set_policy(w->m.vm, &policy);
	require(enter(w) == 0);
	assert_int_equal(pvclock_kvm_pause(w->m.kvm), 0);
	read = guest_ns(w, &before, w->m.fake.tsc);
	passed = pvclock_line_ns(&was, w->m.fake.tsc);
	w->m.fake.tsc += 20000000 + random % 20000000;
	assert_true(pvclock_slope_from_khz(random & 1 ? w->m.fake.khz * 2 : w->m.fake.khz / 2, &slope));
	assert_true(pvclock_line_make(&w->host, w->m.fake.tsc, pvclock_line_ns(&was, w->m.fake.tsc), &slope, NULL));
	show_kvm(w);
	w->m.fake.tsc += 20000000 + (random >> 32) % 20000000;
	passed = pvclock_line_ns(&w->host, w->m.fake.tsc) - passed;
	assert_int_equal(pvclock_kvm_resume(w->m.kvm, &correction, NULL), 0);
	after = guest_line(w);
	require((int64_t)(guest_ns(w, &after, w->m.fake.tsc) - read) >= -1 && (int64_t)(guest_ns(w, &after, w->m.fake.tsc) - read) < 20000);
	require(correction.counted_ns == 0 && (int64_t)(correction.uncounted_ns - passed) > -20000 && (int64_t)(correction.uncounted_ns - passed) < 20000);
	free_watched(w);
}

static void p7_a_blackout_is_measured_by_either_rate(void **state)
{
	(void)state;
	each(in_a_pause);
}

/* The host's TSC comes back behind where it was, and its hypervisor's reference time goes on: so does a guest's clock. */
static void behind(uint64_t random)
{
	struct watched *w = new_watched(random, PVCLOCK_SOURCE_FROM_HYPERV_PAGE);
	struct pvclock_line before = guest_line(w), after;
	uint64_t read = guest_ns(w, &before, w->m.fake.tsc), time = pvclock_hyperv_time(&w->hyperv, w->m.fake.tsc), reads;

	require(enter(w) == 0);
	read = guest_ns(w, &before, w->m.fake.tsc);
	time = pvclock_hyperv_time(&w->hyperv, w->m.fake.tsc);
	w->m.fake.tsc -= BEHIND;
	w->hyperv.offset += (int64_t)(time - pvclock_hyperv_time(&w->hyperv, w->m.fake.tsc));
	show_hyperv(w);
	follow(w);
	after = guest_line(w);
	reads = guest_ns(w, &after, w->m.fake.tsc);
	require(reads >= read);
	/* not by 253 years, nor by the 70 ms; and it is no sleep, for which a TSC would be set */
	require(reads - read < 1000000);
	require(w->m.fake.offset_writes == 0);
	free_watched(w);
}

static void p2_a_tsc_that_came_back_does_not_take_the_clock_along(void **state)
{
	(void)state;
	each(behind);
}

/*
 * In a blackout the machine comes to another rate, and then a state is loaded into the VM, by whoever has learnt that rate: the
 * clock that arrives is of this one already.
 */
static void arrives(uint64_t random)
{
	struct watched *w = new_watched(random, PVCLOCK_SOURCE_FROM_KVM_PAGE);
	struct pvclock_line was = w->host, after;
	struct pvclock_arrival_tsc tsc = { .vcpu = w->m.vcpu, .tsc = w->m.fake.tsc + w->m.fake.offset };
	struct pvclock_arrival arrival = { .host = &w->slope, .tscs = &tsc, .tsc_count = 1, .ns = UINT64_MAX, .line = guest_line(w) };
	uint64_t read = pvclock_line_ns(&arrival.line, tsc.tsc);

	require(enter(w) == 0);
	assert_int_equal(pvclock_kvm_pause(w->m.kvm), 0);
	w->m.fake.tsc += 20000000 + random % 2000000000;
	assert_true(pvclock_slope_from_khz(random & 1 ? w->m.fake.khz * 2 : w->m.fake.khz / 2, &w->slope));
	assert_true(pvclock_line_make(&w->host, w->m.fake.tsc, pvclock_line_ns(&was, w->m.fake.tsc), &w->slope, NULL));
	show_kvm(w);
	w->m.fake.tsc += 20000000 + (random >> 32) % 2000000000;
	assert_true(pvclock_slope_from_line(&w->host, &w->slope));
	assert_int_equal(pvclock_kvm_arrive(w->m.kvm, &arrival, NULL, NULL), 0);
	assert_int_equal(pvclock_kvm_resume(w->m.kvm, NULL, NULL), 0);
	assert_int_equal(enter(w), 0);
	after = guest_line(w);
	require(guest_ns(w, &after, w->m.fake.tsc) - read < 1000000);
	/* and the next one is followed as ever */
	w->host.mul += w->host.mul / 10;
	show_kvm(w);
	follow(w);
	free_watched(w);
}

static void p1_an_arrival_is_of_the_rate_that_it_came_to(void **state)
{
	(void)state;
	each(arrives);
}

/* While the page is no clock nothing is known; then it is. */
static void a_page_that_says_nothing_is_waited_for(void **state)
{
	struct watched *w = new_watched(7, PVCLOCK_SOURCE_FROM_HYPERV_PAGE);
	struct pvclock_line before = guest_line(w), after;

	(void)state;
	pvclock_hyperv_page_withdraw(host_page);
	assert_int_equal(enter(w), 0);
	assert_int_equal(pvclock_kvm_pause(w->m.kvm), 0);
	assert_int_equal(pvclock_kvm_resume(w->m.kvm, NULL, NULL), 0);
	show_hyperv(w);
	assert_int_equal(enter(w), 0);
	after = guest_line(w);
	require(same_line(&before, &after));
	w->hyperv.scale += w->hyperv.scale / 10;
	show_hyperv(w);
	follow(w);
	after = guest_line(w);
	assert_int_not_equal(before.mul, after.mul);
	free_watched(w);
}

static void what_cannot_be_watched_is_refused(void **state)
{
	struct watched *w = new_watched(8, PVCLOCK_SOURCE_FROM_KVM_PAGE);
	struct machine steer;

	(void)state;
	assert_int_equal(pvclock_kvm_watch(w->m.kvm, PVCLOCK_SOURCE_FROM_HYPERV_PAGE), -ENOTSUP);
	w->host.mul = 1;
	show_kvm(w);
	assert_int_equal(enter(w), 0); /* nothing is watched any more */
	w->host.mul = 0;
	show_kvm(w);
	assert_int_equal(pvclock_kvm_watch(w->m.kvm, PVCLOCK_SOURCE_FROM_KVM_PAGE), -EAGAIN);
	assert_int_equal(pvclock_kvm_watch(w->m.kvm, PVCLOCK_SOURCE_FROM_SAMPLES), 0);
	machine_init(&steer, 9, PVCLOCK_MODE_STEER);
	assert_int_equal(pvclock_kvm_watch(steer.kvm, PVCLOCK_SOURCE_FROM_KVM_PAGE), -ENOTSUP);
	machine_clear(&steer);
	free_watched(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p1_the_same_rate_changes_nothing),
		cmocka_unit_test(p8_another_rate_is_followed),
		cmocka_unit_test(p7_a_blackout_is_measured_by_either_rate),
		cmocka_unit_test(p2_a_tsc_that_came_back_does_not_take_the_clock_along),
		cmocka_unit_test(p1_an_arrival_is_of_the_rate_that_it_came_to),
		cmocka_unit_test(a_page_that_says_nothing_is_waited_for),
		cmocka_unit_test(what_cannot_be_watched_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
