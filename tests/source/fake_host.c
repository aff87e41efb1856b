/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "fake_host.h"

#include "../random.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

uint64_t fake_host_random(struct fake_host *host, uint64_t below)
{
	return below == 0 ? 0 : splitmix64(&host->random) % below;
}

pvclock_s128 fake_clock_ns(const struct fake_clock *clock, uint64_t ticks)
{
	if (clock->hyperv.scale != 0)
		return (pvclock_s128)(int64_t)pvclock_hyperv_time(&clock->hyperv, ticks) * 100;
	return pvclock_line_ns(&clock->line, ticks);
}

uint64_t fake_host_raw(const struct fake_host *host, uint64_t ticks)
{
	if (host->virtual) {
		pvclock_s128 ns = fake_clock_ns(&host->clock, ticks);

		return (uint64_t)(host->constant + (ns > host->floor ? ns : host->floor));
	}
	return (uint64_t)((host->constant + (pvclock_s128)host->mult * ticks) >> host->shift);
}

uint64_t fake_host_ticks(const struct fake_host *host, uint64_t ns)
{
	return (uint64_t)((pvclock_u128)ns * host->khz / 1000000u);
}

static void spend(struct fake_host *host)
{
	host->ticks += host->cost_min + fake_host_random(host, host->cost_spread);
	if (host->interrupt_every != 0 && fake_host_random(host, host->interrupt_every) == 0)
		host->ticks += fake_host_random(host, host->interrupt_ticks);
}

static struct pvclock_host_tsc read_tsc(void *ctx)
{
	struct fake_host *host = ctx;
	uint64_t now;

	spend(host);
	now = host->ticks;
	spend(host);
	return (struct pvclock_host_tsc){ now };
}

static int get_time(void *ctx, clockid_t clock, struct timespec *ts)
{
	struct fake_host *host = ctx;
	uint64_t ns;

	if (host->clock_error != 0)
		return host->clock_error;
	host->reads++;
	if (host->clock_error_in != 0 && --host->clock_error_in == 0)
		return -EIO;
	spend(host);
	if (host->during_read != NULL) {
		void (*event)(struct fake_host *) = host->during_read;

		host->during_read = NULL;
		event(host);
	}
	ns = fake_host_raw(host, host->ticks);
	if (clock != CLOCK_MONOTONIC_RAW)
		ns += ns / 27000; /* NTP slews these by 37 ppm */
	if (clock == CLOCK_BOOTTIME)
		ns += host->slept_ns;
	spend(host);
	*ts = (struct timespec){ .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };
	return 0;
}

static int control(void *ctx, int fd, unsigned long request, void *arg)
{
	(void)ctx, (void)fd, (void)request, (void)arg;
	return -ENOTTY;
}

static ssize_t read_file(void *ctx, const char *path, char *text, size_t size)
{
	struct fake_host *host = ctx;

	if (host->file_error != 0)
		return host->file_error;
	spend(host);
	if (strstr(path, "/current_clocksource") != NULL)
		return snprintf(text, size, "%s\n", host->current);
	if (strstr(path, "/available_clocksource") != NULL)
		return snprintf(text, size, "%s \n", host->available);
	return -ENOENT;
}

static void cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	const struct fake_host *host = ctx;

	(void)subleaf;
	memset(regs, 0, 4 * sizeof(regs[0]));
	if (leaf == 1)
		regs[2] = host->hypervisor ? 1u << 31 : 0;
	else if (leaf == 0x80000000u)
		regs[0] = host->extended_leaves ? 0x80000008u : 0x80000004u;
	else if (leaf == 0x40000000u + host->kvm_leaf)
		memcpy(&regs[1], "KVMKVMKVM\0\0", 12);
	else if (leaf == 0x40000001u + host->kvm_leaf)
		regs[0] = host->stable_bit ? 1u << 24 : ~(1u << 24);
	else if (leaf == 0x80000007u)
		/* a CPU without the leaf answers with another leaf's bits */
		regs[3] = host->invariant || !host->extended_leaves ? 1u << 8 : 0;
}

static int sleep_ns(void *ctx, uint64_t ns)
{
	struct fake_host *host = ctx;

	host->sleeps++;
	if (host->sleep_error != 0)
		return host->sleep_error;
	if (host->interrupted_sleeps != 0) {
		if (host->interrupted_sleeps != UINT32_MAX)
			host->interrupted_sleeps--;
		fake_host_pass(host, fake_host_random(host, ns));
		return -EINTR;
	}
	fake_host_pass(host, ns + fake_host_random(host, 60000));
	return 0;
}

static const void *clock_page(void *ctx, enum pvclock_clock_page page)
{
	const struct fake_host *host = ctx;

	bool hyperv = page == PVCLOCK_CLOCK_PAGE_HYPERV;

	if (!host->virtual || host->page_hidden || hyperv != (host->hyperv_page.scale != 0))
		return NULL;
	return hyperv ? (const void *)&host->hyperv_page : &host->page;
}

static const struct pvclock_os_ops ops = {
	.read_tsc = read_tsc, .clock_gettime = get_time, .ioctl = control, .read_file = read_file, .cpuid = cpuid,
	.sleep = sleep_ns, .clock_page = clock_page,
};

void fake_host_init(struct fake_host *host, uint32_t khz, uint64_t seed)
{
	*host = (struct fake_host){
		.os = { .ops = &ops, .ctx = host },
		.khz = khz,
		.current = "tsc",
		.available = "tsc hpet acpi_pm",
		.invariant = true,
		.extended_leaves = true,
		.cost_min = 20,
		.cost_spread = 5,
		.seed = seed,
		.random = seed,
	};
	pvclock_kernel_mult_shift(khz, &host->mult, &host->shift);
	host->ticks = (uint64_t)khz * 1000 * fake_host_random(host, 1000000) + fake_host_random(host, 1u << 30);
	/* RAW began somewhere below now, at any fraction of a ns */
	host->constant = -((pvclock_s128)host->mult * (host->ticks - fake_host_random(host, host->ticks))) +
			 (pvclock_s128)fake_host_random(host, (uint64_t)1 << host->shift);
}

void fake_host_pass(struct fake_host *host, uint64_t ns)
{
	host->ticks += fake_host_ticks(host, ns);
}

void fake_host_suspend(struct fake_host *host, uint64_t ns, bool tsc_resets)
{
	uint64_t before = host->ticks;

	host->ticks = tsc_resets ? fake_host_random(host, 1000000) : before + fake_host_ticks(host, ns);
	host->constant += (pvclock_s128)host->mult * ((pvclock_s128)before - (pvclock_s128)host->ticks);
	host->slept_ns += ns;
}

void fake_host_change_mult(struct fake_host *host, uint32_t mult)
{
	host->constant += ((pvclock_s128)host->mult - (pvclock_s128)mult) * (pvclock_s128)host->ticks;
	host->mult = mult;
}

/* --- hosts that are virtual machines --------------------------------------------------------- */

void fake_host_publish(struct fake_host *host)
{
	struct fake_hyperv_page *page = &host->hyperv_page;

	if (host->clock.hyperv.scale == 0) {
		pvclock_page_write(&host->page, &host->clock.line, host->page.flags);
		return;
	}
	page->scale = host->clock.hyperv.scale;
	page->offset = host->clock.hyperv.offset;
	if (++page->sequence == UINT32_MAX)
		page->sequence = 1;
}

/* With a slope from khz, through this ns now. */
static void set_clock(struct fake_host *host, bool hyperv, uint64_t ns)
{
	struct fake_clock *clock = &host->clock;

	(void)pvclock_line_make_kvm(&clock->line, host->ticks, ns, host->khz);
	if (hyperv)
		(void)pvclock_line_to_hyperv(&clock->line, &clock->hyperv);
}

void fake_host_init_virtual(struct fake_host *host, bool hyperv, uint32_t khz, uint64_t seed)
{
	fake_host_init(host, khz, seed);
	host->virtual = host->hypervisor = host->stable_bit = true;
	/* after Hyper-V's own leaves, if those are shown as well */
	host->kvm_leaf = hyperv ? 0x20000 : (uint32_t)(seed % 3) * 0x100;
	host->invariant = false;
	snprintf(host->current, sizeof(host->current), hyperv ? "hyperv_clocksource_tsc_page" : "kvm-clock");
	snprintf(host->available, sizeof(host->available), "%s tsc acpi_pm", host->current);
	host->page.flags = PVCLOCK_TSC_STABLE;
	host->page.version = (uint32_t)fake_host_random(host, 1000000) * 2;
	host->hyperv_page.sequence = (uint32_t)fake_host_random(host, UINT32_MAX - 1) + 1;
	/* published some time ago, at a system time that has nothing to do with RAW's */
	set_clock(host, hyperv, fake_host_random(host, 1ull << 50));
	fake_host_publish(host);
	fake_host_pass(host, fake_host_random(host, 1ull << 45));
	host->constant = (pvclock_s128)fake_host_random(host, 1ull << 50) - fake_clock_ns(&host->clock, host->ticks);
	host->floor = fake_clock_ns(&host->clock, host->ticks);
}

/* A timer interrupt of up to 4 ms ago read the clock: no reading is below that one. */
static void remember_reading(struct fake_host *host)
{
	uint64_t ago = fake_host_ticks(host, fake_host_random(host, 4000000));
	pvclock_s128 ns = fake_clock_ns(&host->clock, host->ticks - ago);

	if (ns > host->floor)
		host->floor = ns;
}

void fake_host_move(struct fake_host *host, int64_t ns)
{
	struct fake_clock *clock = &host->clock;

	remember_reading(host);
	clock->hyperv.offset += ns / 100;
	pvclock_line_reanchor(&clock->line, host->ticks);
	clock->line.ns += (uint64_t)ns;
	fake_host_publish(host);
}

void fake_host_change_khz(struct fake_host *host, uint32_t khz)
{
	pvclock_s128 ns = fake_clock_ns(&host->clock, host->ticks);

	remember_reading(host);
	host->khz = khz;
	set_clock(host, host->clock.hyperv.scale != 0, (uint64_t)ns);
	fake_host_publish(host);
}
