/* SPDX-License-Identifier: MIT */
/*
 * sleep.c - the host slept: noticed before a vCPU runs again, and measured.
 *
 * CLOCK_BOOTTIME counts a host's sleep and CLOCK_MONOTONIC does not, and nothing else ever parts them: their difference
 * says whether it slept, and for how long. What the TSC did meanwhile is another matter. It may have gone on, stood
 * still, or begun at 0; KVM then moves its guests' offsets so that theirs go on. CLOCK_MONOTONIC_RAW is the TSC, by the
 * slope that the guest's clock has, but for the sleep; so what the TSC counts beyond it is the sleep's, to the ns, and
 * is what a guest that is to see no gap must not count.
 */
#include "kvm.h"

#include <errno.h>
#include <time.h>

#define TRIES 5
#define AWAKE_TICKS 1000000u /* some tenths of a ms */
#define ASK_TRIES 3
#define RTC_NS 1000000000
#define RESET_PART 1000       /* of the time that passed, by which a host's rate that is not proven may be wrong; and ... */
#define RESET_MIN_NS 50000000 /* ... no sleep is so short that has reset a TSC */
#define ASLEEP_MIN_NS 1000000 /* less is no suspend: two clocks cannot be read at once */

static int64_t read_clock(const struct pvclock_kvm *kvm, clockid_t clock)
{
	struct timespec ts = { 0 };

	kvm->os->ops->clock_gettime(kvm->os->ctx, clock, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* How long the host has slept since it was booted: the truth is between *ns - *error and *ns. */
static void read_asleep(const struct pvclock_kvm *kvm, int64_t *ns, int64_t *error)
{
	int64_t before, boottime, after;

	*error = INT64_MAX;
	for (unsigned int i = 0; i < TRIES; i++) {
		before = read_clock(kvm, CLOCK_MONOTONIC);
		boottime = read_clock(kvm, CLOCK_BOOTTIME);
		after = read_clock(kvm, CLOCK_MONOTONIC);
		if (after - before >= *error)
			continue;
		*error = after - before;
		*ns = boottime - before;
	}
}

/* CLOCK_MONOTONIC_RAW and the TSC at one instant, to *error ticks. */
static void read_raw(const struct pvclock_kvm *kvm, int64_t *raw_ns, struct pvclock_host_tsc *at, uint64_t *error)
{
	*error = UINT64_MAX;
	for (unsigned int i = 0; i < TRIES; i++) {
		struct pvclock_host_tsc before = kvm->os->ops->read_tsc(kvm->os->ctx), after;
		int64_t raw = read_clock(kvm, CLOCK_MONOTONIC_RAW);

		after = kvm->os->ops->read_tsc(kvm->os->ctx);
		if (after.ticks - before.ticks >= *error)
			continue;
		*error = after.ticks - before.ticks;
		*raw_ns = raw;
		at->ticks = before.ticks + *error / 2;
	}
}

static uint64_t first_guest_tsc(const struct pvclock_kvm *kvm, struct pvclock_host_tsc at)
{
	struct pvclock_tsc_transform tsc = { 0 };

	if (kvm->vcpu_count)
		pvclock_vcpu_get_tsc(kvm->vcpus[0].vcpu, &tsc);
	return pvclock_tsc_to_guest(&tsc, at).ticks;
}

/* ns by this host's slope; 0: it is not known. */
static int64_t host_ns(const struct pvclock_kvm *kvm, uint64_t ticks)
{
	struct pvclock_line line;

	return pvclock_line_make(&line, 0, 0, &kvm->host, NULL) ? (int64_t)pvclock_line_ns(&line, ticks) : 0;
}

/*
 * The host's TSC was reset: it is less than it was, or has counted less than CLOCK_MONOTONIC_RAW did, which counts no
 * more than it. (A TSC that begins anew in each sleep is not less after the second one than it was after the first, if
 * the host was long awake between.)
 */
static bool began_anew(const struct pvclock_kvm *kvm, const struct kvm_mark *then, const struct kvm_mark *now)
{
	int64_t raw_ns = now->raw_ns - then->raw_ns, counted;

	if ((int64_t)(now->at.ticks - then->at.ticks) < 0) /* a mark that was retraced may be before the TSC's beginning */
		return true;
	counted = host_ns(kvm, now->at.ticks - then->at.ticks);
	return counted && counted < raw_ns - raw_ns / RESET_PART - RESET_MIN_NS;
}

void pvclock_kvm_look(const struct pvclock_kvm *kvm, struct kvm_look *look)
{
	*look = (struct kvm_look){ .now.taken = true };
	read_asleep(kvm, &look->now.asleep_ns, &look->now.asleep_error_ns);
	read_raw(kvm, &look->now.raw_ns, &look->now.at, &look->now.raw_error);
	if (!kvm->mark.taken)
		return;
	look->raw_ns = look->now.raw_ns > kvm->mark.raw_ns ? (uint64_t)(look->now.raw_ns - kvm->mark.raw_ns) : 0;
	look->reset = began_anew(kvm, &kvm->mark, &look->now);
	look->slept = look->reset || look->now.asleep_ns - kvm->mark.asleep_ns >= ASLEEP_MIN_NS;
}

/* What the guest's TSC counted since the mark, in ns. */
static int64_t counted_by_tsc(const struct pvclock_kvm *kvm, const struct kvm_look *look)
{
	struct pvclock_line line;

	if (!look->reset)
		return host_ns(kvm, look->now.at.ticks - kvm->mark.at.ticks);
	/* the host's began anew: the guest's, with the offset that KVM has given it since */
	if (kvm->vcpu_count == 0 || pvclock_vcpu_get_line(kvm->vcpus[0].vcpu, &line) || look->now.guest_tsc < kvm->mark.guest_tsc)
		return 0;
	return (int64_t)(pvclock_line_ns(&line, look->now.guest_tsc) - pvclock_line_ns(&line, kvm->mark.guest_tsc));
}

/*
 * How far the sleep's true length may be from what CLOCK_BOOTTIME counted. A TSC that went on has measured it; else
 * Linux may have read a clock of whole seconds before it and after.
 */
static uint64_t sleep_error(int64_t slept, int64_t surplus)
{
	int64_t apart = surplus > slept ? surplus - slept : slept - surplus;

	return surplus > slept / 2 && apart < RTC_NS ? (uint64_t)apart : RTC_NS;
}

static void add_error(struct pvclock_kvm *kvm, uint64_t ns)
{
	if (__builtin_add_overflow(kvm->error_ns, ns, &kvm->error_ns))
		kvm->error_ns = PVCLOCK_ERROR_UNKNOWN;
}

static bool slept_since_mark(const struct pvclock_kvm *kvm)
{
	int64_t limit = atomic_load_explicit(&kvm->asleep_limit_ns, memory_order_relaxed), before, boottime;

	before = read_clock(kvm, CLOCK_MONOTONIC);
	boottime = read_clock(kvm, CLOCK_BOOTTIME);
	if (boottime - before < limit)
		return false;
	/* or this thread did, between the two */
	return boottime - read_clock(kvm, CLOCK_MONOTONIC) >= limit;
}

bool pvclock_kvm_slept(struct pvclock_kvm *kvm)
{
	return pvclock_kvm_host_changed(kvm) || slept_since_mark(kvm);
}

/*
 * At every entry, so it is asked by the TSC first: where that has hardly gone on since somebody heard a no, there was
 * no sleep, or one in which it stood still, and then so did the guest's clock; in at most these few ticks that is
 * noticed, too.
 */
static bool may_enter(void *arg)
{
	struct pvclock_kvm *kvm = arg;

	if (pvclock_kvm_host_changed(kvm))
		return false;
	/*
	 * Where the clocks are read by system calls, newer kernels do not note that the thread slept in one (rseq, since 6.19): an answer
	 * that took long is asked for again.
	 */
	for (int tries = 0; tries < ASK_TRIES; tries++) {
		uint64_t now = kvm->os->ops->read_tsc(kvm->os->ctx).ticks;

		if (now - atomic_load_explicit(&kvm->awake_at, memory_order_relaxed) < AWAKE_TICKS)
			return true;
		if (slept_since_mark(kvm))
			return false;
		atomic_store_explicit(&kvm->awake_at, now, memory_order_relaxed);
		if (kvm->os->ops->read_tsc(kvm->os->ctx).ticks - now < AWAKE_TICKS)
			break;
	}
	return true;
}

int pvclock_kvm_enter(struct pvclock_kvm *kvm, int vcpu_fd)
{
	const struct pvclock_os_ops *ops = kvm->os->ops;
	int result;

	if (ops->enter && kvm->mode->slope)
		return ops->enter(kvm->os->ctx, vcpu_fd, may_enter, kvm);
	/* a mode that keeps no function has nothing to put right */
	result = !kvm->mode->slope || may_enter(kvm) ? kvm_ioctl(kvm, vcpu_fd, KVM_RUN, NULL) : -ESTALE;
	return result < 0 ? result : 0;
}

void pvclock_kvm_measure_sleep(struct pvclock_kvm *kvm, struct kvm_look *look)
{
	int64_t slept = look->now.asleep_ns - kvm->mark.asleep_ns, surplus;

	look->now.guest_tsc = first_guest_tsc(kvm, look->now.at);
	if (look->slept) {
		slept = slept > 0 ? slept : 0;
		surplus = counted_by_tsc(kvm, look) - (int64_t)look->raw_ns;
		kvm->slept_ns += (uint64_t)slept;
		kvm->surplus_ns += surplus;
		kvm->unpassed = true;
		add_error(kvm, (uint64_t)(look->now.asleep_error_ns + kvm->mark.asleep_error_ns) + sleep_error(slept, surplus) +
			       (uint64_t)host_ns(kvm, look->now.raw_error + kvm->mark.raw_error));
	}
	kvm->mark = look->now;
	atomic_store_explicit(&kvm->asleep_limit_ns, look->now.asleep_ns + ASLEEP_MIN_NS, memory_order_relaxed);
}

void pvclock_kvm_forget_sleep(struct pvclock_kvm *kvm)
{
	uint64_t error_ns = kvm->error_ns;
	struct kvm_look look;

	pvclock_kvm_look(kvm, &look);
	pvclock_kvm_measure_sleep(kvm, &look);
	kvm->slept_ns = 0;
	kvm->surplus_ns = 0;
	kvm->unpassed = false;
	kvm->error_ns = error_ns;
}
