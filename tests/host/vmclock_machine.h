/* SPDX-License-Identifier: MIT */
/* vmclock_machine.h - a VM with VMClock's page (docs/vmclock.md) on a host made up here, of known time of day. */
#ifndef TEST_HOST_VMCLOCK_MACHINE_H
#define TEST_HOST_VMCLOCK_MACHINE_H

#include "machine.h"

#include "../random.h"

#include <sys/timex.h>

#define PLACE 0x800u
#define CLOCK_PAGE 64u
#define SIZE 0x100u
#define TAI 37
#define NS 1000000000ull
#define MS (NS / 1000)

static uint64_t seed = 0x766d636c6f636b;

static inline void take_seed(void)
{
	const char *text = getenv("PVCLOCK_SEED");

	if (text)
		seed = strtoull(text, NULL, 0);
	print_message("PVCLOCK_SEED=%#llx\n", (unsigned long long)seed);
}

static inline void synchronize(struct fake_kvm *fake)
{
	fake->ntp_state = TIME_OK;
	fake->tai_offset = TAI;
	fake->max_error_us = 1500;
	fake->estimated_error_us = 20;
	fake->ntp_tick = 10000;
	fake->ntp_tolerance = 500 << 16;
}

static inline struct machine *new_machine(uint64_t random)
{
	struct machine *m = aligned_alloc(64, (sizeof(*m) + 63) / 64 * 64);

	machine_init(m, random, PVCLOCK_MODE_OWN);
	synchronize(&m->fake);
	return m;
}

static inline void start(struct machine *m)
{
	struct pvclock_slope host;

	pvclock_slope_from_khz(m->fake.khz, &host);
	assert_int_equal(pvclock_vm_set_vmclock(m->vm, (struct pvclock_gpa){ PLACE }, SIZE, 0), 0);
	assert_int_equal(pvclock_kvm_start(m->kvm, &host), 0);
	assert_int_equal(pvclock_vcpu_write_msr(m->vcpu, PVCLOCK_MSR_SYSTEM_TIME, CLOCK_PAGE | 1), 0);
}

static inline struct machine *started(uint64_t random)
{
	struct machine *m = new_machine(random);

	start(m);
	return m;
}

static inline void free_machine(struct machine *m)
{
	machine_clear(m);
	free(m);
}

static inline struct pvclock_vmclock read_page(const struct machine *m)
{
	struct pvclock_vmclock clock;

	assert_int_equal(pvclock_vmclock_read(m->memory + PLACE, &clock), PVCLOCK_READ_OK);
	return clock;
}

static inline struct pvclock_vmclock update(struct machine *m)
{
	assert_int_equal(pvclock_vm_update_vmclock(m->vm, NULL), 0);
	return read_page(m);
}

static inline void pass_ns(struct machine *m, uint64_t ns)
{
	m->fake.tsc += (uint64_t)((unsigned __int128)ns * m->fake.khz / 1000000);
}

/* The page's ns at a host tick. */
static inline uint64_t page_ns(const struct machine *m, const struct pvclock_vmclock *clock, uint64_t host_tsc, uint64_t *error)
{
	struct pvclock_vmclock_time time;

	pvclock_vmclock_at(clock, host_tsc + m->fake.offset, &time);
	if (error)
		*error = time.max_error_ns;
	return pvclock_vmclock_ns(&time);
}

static inline uint64_t apart(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

static inline void pause_resume(struct machine *m, uint64_t ns)
{
	assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
	pass_ns(m, ns);
	assert_int_equal(pvclock_kvm_resume(m->kvm, NULL, NULL), 0);
}

/* Right after a resume, before a vCPU has run, it is the host's time, whatever the guest's own clocks count. */
static inline void check_now(const struct machine *m)
{
	struct pvclock_vmclock clock = read_page(m);

	assert_in_range(apart(page_ns(m, &clock, m->fake.tsc, NULL), fake_kvm_realtime(&m->fake, m->fake.tsc) + TAI * NS), 0, 40);
}

#endif
