/* SPDX-License-Identifier: MIT */
#include "kvm.h"

#include "../random.h"

#include <pvclock/guest.h>

#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>

uint64_t fake_random(struct fake_kvm *fake)
{
	return splitmix64(&fake->random);
}

static void pass(struct fake_kvm *fake)
{
	fake->tsc += fake->call_ticks;
	if (fake->jitter_ticks)
		fake->tsc += fake_random(fake) % fake->jitter_ticks;
}

uint64_t fake_kvm_clock(const struct fake_kvm *fake, uint64_t host_tsc)
{
	struct pvclock_line line;

	pvclock_line_make_kvm(&line, fake->anchor_tsc, fake->anchor_ns, fake->khz);
	return pvclock_line_ns(&line, host_tsc);
}

/* The guest's TSC: the host's, scaled by whole kHz as KVM does it, and its offset. */
static uint64_t guest_tsc(const struct fake_kvm *fake, unsigned int vcpu, uint64_t host_tsc)
{
	uint32_t khz = fake->vcpu_khz[vcpu] ? fake->vcpu_khz[vcpu] : fake->khz;
	uint64_t ratio = ((uint64_t)khz << 32) / fake->khz;

	return (uint64_t)((unsigned __int128)host_tsc * ratio >> 32) + (vcpu ? fake->second_offset : fake->offset);
}

struct pvclock_line fake_kvm_page(const struct fake_kvm *fake, unsigned int vcpu)
{
	struct pvclock_line line;

	pvclock_line_make_kvm(&line, guest_tsc(fake, vcpu, fake->anchor_tsc), fake->anchor_ns,
			      fake->vcpu_khz[vcpu] ? fake->vcpu_khz[vcpu] : fake->khz);
	return line;
}

/* As v6 of the proposal does it: the page is brought up to date, and told. */
static int get_clock_guest(struct fake_kvm *fake, struct pvclock_page *clock)
{
	struct pvclock_line line = fake_kvm_page(fake, 0);

	if (fake->get_clock_guest_error)
		return fake->get_clock_guest_error;
	if (!fake->master_clock)
		return -EINVAL;
	if (fake->page && !fake->page_stays)
		pvclock_page_write(fake->page, &line, PVCLOCK_TSC_STABLE);
	*clock = (struct pvclock_page){
		.tsc_timestamp = line.tsc, .system_time = line.ns + (uint64_t)fake->clock_guest_lie, .tsc_to_system_mul = line.mul,
		.tsc_shift = line.shift, .flags = PVCLOCK_TSC_STABLE,
	};
	return 0;
}

/* A new anchor at a tick that the kernel chooses, and there what the caller's structure says, cut off. */
static int set_clock_guest(struct fake_kvm *fake, const struct pvclock_page *clock)
{
	struct pvclock_line line = { .tsc = clock->tsc_timestamp, .ns = clock->system_time, .mul = clock->tsc_to_system_mul,
				     .shift = clock->tsc_shift };

	fake->set_clock_guest_calls++;
	if (fake->set_clock_guest_error)
		return fake->set_clock_guest_error;
	if (!fake->master_clock || clock->pad0 || clock->pad[0] || clock->pad[1] || guest_tsc(fake, 0, fake->tsc) < line.tsc)
		return -EINVAL;
	fake->anchor_tsc = fake->tsc;
	fake->anchor_ns = pvclock_line_ns(&line, guest_tsc(fake, 0, fake->tsc)) + (uint64_t)fake->clock_guest_off;
	pass(fake);
	return 0;
}

void fake_kvm_enter(struct fake_kvm *fake)
{
	pass(fake);
	if (!fake->snapshot_pending)
		return;
	fake->snapshot_pending = false;
	fake->anchor_ns = fake_kvm_clock(fake, fake->tsc) + fake_random(fake) % 3 - 1;
	fake->anchor_tsc = fake->tsc;
}

static int fake_run_interrupted(void *ctx, int vcpu_fd)
{
	struct fake_kvm *fake = ctx;

	fake->deadline_at_entry |= fake->deadline[vcpu_fd == FAKE_VCPU_FD + 1];
	fake_kvm_enter(fake);
	return 0;
}

static struct pvclock_host_tsc fake_read_tsc(void *ctx)
{
	struct fake_kvm *fake = ctx;

	fake->tsc += 30;
	return (struct pvclock_host_tsc){ fake->tsc };
}

static void leap(struct fake_kvm *fake)
{
	if (fake->leap_tsc == 0 || fake->tsc < fake->leap_tsc)
		return;
	fake->leap_tsc = 0;
	fake->tai_offset++;
	fake->realtime_ns -= 1000000000;
}

static int fake_adjtimex(void *ctx, struct timex *status)
{
	struct fake_kvm *fake = ctx;

	leap(fake);
	status->tai = fake->tai_offset;
	status->maxerror = fake->max_error_us;
	status->esterror = fake->estimated_error_us;
	status->status = fake->ntp_status;
	status->freq = fake->ntp_freq;
	status->tick = fake->ntp_tick;
	status->tolerance = fake->ntp_tolerance;
	return fake->ntp_state;
}

static uint64_t raw_ns(const struct fake_kvm *fake, uint64_t host_tsc)
{
	return (uint64_t)((unsigned __int128)(host_tsc - fake->unheard_ticks) * 1000000 / fake->khz);
}

uint64_t fake_kvm_realtime(const struct fake_kvm *fake, uint64_t host_tsc)
{
	uint64_t raw = raw_ns(fake, host_tsc);

	return raw + (uint64_t)fake->realtime_ns + (uint64_t)(int64_t)((__int128)(int64_t)(raw - fake->rate_from) * fake->rate_ppb / 1000000000);
}

void fake_kvm_set_rate(struct fake_kvm *fake, int64_t ppb)
{
	uint64_t raw = raw_ns(fake, fake->tsc);

	fake->realtime_ns = (int64_t)(fake_kvm_realtime(fake, fake->tsc) - raw);
	fake->rate_from = raw;
	fake->rate_ppb = ppb;
}

static int fake_clock_gettime(void *ctx, clockid_t clock, struct timespec *ts)
{
	struct fake_kvm *fake = ctx;
	uint64_t ns;

	fake->tsc += 40;
	ns = raw_ns(fake, fake->tsc);
	leap(fake);
	if (clock == CLOCK_REALTIME || clock == CLOCK_TAI)
		ns = fake_kvm_realtime(fake, fake->tsc);
	if (clock == CLOCK_TAI)
		ns += (uint64_t)fake->tai_offset * 1000000000u;
	if (clock == CLOCK_BOOTTIME)
		ns += fake->slept_ns;
	ts->tv_sec = (time_t)(ns / 1000000000);
	ts->tv_nsec = (long)(ns % 1000000000);
	return 0;
}

void fake_kvm_sleep(struct fake_kvm *fake, uint64_t ns, uint64_t ticks, bool reset)
{
	uint64_t before = fake->tsc;

	fake->tsc = reset ? ticks : fake->tsc + ticks;
	fake->unheard_ticks += fake->tsc - before;
	fake->slept_ns += ns;
	fake->realtime_ns += (int64_t)ns;
	if (reset) {
		fake->offset += before - fake->tsc;
		fake->second_offset += before - fake->tsc;
		fake->anchor_ns = fake_kvm_clock(fake, before); /* and so does its own clock */
		fake->anchor_tsc = fake->tsc;
	}
}

static int device_attr(struct fake_kvm *fake, int fd, unsigned long request, struct kvm_device_attr *attribute)
{
	uint64_t *value = (uint64_t *)(uintptr_t)attribute->addr;
	uint64_t *offset = fd == FAKE_VCPU_FD + 1 ? &fake->second_offset : &fake->offset;

	if (fake->no_offset)
		return -ENXIO;
	if (request == KVM_GET_DEVICE_ATTR) {
		*value = *offset;
		return 0;
	}
	fake->offset_writes++;
	fake->snapshot_pending = true; /* its vCPUs' TSCs are matched anew */
	if (!fake->offset_ignored)
		*offset = *value;
	return 0;
}

static int msrs(struct fake_kvm *fake, int fd, unsigned long request, void *arg)
{
	int second = fd == FAKE_VCPU_FD + 1;
	uint64_t offset = second ? fake->second_offset : fake->offset;
	struct { uint32_t count, pad; struct kvm_msr_entry entry; } *one = arg;
	uint64_t *place = one->entry.index == PVCLOCK_MSR_SYSTEM_TIME ? &fake->system_time_msr :
			  one->entry.index == PVCLOCK_MSR_WALL_CLOCK ? &fake->wall_clock_msr :
			  one->entry.index == 0x6e0 ? &fake->deadline[second] :
			  one->entry.index == 0x3b ? &fake->tsc_adjust[second] :
			  one->entry.index == PVCLOCK_MSR_STEAL_TIME ? &fake->steal_msr[second] : NULL;

	if (request == KVM_GET_MSRS && one->entry.index == 0x10) {
		one->entry.data = fake->tsc + offset;
		return 1;
	}
	if (request == KVM_SET_MSRS && one->entry.index == 0x10) {
		*(second ? &fake->second_offset : &fake->offset) = one->entry.data - fake->tsc;
		return 1;
	}
	if (request == KVM_SET_MSRS && one->entry.index == 0x3b && fake->no_tsc_adjust)
		return 1; /* the kernel takes it and forgets it */
	if (!place)
		return 0;
	if (one->entry.index == 0x6e0 && request == KVM_SET_MSRS)
		fake->armed_with[second] = offset;
	if (request == KVM_GET_MSRS)
		one->entry.data = *place;
	else
		*place = one->entry.data;
	return 1;
}

/* KVM copies all of it. */
static int set_filter(struct fake_kvm *fake, const struct kvm_msr_filter *filter)
{
	fake->filter_calls++;
	fake->filter = *filter;
	for (unsigned int i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++) {
		size_t size = (filter->ranges[i].nmsrs + 63u) / 64u * 8u;

		if (size == 0)
			continue;
		memcpy(fake->bitmaps[i], filter->ranges[i].bitmap, size < FAKE_BITMAP ? size : FAKE_BITMAP);
		fake->filter.ranges[i].bitmap = fake->bitmaps[i];
	}
	return 0;
}

static int fake_ioctl(void *ctx, int fd, unsigned long request, void *arg)
{
	struct fake_kvm *fake = ctx;
	struct kvm_clock_data *clock = arg;

	pass(fake);
	if (request == fake->refused) {
		if (fake->refused_after == 0)
			return -EPERM;
		fake->refused_after--;
	}
	if (fake->get_clock_guest && fd == FAKE_VCPU_FD && request == fake->get_clock_guest)
		return get_clock_guest(fake, arg);
	if (fake->get_clock_guest && fd == FAKE_VCPU_FD && request == fake->set_clock_guest)
		return set_clock_guest(fake, arg);
	switch (request) {
	case KVM_CHECK_EXTENSION:
		return (uintptr_t)arg == KVM_CAP_TSC_CONTROL ? fake->tsc_control : 1;
	case KVM_GET_TSC_KHZ:
		return (int)(fd >= FAKE_VCPU_FD && fake->vcpu_khz[fd - FAKE_VCPU_FD] ? fake->vcpu_khz[fd - FAKE_VCPU_FD] : fake->khz);
	case KVM_SET_TSC_KHZ:
		if (!fake->tsc_control)
			return -EINVAL;
		fake->vcpu_khz[fd - FAKE_VCPU_FD] = (uint32_t)(uintptr_t)arg;
		return 0;
	case KVM_SET_CLOCK:
		fake->set_clock_calls++;
		fake->anchor_tsc = fake->tsc;
		fake->anchor_ns = clock->clock;
		pass(fake);
		return 0;
	case KVM_GET_CLOCK:
		memset(clock, 0, sizeof(*clock));
		clock->clock = fake_kvm_clock(fake, fake->tsc);
		if (fake->master_clock) {
			clock->flags = 0xe;
			clock->host_tsc = fake->tsc;
		}
		pass(fake);
		return 0;
	case KVM_GET_DEVICE_ATTR:
	case KVM_SET_DEVICE_ATTR:
		return device_attr(fake, fd, request, arg);
	case KVM_GET_MSRS:
	case KVM_SET_MSRS:
		return msrs(fake, fd, request, arg);
	case KVM_X86_SET_MSR_FILTER:
		return set_filter(fake, arg);
	case KVM_ENABLE_CAP:
		fake->exits_calls++;
		fake->exits = ((struct kvm_enable_cap *)arg)->args[0];
		return 0;
	case KVM_CREATE_VCPU:
		return FAKE_VCPU_FD;
	case KVM_SIGNAL_MSI:
		fake->signals++;
		fake->signal = *(struct kvm_msi *)arg;
		return fake->signal_error ? fake->signal_error : 1;
	case KVM_KVMCLOCK_CTRL:
		fake->ctrl_calls++;
		return 0;
	default:
		return _IOC_TYPE(request) == KVMIO && _IOC_NR(request) >= 0xd5 && _IOC_NR(request) <= 0xd7 ? -EINVAL : 0;
	}
}

static void fake_close(void *ctx, int fd)
{
	(void)ctx;
	(void)fd;
}

static ssize_t fake_read_file(void *ctx, const char *path, char *text, size_t size)
{
	struct fake_kvm *fake = ctx;
	unsigned int thread;

	if (sscanf(path, "/proc/self/task/%u/schedstat", &thread) == 1) {
		if (!fake->schedstat || thread < 100 || thread > 103)
			return -ENOENT;
		return snprintf(text, size, "%u %llu 7\n", thread, (unsigned long long)fake->run_delay[thread - 100]);
	}
	if (!fake->boot_id || strcmp(path, "/proc/sys/kernel/random/boot_id") != 0)
		return -ENOENT;
	return snprintf(text, size, "%s\n", fake->boot_id);
}

static void fake_cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	(void)ctx;
	(void)leaf;
	(void)subleaf;
	memset(regs, 0, 4 * sizeof(*regs));
}

static int fake_sleep(void *ctx, uint64_t ns)
{
	struct fake_kvm *fake = ctx;

	fake->tsc += (uint64_t)((unsigned __int128)ns * fake->khz / 1000000);
	return 0;
}

static const struct pvclock_os_ops fake_ops = {
	.read_tsc = fake_read_tsc,
	.clock_gettime = fake_clock_gettime,
	.ioctl = fake_ioctl,
	.close = fake_close,
	.read_file = fake_read_file,
	.cpuid = fake_cpuid,
	.run_interrupted = fake_run_interrupted,
	.sleep = fake_sleep,
	.adjtimex = fake_adjtimex,
};

void fake_kvm_init(struct fake_kvm *fake, uint64_t seed)
{
	*fake = (struct fake_kvm){
		.os = { .ops = &fake_ops, .ctx = fake },
		.random = seed,
		.tsc = 1000000000000ull,
		.call_ticks = 800,
		.jitter_ticks = 6,
		.khz = 2596142,
		.master_clock = true,
		.realtime_ns = 1700000000000000000ll,
	};
}
