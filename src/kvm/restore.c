/* SPDX-License-Identifier: MIT */
/*
 * restore.c - the clock of a VM on KVM, saved and put back. A plan decides, refusing as a whole before anything changed;
 * what is then done is an arrival (arrive.c) whose counters and deadlines are the plan's.
 */
#include "kvm.h"
#include "../host/reason.h"

#include <errno.h>
#include <stdlib.h>

/* --- save ------------------------------------------------------------------------------------ */

/* What the engine does not know of a vCPU. An MSR that KVM does not have is one that the guest does not have. */
static int save_vcpu(struct pvclock_kvm *kvm, struct pvclock_record_vcpu *saved)
{
	const struct kvm_vcpu *vcpu = pvclock_kvm_find_vcpu(kvm, saved->index);
	struct {
		__u32 nmsrs, pad;
		struct kvm_msr_entry entries[2];
	} two = { .nmsrs = 2, .entries = { { .index = MSR_IA32_TSC_ADJUST }, { .index = MSR_IA32_TSC_DEADLINE } } };

	if (!vcpu)
		return -ENOENT;
	/* both at once, as each call costs a vCPU's loading; KVM ends at the first that it does not have */
	if (kvm_ioctl(kvm, vcpu->fd, KVM_GET_MSRS, &two) == 2) {
		saved->tsc_adjust = two.entries[0].data;
		saved->tsc_deadline = two.entries[1].data;
		return 0;
	}
	if (pvclock_kvm_get_msr(kvm, vcpu, MSR_IA32_TSC_ADJUST, &saved->tsc_adjust))
		saved->tsc_adjust = 0;
	if (pvclock_kvm_get_msr(kvm, vcpu, MSR_IA32_TSC_DEADLINE, &saved->tsc_deadline))
		saved->tsc_deadline = 0;
	return 0;
}

/*
 * The record is of the tick up to which the policy for this blackout has been seen to: what comes later is the
 * restore's to judge, even the moment that it took to read the host's clocks.
 */
static void date_back(const struct pvclock_kvm *kvm, struct pvclock_record *record)
{
	struct pvclock_host_time *time = &record->time;
	struct pvclock_line line;
	uint64_t ns;

	if (!kvm->held || time->at.ticks < kvm->last.ticks || !pvclock_line_make(&line, 0, 0, &kvm->host, NULL))
		return;
	ns = pvclock_line_ns(&line, time->at.ticks - kvm->last.ticks);
	if (ns > time->tai_ns || ns > time->realtime_ns || ns > time->boottime_ns)
		return;
	time->at = kvm->last;
	time->tai_ns -= ns;
	time->realtime_ns -= ns;
	time->boottime_ns -= ns;
	record->system_time = pvclock_line_ns(&record->line, pvclock_tsc_to_guest(&record->reference, time->at).ticks);
}

/*
 * What this blackout has come to before the save, which the resume would add: whoever goes on from the record has no
 * such resume.
 */
static void count_so_far(const struct pvclock_kvm *kvm, struct pvclock_account *account)
{
	account->counted_ns += kvm->counted_ns;
	account->uncounted_ns += kvm->uncounted_ns;
	account->moved_ticks += kvm->moved_ticks;
	if (__builtin_add_overflow(account->error_ns, kvm->error_ns, &account->error_ns))
		account->error_ns = PVCLOCK_ERROR_UNKNOWN;
}

int pvclock_kvm_save(struct pvclock_kvm *kvm, struct pvclock_record *record)
{
	struct pvclock_reason unused;
	uint32_t i;
	int error = pvclock_kvm_pass_time(kvm, &unused); /* the guest has been stopped for a while already */

	if (error == 0)
		error = pvclock_record_capture(kvm->vm, record);
	if (error)
		return error;
	if (kvm->host.mantissa)
		record->host = kvm->host;
	date_back(kvm, record);
	count_so_far(kvm, &record->account);
	for (i = 0; error == 0 && i < record->vcpu_count; i++)
		error = save_vcpu(kvm, &record->vcpus[i]);
	if (error == 0 && kvm->mode->save)
		error = kvm->mode->save(kvm, record);
	if (error)
		pvclock_record_clear(record);
	return error;
}

/* --- what this host is --------------------------------------------------------------------------- */

/* The slope that KVM itself makes of a TSC's rate. */
static void kernel_slope(uint32_t khz, struct pvclock_slope *slope)
{
	struct pvclock_line line;

	*slope = (struct pvclock_slope){ 0 };
	if (khz != 0 && pvclock_line_make_kvm(&line, 0, 0, khz))
		pvclock_slope_from_line(&line, slope);
}

static void describe(const struct pvclock_os *os, const struct pvclock_kvm_capabilities *capabilities, enum pvclock_mode mode,
		     const struct pvclock_slope *host, const struct pvclock_reason *no_line, struct pvclock_destination *destination)
{
	*destination = (struct pvclock_destination){
		.host = *host,
		.tsc_offsets = capabilities->tsc_offset_honoured,
		.frac_bits = capabilities->tsc_control ? pvclock_kvm_frac_bits(os) : 0,
		.kernel_publishes = mode == PVCLOCK_MODE_STEER || mode == PVCLOCK_MODE_STOCK,
		.kernel_aims_scaled = capabilities->clock_guest || mode == PVCLOCK_MODE_STOCK, /* which aims at nothing */
	};
	if (no_line)
		destination->no_line = *no_line;
	if (destination->kernel_publishes && capabilities->master_clock)
		kernel_slope(capabilities->tsc_khz, &destination->kernel);
}

int pvclock_kvm_destination(const struct pvclock_os *os, const struct pvclock_kvm_capabilities *capabilities,
			    enum pvclock_mode mode, const struct pvclock_slope *host, const struct pvclock_reason *no_line,
			    struct pvclock_destination *destination)
{
	describe(os, capabilities, mode, host, no_line, destination);
	return pvclock_host_time_read(os, &destination->time);
}

/*
 * A scaled TSC's clock needs it. Before the first entry only a set clock turns KVM's master clock on, and nobody has read it yet.
 */
static bool has_clock_guest(const struct pvclock_kvm *kvm)
{
	struct pvclock_tsc_transform tsc;
	struct kvm_clock clock;

	if (kvm->mode->mode != PVCLOCK_MODE_STEER || pvclock_kvm_get_clock(kvm, &clock))
		return false;
	if (!(clock.flags & KVM_CLOCK_HOST_TSC) && pvclock_kvm_set_clock(kvm, clock.clock))
		return false;
	pvclock_vcpu_get_tsc(kvm->vcpus[0].vcpu, &tsc);
	return pvclock_kvm_probe_clock_guest(kvm->os, kvm->vm_fd, kvm->vcpus[0].fd, &tsc);
}

/* The same of the host that `kvm` is on. */
static int destination_here(struct pvclock_kvm *kvm, const struct pvclock_slope *host, struct pvclock_destination *destination)
{
	int khz = kvm_ioctl(kvm, kvm->vm_fd, KVM_GET_TSC_KHZ, NULL), error;
	struct pvclock_kvm_capabilities known = {
		.tsc_control = kvm_ioctl(kvm, kvm->vm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_TSC_CONTROL) > 0,
		.tsc_offset_honoured = true, /* what becomes of a write is read back */
		.master_clock = true,        /* else steering says so */
	};

	if (khz <= 0)
		khz = kvm_ioctl(kvm, kvm->vcpus[0].fd, KVM_GET_TSC_KHZ, NULL);
	known.tsc_khz = khz > 0 ? (uint32_t)khz : 0;
	known.clock_guest = known.tsc_control && has_clock_guest(kvm);
	describe(kvm->os, &known, kvm->mode->mode, host, NULL, destination);
	error = pvclock_host_time_refresh(kvm->os, &kvm->time);
	destination->time = kvm->time;
	return error;
}

/* --- restore ------------------------------------------------------------------------------------- */

/* The record's vCPUs are all there. */
static int check_vcpus(struct pvclock_kvm *kvm, const struct pvclock_record *record, struct pvclock_reason *reason)
{
	uint32_t i;

	for (i = 0; i < record->vcpu_count; i++) {
		if (pvclock_kvm_find_vcpu(kvm, record->vcpus[i].index))
			continue;
		pvclock_reason_set(reason, PVCLOCK_REASON_VCPU_COUNT,
				   "The record holds vCPU %u, which this VM has not; start it with the same vCPUs.",
				   record->vcpus[i].index);
		return -EINVAL;
	}
	return 0;
}

/* What the guest has found here it goes on using. */
static int check_offer(const struct pvclock_kvm *kvm, const struct pvclock_record *record, struct pvclock_reason *reason)
{
	uint32_t used = record->suspend_msr & PVCLOCK_MSR_ENABLE ? PVCLOCK_FEATURE_SUSPEND : 0, hyperv, i;

	if (record->nested_msr & PVCLOCK_MSR_ENABLE)
		used |= PVCLOCK_FEATURE_NESTED;
	for (i = 0; i < record->vcpu_count; i++)
		if (record->vcpus[i].deadline_control & PVCLOCK_CONTROL_ENABLE)
			used |= PVCLOCK_FEATURE_DEADLINE;
	hyperv = record->hyperv_tsc_page & PVCLOCK_MSR_ENABLE ? PVCLOCK_HYPERV_TSC_PAGE : 0;
	if ((record->hyperv_reenlightenment & PVCLOCK_CONTROL_ENABLE) || record->hyperv_emulation_control)
		hyperv |= PVCLOCK_HYPERV_REENLIGHTENMENT;
	if (record->hyperv_invariant)
		hyperv |= PVCLOCK_HYPERV_INVARIANT;
	if (hyperv & ~pvclock_vm_offered_hyperv(kvm->vm)) {
		pvclock_reason_set(reason, PVCLOCK_REASON_RECORD_FIELD,
				   "The record's guest uses features 0x%x of Hyper-V's clock, and this VM is offered 0x%x; give it "
				   "those with pvclock_vm_offer_hyperv, in own mode.", hyperv, pvclock_vm_offered_hyperv(kvm->vm));
		return -ENOTSUP;
	}
	if ((used & ~pvclock_vm_offered(kvm->vm)) == 0)
		return 0;
	pvclock_reason_set(reason, PVCLOCK_REASON_RECORD_FIELD,
			   "The record's guest uses features 0x%x of pvclock/interface.h, and this VM is offered 0x%x; give it those with "
			   "pvclock_vm_offer.", used, pvclock_vm_offered(kvm->vm));
	return -ENOTSUP;
}

/* The guest's TSC rate, where this host scales it. */
static int set_rate(struct pvclock_kvm *kvm, const struct pvclock_plan *plan)
{
	size_t i;
	int error = 0;

	for (i = 0; error >= 0 && plan->tsc_khz != 0 && i < kvm->vcpu_count; i++)
		error = kvm_ioctl(kvm, kvm->vcpus[i].fd, KVM_SET_TSC_KHZ, (void *)(uintptr_t)plan->tsc_khz);
	return error < 0 ? error : 0;
}

/* The record's first vCPU comes first: the line is over its TSC. What the record does not know gets the same TSC. */
static size_t list_counters(struct pvclock_kvm *kvm, const struct pvclock_record *record, const struct pvclock_plan *plan,
			    struct pvclock_arrival_tsc *tscs)
{
	size_t count = 0, i, known = 0;

	for (i = 0; i < record->vcpu_count; i++, count++) {
		tscs[count].vcpu = pvclock_kvm_find_vcpu(kvm, record->vcpus[i].index)->vcpu;
		pvclock_plan_vcpu(record, plan, (uint32_t)i, &tscs[count].tsc, &tscs[count].deadline);
		tscs[count].deadline = record->vcpus[i].tsc_deadline; /* arrive does the plan's arithmetic on it */
	}
	for (i = 0; i < kvm->vcpu_count; i++) { /* both are in order */
		if (known < record->vcpu_count && record->vcpus[known].index == pvclock_vcpu_index(kvm->vcpus[i].vcpu))
			known++;
		else
			tscs[count++] = (struct pvclock_arrival_tsc){ .vcpu = kvm->vcpus[i].vcpu, .tsc = tscs[0].tsc };
	}
	return count;
}

/*
 * Stolen time, with whoever owns it here: the engine has it from a host where the engine had it, or else takes it over
 * from the kernel, which the VMM gave its MSRs; and the kernel gets what the engine had.
 */
static int restore_steal(struct pvclock_kvm *kvm, const struct kvm_vcpu *vcpu, const struct pvclock_record_vcpu *saved)
{
	uint64_t msr = 0;

	if (!pvclock_vm_owns_steal(kvm->vm)) {
		if (saved->steal_msr)
			pvclock_kvm_set_msr(kvm, vcpu, PVCLOCK_MSR_STEAL_TIME, saved->steal_msr);
		return 0;
	}
	if (saved->steal_msr || pvclock_kvm_get_msr(kvm, vcpu, PVCLOCK_MSR_STEAL_TIME, &msr) || msr == 0)
		return pvclock_vcpu_restore_steal(vcpu->vcpu, saved->steal_msr, saved->steal_ns);
	pvclock_kvm_set_msr(kvm, vcpu, PVCLOCK_MSR_STEAL_TIME, 0);
	return pvclock_vcpu_restore_msr(vcpu->vcpu, PVCLOCK_MSR_STEAL_TIME, msr);
}

/* What the guest registered once for all of its vCPUs. */
static int restore_of_vm(struct pvclock_kvm *kvm, struct pvclock_vcpu *vcpu, const struct pvclock_record *record)
{
	const struct {
		uint32_t msr;
		uint64_t value;
	} msrs[] = {
		{ PVCLOCK_MSR_WALL_CLOCK, record->wall_clock_msr },
		{ PVCLOCK_MSR_SUSPEND_CONTROL, record->suspend_control },
		{ PVCLOCK_MSR_SUSPEND, record->suspend_msr },
		{ PVCLOCK_MSR_NESTED_CONTROL, record->nested_control },
		{ PVCLOCK_MSR_NESTED, record->nested_msr },
	};
	int error = 0;

	for (size_t i = 0; error == 0 && i < sizeof(msrs) / sizeof(*msrs); i++)
		error = pvclock_vcpu_restore_msr(vcpu, msrs[i].msr, msrs[i].value);
	return error ? error : pvclock_vm_restore_hyperv(kvm->vm, record);
}

/* What the guest registered, where the engine keeps it. */
static int restore_registrations(struct pvclock_kvm *kvm, const struct pvclock_record *record)
{
	int error = 0;
	uint32_t i;

	for (i = 0; error == 0 && i < record->vcpu_count; i++) {
		const struct pvclock_record_vcpu *saved = &record->vcpus[i];
		const struct kvm_vcpu *vcpu = pvclock_kvm_find_vcpu(kvm, saved->index);

		error = pvclock_vcpu_restore_msr(vcpu->vcpu, saved->old_msrs ? PVCLOCK_MSR_SYSTEM_TIME_OLD : PVCLOCK_MSR_SYSTEM_TIME,
						 saved->system_time_msr);
		if (error == 0 && i == 0)
			error = restore_of_vm(kvm, vcpu->vcpu, record);
		if (error == 0)
			error = pvclock_vcpu_restore_msr(vcpu->vcpu, PVCLOCK_MSR_DEADLINE_CONTROL, saved->deadline_control);
		if (error == 0)
			error = pvclock_vcpu_restore_msr(vcpu->vcpu, PVCLOCK_MSR_DEADLINE, saved->deadline_ns);
		if (error == 0)
			error = restore_steal(kvm, vcpu, saved);
		if (saved->tsc_adjust) /* a host's write moves no TSC */
			pvclock_kvm_set_msr(kvm, vcpu, MSR_IA32_TSC_ADJUST, saved->tsc_adjust);
	}
	return error;
}

static void keep_account(struct pvclock_kvm *kvm, const struct pvclock_record *record, const struct pvclock_plan *plan)
{
	struct pvclock_account account = { 0 };

	if (kvm->mode->slope) /* else pvclock_record_apply has put it there */
		account = record->account;
	account.rate_changes += plan->precision != PVCLOCK_EXACT;
	pvclock_vm_count(kvm->vm, &account);
	kvm->counted_ns = plan->counted_ns;
	kvm->uncounted_ns = plan->elapsed.ns - plan->counted_ns;
	kvm->error_ns = plan->elapsed.bound_ns;
	kvm->loaded = true;
	kvm->came_by_record = record->vcpu_count > 0;
	if (kvm->came_by_record)
		kvm->came_with = record->vcpus[0].tsc;
	pvclock_kvm_forget_sleep(kvm); /* the plan knows of it */
}

/* The clock goes on from its value, and follows a TSC of which nobody knows how it runs. */
static void declare_legacy(struct pvclock_kvm *kvm)
{
	struct pvclock_reason reason;

	pvclock_reason_set(&reason, PVCLOCK_REASON_NO_LINE,
			   "The clock was restored where it cannot be kept as a function, and goes on from its value alone; give "
			   "it a line (pvclock_kvm_arrive), own mode or another host.");
	pvclock_vm_declare_unstable(kvm->vm, &reason);
}

static int carry_out(struct pvclock_kvm *kvm, const struct pvclock_record *record, const struct pvclock_slope *host,
		     const struct pvclock_destination *here, const struct pvclock_plan *plan, struct pvclock_reason *reason)
{
	struct pvclock_arrival arrival = { .host = host, .line = plan->at.old, .ns = UINT64_MAX, .at = here->time.at };
	struct pvclock_arrival_tsc *tscs = calloc(kvm->vcpu_count, sizeof(*tscs));
	int error;

	if (!tscs)
		return -ENOMEM;
	arrival.tsc_count = list_counters(kvm, record, plan, tscs);
	arrival.tscs = tscs;
	error = set_rate(kvm, plan);
	if (error == 0)
		error = restore_registrations(kvm, record);
	if (error == 0)
		error = pvclock_kvm_arrive(kvm, &arrival, NULL, reason);
	if (error == 0 && kvm->mode->restore)
		error = kvm->mode->restore(kvm, record, reason);
	free(tscs);
	return error;
}

int pvclock_kvm_restore(struct pvclock_kvm *kvm, const struct pvclock_record *record, enum pvclock_blackout blackout,
			const struct pvclock_slope *host, struct pvclock_plan *out, struct pvclock_reason *reason)
{
	int paused = pvclock_vm_pause(kvm->vm), error;
	struct pvclock_destination here;
	struct pvclock_plan plan;
	struct pvclock_slope legacy;

	pvclock_reason_clear(reason);
	host = host ? host : &record->host;
	error = kvm->vcpu_count ? check_vcpus(kvm, record, reason) : -EINVAL;
	if (error == 0)
		error = check_offer(kvm, record, reason);
	if (error == 0 && !kvm->mode->slope && blackout != PVCLOCK_BLACKOUT_LIVE_UPDATE) {
		pvclock_reason_set(reason, PVCLOCK_REASON_NO_LINE,
				   "Stock mode keeps no function, so it takes a clock over by a live update only; use own or steer mode.");
		error = -ENOTSUP;
	}
	if (error == 0)
		error = destination_here(kvm, host, &here);
	if (error == 0)
		error = pvclock_plan_make(record, &here, blackout, &plan, reason);
	if (error) {
		if (paused == 0)
			pvclock_vm_resume(kvm->vm);
		return error;
	}
	/* nobody here knows the slope: the guest's own, which is no promise */
	if (plan.precision == PVCLOCK_LEGACY && plan.tsc_khz == 0) {
		pvclock_slope_from_line(&plan.at.line, &legacy);
		host = &legacy;
	}
	if (out)
		*out = plan;
	pvclock_vm_set_policy(kvm->vm, &record->policy);
	pvclock_kvm_blackout(kvm, blackout);
	/* a mode that keeps no function puts the kernel's clock back, and that is all */
	error = kvm->mode->slope ? carry_out(kvm, record, host, &here, &plan, reason) : kvm->mode->restore(kvm, record, reason);
	if (error == 0 && plan.precision == PVCLOCK_LEGACY)
		declare_legacy(kvm);
	if (error == 0)
		keep_account(kvm, record, &plan);
	else if (reason && reason->code == PVCLOCK_REASON_NONE)
		pvclock_reason_set(reason, PVCLOCK_REASON_OS, "KVM did not take the clock's state (error %d).", -error);
	return error;
}
