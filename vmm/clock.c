// SPDX-License-Identifier: MIT
/*
 * clock.c - all that a VMM has to do for its guest's clock: attach, start, pause and resume, save and restore.
 */
#include "vmm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define VMCLOCK_SIZE 0x1000 /* a page, which a guest may map into its processes */
#define VMCLOCK_RETRY_NS 1000000000ull
#define LEARN_TIMEOUT_NS 5000000000ull

#define VMM_FEATURES PVCLOCK_FEATURES
#define KVM_LEAVES PVCLOCK_CPUID_FIRST /* where KVM's own are, and a guest finds them ... */
#define KVM_LEAVES_MOVED (PVCLOCK_CPUID_FIRST + PVCLOCK_CPUID_STEP) /* ... and where it looks next, if Hyper-V's are there */
#define APIC_HZ 1000000000u /* of KVM's local APIC */

/* Proves the host's slope, or says why there is none. 0 or -errno. */
static int open_source(struct machine *machine, bool learn, struct pvclock_reason *reason)
{
	int error = pvclock_source_open(pvclock_os_linux(), &machine->clock.source, reason);

	if (error == 0 && learn)
		error = pvclock_source_learn(machine->clock.source, LEARN_TIMEOUT_NS, reason);
	if (error != 0 && machine->clock.source != NULL) {
		pvclock_source_close(machine->clock.source);
		machine->clock.source = NULL;
	}
	return error;
}

/* Whether KVM's own clock can be aimed; if not, *reason says why. */
static bool can_steer(const struct machine *machine, struct pvclock_reason *reason)
{
	struct pvclock_kvm_capabilities can;

	if (pvclock_kvm_probe(pvclock_os_linux(), machine->kvm_fd, &can) != 0 || can.master_clock)
		return true; /* not known to be out of reach */
	*reason = can.master_clock_reason;
	return false;
}

/* One line: which mode it is, why, and by what the clock runs. */
static void say_mode(const struct machine *machine, enum pvclock_mode asked, bool learnt,
		     const struct pvclock_reason *mode_reason, const struct pvclock_reason *source_reason)
{
	enum pvclock_mode mode = pvclock_kvm_mode(machine->clock.kvm);
	static const char *const how[] = {
		[PVCLOCK_SOURCE_FROM_SAMPLES] = "proven",
		[PVCLOCK_SOURCE_FROM_KVM_PAGE] = "read from its hypervisor's pvclock page and verified",
		[PVCLOCK_SOURCE_FROM_HYPERV_PAGE] = "nearly, read from Hyper-V's TSC page and verified",
	};
	struct pvclock_source_state state;
	char slope[160] = "the host's slope will come with the record";

	if (machine->clock.source == NULL) {
		snprintf(slope, sizeof(slope), "the host's slope is only known to 1 kHz");
	} else if (learnt) {
		pvclock_source_get(machine->clock.source, &state);
		snprintf(slope, sizeof(slope), "the host's slope is %u/2^%u ns per tick, %s", state.mult, state.shift,
			 how[state.from]);
	}
	fprintf(stderr, "pvclock-vmm: clock: %s mode (asked for: %s); %s%s%s%s%s\n", pvclock_mode_name(mode),
		pvclock_mode_name(asked), slope, mode_reason->text[0] != '\0' ? "; " : "", mode_reason->text,
		source_reason->text[0] != '\0' ? "; " : "", source_reason->text);
}

/* Where the clock is ours, the guest may ask more of it than KVM's own interface knows. */
static int attach(struct machine *machine, const struct pvclock_kvm_config *config, struct pvclock_reason *reason)
{
	bool own = config->mode == PVCLOCK_MODE_OWN || config->mode == PVCLOCK_MODE_AUTO;
	int error;

	pvclock_vm_offer(machine->clock.vm, own ? VMM_FEATURES : 0);
	error = pvclock_kvm_attach(config, &machine->clock.kvm, reason);
	if (error == -ENOTSUP && config->mode == PVCLOCK_MODE_AUTO) { /* steer mode needs no filter, but what is offered does */
		pvclock_vm_offer(machine->clock.vm, 0);
		error = pvclock_kvm_attach(config, &machine->clock.kvm, reason);
	}
	if (error == 0 && pvclock_kvm_mode(machine->clock.kvm) != PVCLOCK_MODE_OWN)
		pvclock_vm_offer(machine->clock.vm, 0);
	return error;
}

/* Hyper-V's leaves are the first ones, or none: KVM's two make room. */
static int tell_hyperv(struct machine *machine, struct problem *problem)
{
	struct pvclock_cpuid leaves[PVCLOCK_HYPERV_LEAVES], moved[2] = { { .leaf = 0 } };

	for (uint32_t i = 0; i < machine->cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *entry = &machine->cpuid->entries[i];
		uint32_t leaf = entry->function - KVM_LEAVES;

		if (leaf < 2)
			moved[leaf] = (struct pvclock_cpuid){ 0, entry->eax, entry->ebx, entry->ecx, entry->edx };
	}
	for (uint32_t leaf = 0; leaf < 2; leaf++)
		moved[leaf].leaf = KVM_LEAVES_MOVED + leaf;
	moved[0].eax = KVM_LEAVES_MOVED + 1;
	pvclock_hyperv_cpuid(pvclock_vm_offered_hyperv(machine->clock.vm), leaves);
	if (machine_add_leaves(machine, moved, 2, problem) < 0)
		return -1;
	return machine_add_leaves(machine, leaves, PVCLOCK_HYPERV_LEAVES, problem);
}

static int tell_offer(struct machine *machine, struct problem *problem)
{
	struct pvclock_cpuid leaves[PVCLOCK_CPUID_LEAVES];
	uint32_t offered = pvclock_vm_offered(machine->clock.vm);

	if (pvclock_vm_offered_hyperv(machine->clock.vm) && tell_hyperv(machine, problem) < 0)
		return -1;
	if (!offered)
		return 0;
	pvclock_interface_cpuid((machine->hyperv ? KVM_LEAVES_MOVED : KVM_LEAVES) + PVCLOCK_CPUID_STEP, offered,
				pvclock_interface_guest_depth(pvclock_os_linux()), leaves);
	return machine_add_leaves(machine, leaves, PVCLOCK_CPUID_LEAVES, problem) < 0 ? -1 : timer_start(machine, problem);
}

int clock_attach(struct machine *machine, enum pvclock_mode asked, bool learn, struct problem *problem)
{
	struct vmm_clock *clock = &machine->clock;
	struct pvclock_reason source_reason = { 0 }, reason = { 0 }, attach_reason = { 0 };
	enum pvclock_mode mode = asked;

	if (open_source(machine, learn, &source_reason) != 0) {
		if (asked == PVCLOCK_MODE_OWN)
			return fail(problem, "--mode own: %s", source_reason.text);
		if (asked == PVCLOCK_MODE_AUTO) /* the kernel's clock needs no line of ours, but its own to be aimed */
			mode = can_steer(machine, &reason) ? PVCLOCK_MODE_STEER : PVCLOCK_MODE_STOCK;
	}
	/* For the log alone, and it makes a VM: not while somebody waits for us to take a guest over. */
	if (asked == PVCLOCK_MODE_STEER && learn)
		(void)can_steer(machine, &reason);
	int error = pvclock_vm_create(pvclock_os_linux(), &clock->vm);
	if (error == 0)
		error = pvclock_vm_add_memory(clock->vm, (struct pvclock_gpa){ 0 }, machine->memory_size,
					      machine->memory, 0);
	if (error != 0)
		return fail(problem, "clock: %s", strerror(-error));
	struct pvclock_kvm_config config = {
		.os = pvclock_os_linux(),
		.vm = clock->vm,
		.vm_fd = machine->vm_fd,
		.mode = mode,
		.sooner = timer_sooner,
		.sooner_ctx = machine,
	};
	if (machine->vmclock)
		error = pvclock_vm_set_vmclock(clock->vm, (struct pvclock_gpa){ VMM_VMCLOCK_GPA }, VMCLOCK_SIZE, 0);
	if (error != 0)
		return fail(problem, "--vmclock: %s", strerror(-error));
	pvclock_vm_own_steal(clock->vm, machine->own_steal);
	pvclock_vm_offer_hyperv(clock->vm, machine->hyperv ? PVCLOCK_HYPERV_FEATURES : 0, APIC_HZ);
	if (timer_open(machine, problem) < 0)
		return -1;
	error = attach(machine, &config, &attach_reason);
	if (error != 0)
		return fail(problem, "--mode %s: %s", pvclock_mode_name(asked),
			    attach_reason.text[0] != '\0' ? attach_reason.text : strerror(-error));
	if (attach_reason.text[0] != '\0')
		reason = attach_reason;
	if (machine->own_steal && !pvclock_vm_owns_steal(clock->vm)) {
		machine->own_steal = false;
		fprintf(stderr, "pvclock-vmm: --steal own: stolen time stays the kernel's, as does the clock in this mode\n");
	}
	if (machine->hyperv && !pvclock_vm_offered_hyperv(clock->vm)) {
		machine->hyperv = false;
		fprintf(stderr, "pvclock-vmm: --hyperv: it is not offered, as the clock is the kernel's in this mode\n");
	}
	for (uint32_t i = 0; i < machine->vcpu_count; i++) {
		struct vcpu *vcpu = &machine->vcpus[i];

		error = pvclock_vcpu_create(clock->vm, i, &vcpu->clock);
		if (error == 0)
			error = pvclock_kvm_add_vcpu(clock->kvm, vcpu->clock, vcpu->fd);
		if (error != 0)
			return fail(problem, "clock of vCPU %u: %s", i, strerror(-error));
	}
	if (clock->source != NULL) { /* where this machine is a guest, its own clock may become another under it */
		struct pvclock_source_state state;

		pvclock_source_get(clock->source, &state);
		(void)pvclock_kvm_watch(clock->kvm, state.from);
	}
	say_mode(machine, asked, learn, &reason, &source_reason);
	return tell_offer(machine, problem);
}

void clock_detach(struct machine *machine)
{
	struct vmm_clock *clock = &machine->clock;

	timer_stop(machine);
	pvclock_kvm_detach(clock->kvm);
	for (uint32_t i = 0; i < machine->vcpu_count; i++)
		if (machine->vcpus[i].clock != NULL)
			pvclock_vcpu_destroy(machine->vcpus[i].clock);
	if (clock->vm != NULL)
		pvclock_vm_destroy(clock->vm);
	if (clock->source != NULL)
		pvclock_source_close(clock->source);
}

int clock_slope(const struct machine *machine, struct pvclock_slope *slope, struct problem *problem)
{
	struct pvclock_source_state state;

	if (machine->clock.source != NULL) {
		pvclock_source_get(machine->clock.source, &state);
		*slope = state.slope;
		return 0;
	}
	int khz = ioctl(machine->vcpus[0].fd, KVM_GET_TSC_KHZ, 0);
	if (khz <= 0 || !pvclock_slope_from_khz((uint64_t)khz, slope))
		return fail(problem, "KVM_GET_TSC_KHZ: KVM does not know the TSC's rate");
	return 0;
}

static int decode(const struct wire *wire, struct pvclock_record *record, struct problem *problem)
{
	struct pvclock_reason reason = { 0 };
	size_t size;
	const void *bytes = wire_find(wire, WIRE_RECORD, 0, &size);

	if (bytes == NULL)
		return fail(problem, "the saved state holds no clock record");
	if (pvclock_record_decode(bytes, size, record, &reason) != 0)
		return fail(problem, "the saved clock record is refused: %s", reason.text);
	return 0;
}

int clock_learn(struct machine *machine, const struct wire *wire, struct problem *problem)
{
	struct pvclock_source *source = machine->clock.source;
	struct pvclock_record record = { 0 };
	struct pvclock_reason reason = { 0 };
	struct pvclock_host_time now;

	if (source == NULL)
		return 0;
	if (decode(wire, &record, problem) < 0)
		return -1;
	bool known = pvclock_host_time_read(pvclock_os_linux(), &now) == 0 &&
		     pvclock_host_time_same_boot(&record.time, &now) &&
		     pvclock_source_assume(source, &record.host, &reason) == 0;
	pvclock_record_clear(&record);
	if (!known && pvclock_source_learn(source, LEARN_TIMEOUT_NS, &reason) != 0)
		return fail(problem, "clock: %s", reason.text);
	return 0;
}

void clock_set_policy(struct machine *machine, const char *words)
{
	struct pvclock_policy policy;

	pvclock_vm_get_policy(machine->clock.vm, &policy);
	pvclock_policy_parse(&policy, words, NULL); /* main.c has seen to it that they are right */
	pvclock_vm_set_policy(machine->clock.vm, &policy);
}

int clock_start(struct machine *machine, struct problem *problem)
{
	struct pvclock_slope slope;

	if (clock_slope(machine, &slope, problem) < 0)
		return -1;
	int error = pvclock_kvm_start(machine->clock.kvm, &slope);
	return error == 0 ? 0 : fail(problem, "clock: start: %s", strerror(-error));
}

uint64_t clock_update_vmclock(struct machine *machine)
{
	struct pvclock_vmclock_update said;

	if (!machine->vmclock)
		return UINT64_MAX;
	if (pvclock_vm_update_vmclock(machine->clock.vm, &said) != 0)
		return VMCLOCK_RETRY_NS;
	if (said.stepped_ns != 0)
		fprintf(stderr, "pvclock-vmm: the host's clock was stepped by %lld ns: what VMClock had said of its error was not true\n",
			(long long)said.stepped_ns);
	return said.next_ns;
}

void clock_name_thread(struct vcpu *vcpu)
{
	int error = vcpu->machine->own_steal ? pvclock_vcpu_set_thread(vcpu->clock, vcpu->tid) : 0;

	if (error != 0)
		fprintf(stderr, "pvclock-vmm: vCPU %u: no time will be told as stolen: the kernel does not say how long this thread waited "
			"(CONFIG_SCHED_INFO): %s\n", vcpu->index, strerror(-error));
}

void clock_blackout(struct machine *machine, enum pvclock_blackout blackout)
{
	pvclock_kvm_blackout(machine->clock.kvm, blackout);
}

int clock_pause(struct machine *machine, enum pvclock_blackout blackout, struct problem *problem)
{
	int error = pvclock_kvm_pause(machine->clock.kvm);

	if (error != 0)
		return fail(problem, "clock: pause: %s", strerror(-error));
	clock_blackout(machine, blackout);
	return 0;
}

/* How much `ticks` of this host's TSC are in ns, either way; 0 where that is not known. */
static long long ticks_in_ns(const struct machine *machine, int64_t ticks)
{
	struct pvclock_slope slope;
	struct pvclock_line line;
	struct problem ignored;
	uint64_t size = ticks < 0 ? -(uint64_t)ticks : (uint64_t)ticks;

	if (clock_slope(machine, &slope, &ignored) < 0 || !pvclock_line_make(&line, 0, 0, &slope, NULL))
		return 0;
	long long ns = (long long)pvclock_line_ns(&line, size);
	return ticks < 0 ? -ns : ns;
}

/* One line for a restore, and for a resume that had something to put right. */
static void say_correction(struct machine *machine, const struct pvclock_correction *correction)
{
	const struct pvclock_plan *plan = &machine->clock.plan;
	char what[160] = "resumed", bound[48] = "exact";

	if (machine->clock.restoring) {
		if (plan->elapsed.bound_ns == PVCLOCK_ERROR_UNKNOWN)
			snprintf(bound, sizeof(bound), "bound unknown");
		else if (plan->elapsed.bound_ns > 0)
			snprintf(bound, sizeof(bound), "+-%llu ns", (unsigned long long)plan->elapsed.bound_ns);
		snprintf(what, sizeof(what), "restored after a %s, %s; %lld ns elapsed by %s (%s)",
			 pvclock_blackout_name(plan->blackout), pvclock_precision_name(plan->precision),
			 (long long)plan->elapsed.measured_ns, pvclock_timescale_name(plan->elapsed.by), bound);
	} else if (correction->uncounted_ns == 0 && correction->moved_ticks == 0 && correction->residual_ns == 0) {
		return;
	} else {
		snprintf(what, sizeof(what), "resumed; %llu ns elapsed by tsc (exact)",
			 (unsigned long long)(correction->counted_ns + correction->uncounted_ns));
	}
	fprintf(stderr, "pvclock-vmm: clock: %s: counted %llu ns, not counted %llu ns; line moved %lld ticks (%lld ns) to follow the "
		"TSC; residual %lld ns\n", what, (unsigned long long)correction->counted_ns,
		(unsigned long long)correction->uncounted_ns, (long long)correction->moved_ticks,
		ticks_in_ns(machine, correction->moved_ticks), (long long)correction->residual_ns);
}

int clock_resume(struct machine *machine, struct pvclock_correction *correction, struct problem *problem)
{
	struct pvclock_reason reason = { 0 };

	*correction = (struct pvclock_correction){ 0 };
	int error = pvclock_kvm_resume(machine->clock.kvm, correction, &reason);
	/* The guest can run, only not as exactly as promised. */
	if (error == -ERANGE || error == -ENOTSUP)
		fprintf(stderr, "pvclock-vmm: clock: %s\n", reason.text);
	if (error == 0 || error == -ERANGE || error == -ENOTSUP) {
		say_correction(machine, correction);
		if (machine->clock.restoring)
			machine->clock.correction = *correction;
		machine->clock.restored = machine->clock.restored || machine->clock.restoring;
		machine->clock.restoring = false;
		return 0;
	}
	return fail(problem, "clock: resume: %s", reason.text[0] != '\0' ? reason.text : strerror(-error));
}

int clock_save(struct machine *machine, struct wire *wire, int64_t corrupt_bit, struct problem *problem)
{
	struct pvclock_record record = { 0 };
	struct pvclock_reason reason = { 0 };
	int result = -1;

	int error = pvclock_kvm_save(machine->clock.kvm, &record);
	if (error != 0)
		return fail(problem, "clock: save: %s", strerror(-error));
	size_t size = pvclock_record_size(&record);
	uint8_t *bytes = wire_add(wire, WIRE_RECORD, 0, size, problem);
	if (bytes == NULL)
		goto out;
	ssize_t length = pvclock_record_encode(&record, bytes, size, &reason);
	if (length < 0 || (size_t)length != size) {
		fail(problem, "clock: record: %s", reason.text[0] != '\0' ? reason.text : "not encoded");
		goto out;
	}
	if (corrupt_bit >= 0)
		bytes[(uint64_t)corrupt_bit / 8 % size] ^= (uint8_t)(1u << (corrupt_bit % 8));
	result = 0;
out:
	pvclock_record_clear(&record);
	return result;
}

int clock_restore(struct machine *machine, const struct wire *wire, enum pvclock_blackout blackout,
		  const struct pvclock_slope *host, const char *policy, struct problem *problem)
{
	struct pvclock_record record = { 0 };
	struct pvclock_reason reason = { 0 };
	int error = 0;

	if (decode(wire, &record, problem) < 0)
		return -1;
	if (policy != NULL)
		pvclock_policy_parse(&record.policy, policy, NULL);
	/* A live update: the predecessor proved it on this host; the successor need not learn it again. */
	if (host == NULL && machine->clock.source != NULL)
		error = pvclock_source_assume(machine->clock.source, &record.host, &reason);
	if (error == 0)
		error = pvclock_kvm_restore(machine->clock.kvm, &record, blackout, host, &machine->clock.plan, &reason);
	pvclock_record_clear(&record);
	if (error != 0)
		return fail(problem, "the saved clock record is refused: %s",
			    reason.text[0] != '\0' ? reason.text : strerror(-error));
	machine->clock.restoring = true;
	return 0;
}
