// SPDX-License-Identifier: MIT
/*
 * clocks.c - every vCPU reads every clock for as long as it may, through the page that a kernel would map into its
 * processes and through the kernel's own reader, and holds them against each other and against what other vCPUs had
 * read. vCPU 0 is also the kernel: it ticks, and looks whether the host told that time passed; argument[7] counts how
 * often it did (0, too, where no host tells).
 *
 * Each round, one clock's, is one reading to the judge; ring.again counts all the others. failed: a reading that was
 * refused, or a clock that is not at its distance from MONOTONIC.
 */
#include "runtime.h"

#include <pvclock/clock.h>
#include <pvclock/interface.h>

#define TAI_MINUS_UTC 37
#define SECOND 1000000000ull
#define TOLD 7u  /* of shared->argument */
#define SETTLE_NS 300000000u
#define TICKS 64u /* so many rounds to a tick */

static struct pvclock_user_page user __attribute__((aligned(4096))); /* with vCPU 0's clock page */
static struct {
	_Alignas(VMM_PAGE_STRIDE) struct pvclock_page page;
} pages[VMM_VCPUS_MAX]; /* the other vCPUs' */
static _Alignas(64) struct pvclock_wall_clock wall_clock;
static _Alignas(64) pvclock_last last; /* the kernel's guard */
static uint64_t epoch; /* REALTIME where system time and what passed uncounted are 0 */

struct vcpu {
	struct vmm_shared *shared;
	struct vmm_ring *ring;
	struct pvclock_page *page;
	uint64_t previous, coarse; /* MONOTONIC and MONOTONIC_COARSE, as this vCPU has read them */
};

/* Both readers, which are one clock. False: refused. */
static bool read_both(struct vcpu *vcpu, unsigned int id, uint64_t *kernel_ns, uint64_t *user_ns)
{
	enum pvclock_read result = pvclock_kernel_ns(&user, vcpu->page, &last, id, kernel_ns);
	struct pvclock_time time;

	guest_count(&vcpu->ring->again);
	if (result != PVCLOCK_READ_OK)
		return false;
	result = pvclock_user_time(&user, id, &time);
	guest_count(&vcpu->ring->again);
	*user_ns = (uint64_t)time.sec * SECOND + time.nsec;
	if (result == PVCLOCK_READ_KERNEL) { /* as is true where the page is not stable: a process would ask the kernel */
		guest_count(&vcpu->ring->unstable);
		result = pvclock_kernel_ns(&user, vcpu->page, &last, id, user_ns);
	}
	return result == PVCLOCK_READ_OK;
}

/* One clock between two readings of MONOTONIC, from which it is `distance` and, if it counts that, what passed uncounted. */
static void check_clock(struct vcpu *vcpu, unsigned int id, uint64_t distance)
{
	uint64_t floor = atomic_load_explicit(&vcpu->shared->last, memory_order_acquire), low, low_user, first, second, high, high_user;
	uint64_t uncounted = PVCLOCK_SUSPEND_CLOCKS >> id & 1 ? pvclock_clocks_uncounted(&user) : 0;

	if (!read_both(vcpu, PVCLOCK_MONOTONIC, &low, &low_user) || !read_both(vcpu, id, &first, &second) ||
	    !read_both(vcpu, PVCLOCK_MONOTONIC, &high, &high_user)) {
		guest_count(&vcpu->ring->failed);
		return;
	}
	first -= distance + uncounted;
	second -= distance + uncounted;
	if (low < floor)
		guest_count(&vcpu->ring->backwards_cross);
	if (low < vcpu->previous || low_user < low || first < low_user || second < first || high_user < high)
		guest_count(&vcpu->ring->backwards);
	/* unless more passed in between: then this clock went further than MONOTONIC, and rightly */
	if (high < second && ((PVCLOCK_SUSPEND_CLOCKS >> id & 1) == 0 || pvclock_clocks_uncounted(&user) == uncounted))
		guest_count(&vcpu->ring->backwards);
	vcpu->previous = high_user;
	pvclock_guard(&vcpu->shared->last, high_user);
}

static void check_coarse(struct vcpu *vcpu)
{
	uint64_t monotonic, real, now, real_now;

	if (pvclock_coarse_ns(&user, PVCLOCK_MONOTONIC_COARSE, &monotonic) != PVCLOCK_READ_OK ||
	    pvclock_coarse_ns(&user, PVCLOCK_REALTIME_COARSE, &real) != PVCLOCK_READ_OK ||
	    pvclock_kernel_ns(&user, vcpu->page, &last, PVCLOCK_MONOTONIC, &now) != PVCLOCK_READ_OK ||
	    pvclock_kernel_ns(&user, vcpu->page, &last, PVCLOCK_REALTIME, &real_now) != PVCLOCK_READ_OK || real - epoch < monotonic) {
		guest_count(&vcpu->ring->failed);
		return;
	}
	/* never back, and never ahead of what is read then */
	if (monotonic < vcpu->coarse || monotonic > now || real > real_now)
		guest_count(&vcpu->ring->backwards);
	vcpu->coarse = monotonic;
}

static void tick(struct vcpu *vcpu, uint64_t round)
{
	struct pvclock_told told;
	uint64_t now;

	if (pvclock_kernel_ns(&user, vcpu->page, &last, PVCLOCK_MONOTONIC, &now) != PVCLOCK_READ_OK) {
		guest_count(&vcpu->ring->failed);
		return;
	}
	if (round % (8 * TICKS) == 0)
		pvclock_clocks_set_tai(&user, now, TAI_MINUS_UTC);
	else if (pvclock_clocks_told(&user, now, &told) == PVCLOCK_READ_OK)
		vcpu->shared->argument[TOLD] += told.count;
}

/* For the judge: this vCPU's page as it is. */
static void log_page(struct vcpu *vcpu, uint16_t index)
{
	struct pvclock_reading reading;
	enum pvclock_read result = pvclock_read_clock(vcpu->page, &reading);

	if ((reading.flags & PVCLOCK_GUEST_STOPPED) != 0 && pvclock_take_guest_stopped(vcpu->page))
		guest_count(&vcpu->ring->stopped);
	guest_log_reading(vcpu->ring, &reading, reading.version, result, index);
}

static void start_clocks(struct vcpu *vcpu)
{
	struct pvclock_suspend suspend;
	uint64_t now, uncounted;

	if (pvclock_interface_find() & PVCLOCK_FEATURE_SUSPEND) {
		guest_write_msr(PVCLOCK_MSR_SUSPEND, (uintptr_t)&user.suspend | PVCLOCK_MSR_ENABLE);
		if (pvclock_suspend_read(&user.suspend, &suspend) != PVCLOCK_READ_OK)
			guest_count(&vcpu->ring->failed);
	}
	do {
		uncounted = pvclock_clocks_uncounted(&user);
		guest_write_msr(PVCLOCK_MSR_WALL_CLOCK, (uintptr_t)&wall_clock);
	} while (pvclock_clocks_uncounted(&user) != uncounted);
	if (pvclock_wall_clock_read(&wall_clock, &epoch) != PVCLOCK_READ_OK ||
	    pvclock_kernel_ns(&user, vcpu->page, &last, PVCLOCK_MONOTONIC, &now) != PVCLOCK_READ_OK)
		guest_count(&vcpu->ring->failed);
	else
		pvclock_clocks_start(&user, now, epoch, uncounted, TAI_MINUS_UTC);
	epoch -= uncounted;
	atomic_store(&vcpu->shared->wall_ns, epoch + uncounted);
}

/*
 * Where the kernel of the host publishes, it brings the other vCPUs' pages up to date only 100 ms after one has registered its own
 * (KVMCLOCK_UPDATE_DELAY): until then vCPU 0's page and another's may be two lines, whatever their flags say.
 */
static void settle(const struct vcpu *vcpu, uint32_t *times)
{
	struct pvclock_reading reading;
	uint64_t began;

	guest_barrier(vcpu->shared, times);
	pvclock_read_clock(vcpu->page, &reading);
	for (began = reading.ns; reading.ns - began < SETTLE_NS && reading.ns >= began;)
		pvclock_read_clock(vcpu->page, &reading);
	guest_barrier(vcpu->shared, times);
}

void guest_main(uint64_t index, struct vmm_shared *shared)
{
	uint32_t times = 0;
	struct vcpu vcpu = { shared, &shared->ring[index], index == 0 ? &user.page : &pages[index].page, 0, 0 };

	guest_write_msr(PVCLOCK_MSR_SYSTEM_TIME, (uintptr_t)vcpu.page | PVCLOCK_MSR_ENABLE);
	settle(&vcpu, &times);
	if (index == 0)
		start_clocks(&vcpu);
	guest_barrier(shared, &times);
	atomic_fetch_add(&shared->started, 1);
	for (uint64_t round = 1; atomic_load_explicit(&shared->stop, memory_order_acquire) == 0; round++) {
		switch (round % 4) {
		case 0:
			check_clock(&vcpu, PVCLOCK_MONOTONIC_RAW, 0);
			break;
		case 1:
			check_clock(&vcpu, PVCLOCK_BOOTTIME, 0);
			break;
		case 2:
			check_clock(&vcpu, PVCLOCK_REALTIME, epoch);
			break;
		default:
			check_clock(&vcpu, PVCLOCK_TAI, epoch + TAI_MINUS_UTC * SECOND);
		}
		check_coarse(&vcpu);
		log_page(&vcpu, (uint16_t)index);
		if (index == 0 && round % TICKS == 0)
			tick(&vcpu, round);
	}
	guest_leave(shared);
}
