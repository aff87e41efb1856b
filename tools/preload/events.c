/* SPDX-License-Identifier: MIT */
/*
 * events.c - a VMM says when it reads the clock and when it sets it, and means that the VM stops and goes on. No vCPU is
 * inside KVM_RUN here, and none enters before the gate is opened again.
 */
#include "preload.h"

#include <errno.h>
#include <string.h>

#define LEARN_AGAIN_NS 200000000ull /* a page is compared for 10 ms */
#define NS_PER_SEC 1000000000ull

static struct pvclock_host_tsc tsc_now(const struct vm *vm)
{
	return vm->os.ops->read_tsc(vm->os.ctx);
}

void vm_hold(struct vm *vm)
{
	struct timespec real = { 0 };

	if (vm->held)
		return;
	vm->os.ops->clock_gettime(vm->os.ctx, CLOCK_REALTIME, &real);
	vm->hold = tsc_now(vm);
	vm->hold_realtime = (uint64_t)real.tv_sec * NS_PER_SEC + (uint64_t)real.tv_nsec;
	vm->held = true;
}

/* A host that keeps time by its hypervisor's page has the new line there, and the VM follows it (pvclock_kvm_watch). */
bool vm_learn_again(struct vm *vm)
{
	struct pvclock_source_state state;
	struct pvclock_source *source;
	struct pvclock_reason reason;

	pvclock_source_get(vm->source, &state);
	if (state.from == PVCLOCK_SOURCE_FROM_SAMPLES || pvclock_source_open(&vm->os, &source, &reason))
		return false;
	if (pvclock_source_learn(source, LEARN_AGAIN_NS, &reason)) {
		pvclock_source_close(source);
		return false;
	}
	pvclock_source_close(vm->source);
	vm->source = source;
	pvclock_source_get(source, &state);
	vm->host = state.slope;
	return true;
}

/* Whether the line that the host runs by is still the one that was proven. */
static void watch_source(struct vm *vm)
{
	struct pvclock_reason reason;

	if (vm->source == NULL || pvclock_source_sample(vm->source, &reason) != -ENOTSUP)
		return;
	if (vm_learn_again(vm)) {
		say("this host's own clock has changed, and the VM's follows it: %s", reason.text);
		record_event("moved", &reason, "\"stable\":true");
		return;
	}
	say("the host's clock has changed under this VM: %s", reason.text);
	record_event("lost", &reason, "\"stable\":false");
	pvclock_vm_declare_unstable(vm->clock, &reason);
	pvclock_source_close(vm->source);
	vm->source = NULL;
}

void vm_pause(struct vm *vm)
{
	bool told = pvclock_parent_changed(vm->clock);
	int error;

	if (vm->paused || !vm->started)
		return;
	vm_hold(vm);
	vm_reread_policy(vm);
	error = pvclock_kvm_pause(vm->kvm); /* at once: until then the guest has read the old clock, as far as the engine knows */
	if (told)
		parent_tell(vm);
	else
		watch_source(vm);
	if (error)
		say("the clock could not be held (%s); it goes on as it is.", strerror(-error));
	vm->paused = error == 0;
	if (vm->paused)
		vm_keep_record(vm);
	record_event("pause", NULL, "\"host_tsc\":%llu,\"tsc\":%llu", (unsigned long long)vm->hold.ticks,
		     (unsigned long long)vcpu_tsc_at(vm->vcpus[0], vm->hold));
}

/* --- going on ------------------------------------------------------------------------------------ */

/* The first vCPU is there in every VM's state; another one's counter alone makes no arrival. */
static bool counters_restored(const struct vm *vm)
{
	return vm->vcpus[0]->has_tsc;
}

static bool all_settled(const struct vm *vm)
{
	for (size_t i = 0; i < vm->vcpu_count; i++)
		if (!vm->vcpus[i]->settled)
			return false;
	return true;
}

/* `again`: those that were before, too. */
static void settle(struct vm *vm, bool again)
{
	for (size_t i = 0; i < vm->vcpu_count; i++) {
		struct vcpu *vcpu = vm->vcpus[i];
		bool wanted = vcpu->run->immediate_exit; /* by the VMM, and then KVM would not do what it postponed */
		int error;

		if ((vcpu->settled && !again) || atomic_load(&vcpu->with_vmm))
			continue;
		if (wanted)
			vcpu->run->immediate_exit = 0;
		error = pvclock_kvm_settle(vm->kvm, vcpu->clock);
		if (wanted)
			vcpu->run->immediate_exit = 1;
		if (error)
			say("vCPU %u's clock may move by some ns at its next entry (%s).", vcpu->index, strerror(-error));
		vcpu->settled = true;
	}
}

static void start(struct vm *vm)
{
	int error;

	parent_know_host(vm);
	error = pvclock_kvm_start(vm->kvm, &vm->host);
	parent_add(vm);
	if (error)
		say("the clock could not be started (%s).", strerror(-error));
	for (size_t i = 0; i < vm->vcpu_count; i++)
		vm->vcpus[i]->settled = true; /* nobody has read a clock that could move */
	vm->started = true;
	record_event("start", NULL, "\"mode\":\"%s\",\"vcpus\":%zu", pvclock_mode_name(pvclock_kvm_mode(vm->kvm)),
		     vm->vcpu_count);
}

/* The VMM wants another time than the one it was told: from here on the clock reads that. */
static void set_time(struct vm *vm)
{
	const struct vcpu *first = vm->vcpus[0];
	struct clock_data clock = { .clock = vm->set_ns };
	struct pvclock_line line;
	uint64_t now;

	/* The kernel's own, which steer mode has not learnt yet, or which Hyper-V's and Xen's interfaces are computed from. */
	kernel_ioctl(vm->fd, KVM_SET_CLOCK, &clock);
	if (pvclock_vcpu_get_line(first->clock, &line) != 0)
		return;
	now = vcpu_tsc_at(first, tsc_now(vm));
	line.ns = pvclock_line_ns(&line, now);
	line.tsc = now;
	record_event("set", NULL, "\"ns\":%llu,\"was\":%llu", (unsigned long long)vm->set_ns, (unsigned long long)line.ns);
	line.ns = vm->set_ns;
	pvclock_vcpu_set_line(first->clock, &line);
}

/* What a sleep of the host did to the guest's clocks, and what is left to do. */
static void say_sleep(const struct vm *vm, const struct pvclock_correction *correction)
{
	if (correction->cause != PVCLOCK_CAUSE_SUSPEND)
		return;
	if (vm_is(vm, PVCLOCK_MODE_STOCK))
		say("the host slept.");
	else if (correction->uncounted_ns > correction->counted_ns)
		say("the host slept, and the guest's clocks do not count %.3f s of it: its time of day is behind by that until it is set there "
		    "(chronyc makestep, or hwclock --hctosys).", (double)correction->uncounted_ns / 1e9);
	else
		say("the host slept, and the guest's clocks count all of it, %.3f s: its time of day needs nothing.",
		    (double)correction->counted_ns / 1e9);
}

static void resume(struct vm *vm)
{
	struct pvclock_correction correction;
	struct pvclock_reason reason = { 0 };
	bool unsettled = vm_is(vm, PVCLOCK_MODE_STEER) && !all_settled(vm);
	int error;

	if (unsettled)
		settle(vm, false);
	error = pvclock_kvm_resume(vm->kvm, &correction, &reason);
	parent_tell(vm);
	if (unsettled) /* now KVM writes what was aimed at, over what it wrote before, on all vCPUs' pages before one of them runs */
		settle(vm, true);
	if (error)
		say("%s", reason.text[0] != '\0' ? reason.text : strerror(-error));
	say_sleep(vm, &correction);
	record_event("resume", &reason,
		     "\"error\":%d,\"residual_ns\":%lld,\"off_ns\":%lld,\"moved_ticks\":%lld,\"tries\":%u,\"elapsed_ns\":%llu,\"stable\":%s,"
		     "\"blackout_ticks\":%llu,\"counted_ns\":%llu,\"uncounted_ns\":%llu,\"cause\":\"%s\",\"error_ns\":%llu", error,
		     (long long)correction.residual_ns, (long long)correction.off_ns, (long long)correction.moved_ticks, correction.tries,
		     (unsigned long long)correction.elapsed_ns,
		     pvclock_vm_stable(vm->clock, NULL) ? "true" : "false",
		     (unsigned long long)(vm->held ? tsc_now(vm).ticks - vm->hold.ticks : 0),
		     (unsigned long long)correction.counted_ns, (unsigned long long)correction.uncounted_ns,
		     pvclock_cause_name(correction.cause), (unsigned long long)correction.error_ns);
	vm_note_told(vm);
	if (error == 0 || error == -ERANGE || error == -ENOTSUP)
		vm->paused = false; /* else it is still held, and tries again when it goes on after its next stop */
}

/* Whether the VMM sets what it was told: to 1 us, for what it does in between may be arithmetic of its own. */
static bool told(const struct vm *vm)
{
	return vm->told && vm->set_ns - vm->told_ns + 1000 <= 2000;
}

void vm_go_on(struct vm *vm)
{
	bool arrives = counters_restored(vm), another = vm->set && !told(vm);

	if (arrives) {
		vm_pause(vm);
		parent_know_host(vm);
		if (vm_arrive(vm) == 0) {
			vm->paused = vm->started = true;
			parent_add(vm);
		}
	}
	if (!vm->started)
		start(vm);
	if (another && !arrives)
		set_time(vm);
	if (vm_is(vm, PVCLOCK_MODE_STEER) && !all_settled(vm))
		vm_pause(vm);
	if (vm->paused)
		resume(vm);
	vm->held = vm->set = vm->told = false;
}
