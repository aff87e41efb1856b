/* SPDX-License-Identifier: MIT */
/*
 * steer.c - steer mode: the kernel publishes, and a feedback loop aims it.
 *
 * KVM_SET_CLOCK(c) makes the clock read c at a host tick m that only the kernel knows. Each KVM_GET_CLOCK then tells
 * (clock, host TSC), and that bounds m; a few of them leave one or two ticks. So the kernel's new line is known, and
 * what it will read against ours at *every* later tick follows (compare()): comparing readings would not do, since
 * two floors wobble against each other.
 *
 * It also tells how long the kernel takes from our TSC read to m. That latency repeats itself to a few ticks with
 * outliers, so the next try predicts m from it and sets what our line reads there.
 *
 * A kernel that has KVM_SET_CLOCK_GUEST takes the line itself and tells which tick it took; then nothing is guessed.
 */
#include "kvm.h"
#include "../host/reason.h"

#include <errno.h>

#define TRIES_MAX 16384u /* about 40 ms; a busy hyperthread spreads the latency, and giving up leaves tens of ns */
#define READBACKS 6
#define SETS_MAX 64 /* by KVM_SET_CLOCK_GUEST; two of three ticks do */
#define LATENCIES 3  /* the median of the last ones predicts the next */
#define PHASES 64    /* TSC reads that wait for a tick at which the prediction fits a whole ns */

struct aim {
	struct pvclock_kvm *kvm;
	struct pvclock_tsc_transform tsc;
	struct pvclock_line line;       /* what the guest is to read */
	struct pvclock_line unit;       /* the kernel's slope, anchored at 0 */
	struct pvclock_inverse inverse; /* of unit */
	uint64_t dropped;               /* ticks that the line's shift may drop */
	uint64_t latency[LATENCIES];    /* from our TSC read to the kernel's, ticks; the latest first */
};

static uint64_t guest_tsc(const struct aim *aim, uint64_t host)
{
	return pvclock_tsc_to_guest(&aim->tsc, (struct pvclock_host_tsc){ host }).ticks;
}

/*
 * The least and the most by which a line of the same slope, reading `set` at some guest tick of [first, last], differs from
 * ours at any later tick. With both anchors w ticks apart, a later reading differs by set - ns - (floor(x + w s) -
 * floor(x)), and the bracket is floor(w s) or one more; a shift by -k besides drops k bits of each, which counts as
 * up to 2^k - 1 ticks.
 */
static void compare(const struct aim *aim, uint64_t set, uint64_t first, uint64_t last, int64_t *least, int64_t *most)
{
	*most = (int64_t)(set - pvclock_line_ns(&aim->line, first));
	*least = (int64_t)(set - pvclock_line_ns(&aim->line, last + aim->dropped)) - 1;
}

static bool same_line(const struct pvclock_line *a, const struct pvclock_line *b)
{
	return a->tsc == b->tsc && a->ns == b->ns && a->mul == b->mul && a->shift == b->shift;
}

/*
 * The kernel's own way. It takes a new anchor and cuts the fraction of a ns off there, so it is asked for 1 ns more; a revision
 * that rounds otherwise shows it by the difference, and is asked for that less. At an odd tick, a shift that drops bits may spoil
 * it: again. Not everything that fails is told: what is left then is to aim.
 */
static bool aimed_by_kernel(const struct aim *aim, struct pvclock_correction *correction)
{
	struct pvclock_line asked = aim->line, told;
	const struct kvm_clock_guest *ioctls = pvclock_kvm_find_clock_guest(aim->kvm, &told);
	int64_t least, most;
	int i;

	if (ioctls && same_line(&told, &aim->line)) /* nobody touched it */
		return true;
	asked.ns++;
	for (i = 0; ioctls && i < SETS_MAX; i++) {
		correction->tries++;
		if (pvclock_kvm_set_kernel_clock(aim->kvm, ioctls, &asked) ||
		    pvclock_kvm_get_kernel_clock(aim->kvm, ioctls, &told) ||
		    told.mul != asked.mul || told.shift != asked.shift)
			return false;
		compare(aim, told.ns, told.tsc, told.tsc, &least, &most);
		if (least >= 0 && most <= 1) {
			correction->residual_ns = most;
			return true;
		}
		if (most - least <= 1)
			asked.ns -= (uint64_t)least;
	}
	return false;
}

static uint64_t predicted_latency(const struct aim *aim)
{
	const uint64_t *l = aim->latency;
	uint64_t low = l[0] < l[1] ? l[0] : l[1], high = l[0] < l[1] ? l[1] : l[0];

	return l[2] < low ? low : l[2] > high ? high : l[2];
}

static void learn_latency(struct aim *aim, uint64_t latency, bool first)
{
	aim->latency[2] = first ? latency : aim->latency[1];
	aim->latency[1] = first ? latency : aim->latency[0];
	aim->latency[0] = latency;
}

/*
 * The value to set, and the tick at which it was decided: one from which the prediction is a ns that lasts as long as
 * the shift may drop.
 */
static uint64_t choose(struct aim *aim, uint64_t *now)
{
	uint64_t latency = predicted_latency(aim), tick, ns;
	int i;

	for (i = 0; i < PHASES; i++) {
		*now = aim->kvm->os->ops->read_tsc(aim->kvm->os->ctx).ticks;
		tick = guest_tsc(aim, *now + latency);
		ns = pvclock_line_ns(&aim->line, tick);
		if (pvclock_line_ns(&aim->line, tick + aim->dropped) == ns)
			break;
	}
	return ns + 1;
}

/*
 * Reads back until the difference is within [0, 1] for all ticks at which the kernel may have taken `set`, or for
 * none.
 */
static int read_back(struct aim *aim, uint64_t set, uint64_t *first, uint64_t *last, int64_t *least, int64_t *most)
{
	int i;

	*first = 0;
	*last = UINT64_MAX;
	for (i = 0; i < READBACKS; i++) {
		uint64_t reached, passed, from;
		struct kvm_clock clock;
		int error = pvclock_kvm_get_clock(aim->kvm, &clock);

		if (error)
			return error;
		if (!(clock.flags & KVM_CLOCK_HOST_TSC))
			return -ENOTSUP;
		if (clock.clock < set || !pvclock_first_tick(&aim->inverse, clock.clock - set, &reached) ||
		    !pvclock_first_tick(&aim->inverse, clock.clock - set + 1, &passed))
			return -EAGAIN;
		from = clock.host_tsc - (passed - 1);
		*first = from > *first ? from : *first;
		*last = clock.host_tsc - reached < *last ? clock.host_tsc - reached : *last;
		if (*first > *last) /* no tick fits: someone else moved the clock in between */
			return -EAGAIN;
		compare(aim, set, guest_tsc(aim, *first), guest_tsc(aim, *last), least, most);
		if ((*least >= 0 && *most <= 1) || *most < 1 || *least > 0)
			break;
	}
	return 0;
}

static int take_aim(struct aim *aim, struct pvclock_correction *correction)
{
	bool learnt = false;

	while (correction->tries < TRIES_MAX) {
		uint64_t now, set = choose(aim, &now), first, last;
		int64_t least, most;
		int error;

		correction->tries++;
		error = pvclock_kvm_set_clock(aim->kvm, set);
		if (error == 0)
			error = read_back(aim, set, &first, &last, &least, &most);
		if (error == -EAGAIN)
			continue;
		if (error)
			return error;
		correction->residual_ns = most > -least ? most : least;
		/*
		 * 0 or 1 of the line it had at first: nothing adds up, and from one event to the next it is 1 ns at
		 * most.
		 */
		if (least >= 0 && most <= 1)
			return 0;
		learn_latency(aim, first + (last - first) / 2 - now, !learnt);
		learnt = true;
	}
	return -ERANGE;
}

static int prepare_aim(struct pvclock_kvm *kvm, struct aim *aim)
{
	if (kvm->vcpu_count == 0)
		return -ENODATA;
	aim->kvm = kvm;
	pvclock_vcpu_get_tsc(kvm->vcpus[0].vcpu, &aim->tsc);
	if (pvclock_vcpu_get_line(kvm->vcpus[0].vcpu, &aim->line))
		return -ENODATA;
	aim->dropped = aim->line.shift < 0 ? (1ull << -aim->line.shift) - 1 : 0;
	return 0;
}

static int prepare_sight(struct aim *aim)
{
	const struct pvclock_kvm *kvm = aim->kvm;
	int khz = pvclock_kvm_page_khz(kvm);

	/*
	 * KVM_GET_CLOCK computes with the unscaled rate (a fault of the kernel's): it would be aiming by a wrong
	 * sight.
	 */
	if (khz <= 0 || aim->tsc.frac_bits != 0 || !pvclock_line_make_kvm(&aim->unit, 0, 0, (uint32_t)khz))
		return -ENOTSUP;
	if (kvm->from_page) { /* the kernel's slope as it is, rather than as its kHz predict it */
		aim->unit.mul = aim->line.mul;
		aim->unit.shift = aim->line.shift;
	}
	pvclock_inverse_make(&aim->inverse, &aim->unit);
	return 0;
}

static void explain(int error, const struct aim *aim, const struct pvclock_correction *correction,
		    struct pvclock_reason *reason)
{
	switch (error) {
	case 0:
	case -ENODATA:
		break;
	case -ENOTSUP:
		pvclock_reason_set(reason, PVCLOCK_REASON_NO_MASTER_CLOCK, aim->tsc.frac_bits ?
				   "KVM_GET_CLOCK does not know of this guest's scaled TSC, so KVM's clock can be set but not "
				   "aimed; use own mode." :
				   "KVM's master clock is off, so its clock can be set but not aimed, and the guest's is off by the "
				   "time that KVM_SET_CLOCK takes; pvclock host says why, unless the vCPUs' TSCs differ.");
		break;
	case -ERANGE:
		pvclock_reason_set(reason, PVCLOCK_REASON_STEER_RESIDUAL,
				   "After %u tries KVM's clock is still %lld ns from its line; a quieter host or own mode would "
				   "do better.", correction->tries, (long long)correction->residual_ns);
		break;
	default:
		pvclock_reason_set(reason, PVCLOCK_REASON_OS, "KVM refused to set or tell its clock (error %d).", -error);
	}
}

static int steer_pause(struct pvclock_kvm *kvm)
{
	int error = pvclock_kernel_clock_learn(kvm);

	/* No page and no master clock yet: no guest has read a line that would have to be kept. */
	return error == -ENODATA ? 0 : error;
}

static int steer_resume(struct pvclock_kvm *kvm, struct pvclock_correction *correction, struct pvclock_reason *reason)
{
	struct aim aim = { 0 };
	int error = prepare_aim(kvm, &aim), resumed;

	if (error == 0 && !aimed_by_kernel(&aim, correction)) {
		error = prepare_sight(&aim);
		if (error == 0)
			error = take_aim(&aim, correction);
	}
	explain(error, &aim, correction, reason);
	resumed = pvclock_vm_resume(kvm->vm);
	pvclock_kernel_clock_mark_stopped(kvm);
	if (error == -ENODATA)
		return resumed; /* no line yet: nothing to aim at */
	return error ? error : resumed;
}

/* What KVM publishes, where that is known; else what it makes of its kHz. */
static int steer_slope(const struct pvclock_kvm *kvm, const struct pvclock_slope *host, struct pvclock_slope *guest)
{
	int khz = pvclock_kvm_page_khz(kvm);
	struct pvclock_line line;

	(void)host;
	if (kvm->from_page && pvclock_vcpu_get_line(kvm->vcpus[0].vcpu, &line) == 0)
		return pvclock_slope_from_line(&line, guest) ? 0 : -EINVAL;
	if (khz <= 0 || !pvclock_line_make_kvm(&line, 0, 0, (uint32_t)khz))
		return -ENOTSUP;
	return pvclock_slope_from_line(&line, guest) ? 0 : -EINVAL;
}

const struct kvm_mode pvclock_kvm_mode_steer = {
	.mode = PVCLOCK_MODE_STEER,
	.slope = steer_slope,
	.pause = steer_pause,
	.resume = steer_resume,
	.save = pvclock_kernel_clock_save,
	.restore = pvclock_kernel_clock_restore,
};
