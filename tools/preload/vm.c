/* SPDX-License-Identifier: MIT */
/* vm.c - a VM and its vCPUs, from the VMM's first word of them to its last; and which mode they get. */
#define _GNU_SOURCE
#include "preload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LEARN_TIMEOUT_NS 30000000000ull /* 1 s does on a machine; an emulated one has needed 18 */

#ifndef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#define KVM_CAP_DIRTY_LOG_RING_ACQ_REL 223
#endif

/* --- the OS as the engine sees it from in here: past our own entry -------------------------- */

static int pass_ioctl(void *ctx, int fd, unsigned long request, void *arg)
{
	(void)ctx;
	return kernel_ioctl(fd, request, arg);
}

static int pass_run_interrupted(void *ctx, int vcpu_fd)
{
	int error;

	passing++;
	error = pvclock_os_linux()->ops->run_interrupted(ctx, vcpu_fd);
	passing--;
	return error;
}

/* --- modes ---------------------------------------------------------------------------------- */

static enum pvclock_mode mode_asked(void)
{
	static const enum pvclock_mode modes[] = { PVCLOCK_MODE_OWN, PVCLOCK_MODE_STEER, PVCLOCK_MODE_STOCK };
	const char *name = getenv("PVCLOCK_MODE");

	for (size_t i = 0; name != NULL && i < sizeof(modes) / sizeof(modes[0]); i++)
		if (strcmp(name, pvclock_mode_name(modes[i])) == 0)
			return modes[i];
	return PVCLOCK_MODE_AUTO;
}

bool vm_is(const struct vm *vm, enum pvclock_mode mode)
{
	return vm->kvm != NULL && pvclock_kvm_mode(vm->kvm) == mode;
}

static void step_aside(struct vm *vm, const struct pvclock_reason *reason)
{
	pvclock_kvm_detach(vm->kvm);
	vm->kvm = NULL;
	say("this VM's clock stays KVM's own: %s", reason->text);
	record_event("aside", reason, "\"mode\":\"stock\"");
}

static int attach(struct vm *vm, enum pvclock_mode mode, struct pvclock_reason *reason)
{
	struct pvclock_kvm_config config = {
		.os = &vm->os, .vm = vm->clock, .vm_fd = vm->fd, .mode = mode, .user_space_msr_mask = vm->exits };

	return pvclock_kvm_attach(&config, &vm->kvm, reason);
}

/* Steer, where KVM's clock can be aimed; `why`, if it says anything, is why not own mode. */
static void attach_steer(struct vm *vm, int kvm_fd, const struct pvclock_reason *why)
{
	struct pvclock_kvm_capabilities can;
	struct pvclock_reason reason = *why;

	if (pvclock_kvm_probe(&vm->os, kvm_fd, &can) != 0 || !can.master_clock) {
		if (can.master_clock_reason.text[0] != '\0' && reason.text[0] == '\0')
			reason = can.master_clock_reason;
		step_aside(vm, &reason);
	} else if (attach(vm, PVCLOCK_MODE_STEER, &reason) != 0) {
		step_aside(vm, &reason);
	} else if (why->text[0] != '\0') {
		say("steer mode: %s", why->text);
	}
}

static void choose_mode(struct vm *vm, int kvm_fd)
{
	enum pvclock_mode asked = mode_asked();
	struct pvclock_reason why = { 0 };

	if (asked == PVCLOCK_MODE_STOCK)
		return;
	pvclock_source_open(&vm->os, &vm->source, &why);
	if (asked == PVCLOCK_MODE_STEER)
		why = (struct pvclock_reason){ 0 };
	else if (vm->source != NULL && attach(vm, PVCLOCK_MODE_OWN, &why) == 0)
		return;
	attach_steer(vm, kvm_fd, &why);
}

/* Before the first vCPU: what the host's slope is, or that it has none after all. */
static void learn(struct vm *vm)
{
	struct pvclock_source_state state;
	struct pvclock_reason why = { 0 };
	int khz, kvm_fd;

	parent_find(vm); /* before: what is learnt is of this generation, or a later one */
	if (vm->source != NULL && pvclock_source_learn(vm->source, LEARN_TIMEOUT_NS, &why) == 0) {
		pvclock_source_get(vm->source, &state);
		vm->host = state.slope;
	} else if (vm_is(vm, PVCLOCK_MODE_OWN)) {
		kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
		pvclock_kvm_detach(vm->kvm);
		vm->kvm = NULL;
		attach_steer(vm, kvm_fd, &why);
		close(kvm_fd);
	}
	if (vm->host.mantissa == 0 && vm->kvm != NULL) {
		khz = kernel_ioctl(vm->fd, KVM_GET_TSC_KHZ, NULL); /* the VM's, where KVM has such; else the first vCPU's */
		if (khz > 0)
			pvclock_slope_from_khz((uint64_t)khz, &vm->host);
	}
	if (!vm_is(vm, PVCLOCK_MODE_OWN)) {
		vm->parent = NULL;
	} else { /* this host may be a guest, whose own host moves it, and maybe to one that says nothing */
		pvclock_source_get(vm->source, &state);
		pvclock_kvm_watch(vm->kvm, state.from);
	}
	if (vm->kvm != NULL)
		record_event("attach", &why, "\"mode\":\"%s\"", pvclock_mode_name(pvclock_kvm_mode(vm->kvm)));
}

/* --- the VM ------------------------------------------------------------------------------------ */

static void destroy(struct vm *vm)
{
	sleep_forget(vm);
	passing++; /* what is closed here is ours */
	pvclock_kvm_detach(vm->kvm);
	pvclock_vm_destroy(vm->clock);
	pvclock_source_close(vm->source);
	if (vm->fd >= 0)
		close(vm->fd);
	passing--;
	pthread_mutex_destroy(&vm->lock);
	free(vm->slots);
	free(vm->vcpus);
	free(vm);
}

static void drop(struct vm *vm)
{
	bool last;

	pthread_mutex_lock(&vm->lock);
	last = --vm->users == 0;
	pthread_mutex_unlock(&vm->lock);
	if (last)
		destroy(vm);
}

int vm_created(int kvm_fd, int vm_fd)
{
	struct vm *vm;

	if (vm_fd < 0)
		return vm_fd;
	vm = calloc(1, sizeof(*vm));
	if (vm == NULL || pthread_mutex_init(&vm->lock, NULL) != 0) {
		free(vm);
		close(vm_fd);
		return -ENOMEM;
	}
	vm->object = (struct object){ OBJECT_VM, vm_fd, getpid() };
	vm->users = 1;
	vm->gate = true;
	vm->run_size = kernel_ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
	vm->ops = *pvclock_os_linux()->ops;
	vm->ops.ioctl = pass_ioctl;
	vm->ops.run_interrupted = pass_run_interrupted;
	vm->os = (struct pvclock_os){ &vm->ops, pvclock_os_linux()->ctx };
	vm->fd = fcntl(vm_fd, F_DUPFD_CLOEXEC, 0);
	if (vm->fd < 0 || pvclock_vm_create(&vm->os, &vm->clock) != 0 || !object_add(&vm->object)) {
		destroy(vm);
		close(vm_fd);
		return -ENOMEM;
	}
	vm_offer(vm);
	choose_mode(vm, kvm_fd);
	parent_find(vm); /* early, while the VMM has few pages and all its privileges */
	vm_set_policy(vm);
	sleep_know(vm);
	return vm_fd;
}

int vm_set_filter(struct vm *vm, const struct kvm_msr_filter *filter)
{
	struct pvclock_reason reason;
	int error;

	if (vm->kvm == NULL)
		return kernel_ioctl(vm->fd, KVM_X86_SET_MSR_FILTER, (void *)filter);
	pthread_mutex_lock(&vm->lock);
	error = pvclock_kvm_set_filter(vm->kvm, filter, &reason);
	pthread_mutex_unlock(&vm->lock);
	if (error)
		say("%s", reason.text);
	return error;
}

int vm_enable_cap(struct vm *vm, struct kvm_enable_cap *cap)
{
	struct pvclock_reason reason;
	int error;

	if (vm->kvm == NULL || cap->cap != KVM_CAP_X86_USER_SPACE_MSR || cap->flags != 0)
		return kernel_ioctl(vm->fd, KVM_ENABLE_CAP, cap);
	pthread_mutex_lock(&vm->lock);
	error = pvclock_kvm_set_user_space_msr(vm->kvm, cap->args[0], &reason);
	if (error == 0)
		vm->exits = cap->args[0];
	pthread_mutex_unlock(&vm->lock);
	return error;
}

int vm_check_extension(struct vm *vm, unsigned long capability)
{
	/* Its entries are the kernel's to write: pages that the engine wrote could not be told. The bitmap can. */
	if (vm_is(vm, PVCLOCK_MODE_OWN) &&
	    (capability == KVM_CAP_DIRTY_LOG_RING || capability == KVM_CAP_DIRTY_LOG_RING_ACQ_REL))
		return 0;
	return kernel_ioctl(vm->fd, KVM_CHECK_EXTENSION, (void *)(uintptr_t)capability);
}

/* --- vCPUs --------------------------------------------------------------------------------------- */

static bool insert(struct vm *vm, struct vcpu *vcpu, uint32_t index)
{
	struct vcpu **vcpus = realloc(vm->vcpus, (vm->vcpu_count + 1) * sizeof(struct vcpu *));
	size_t at;

	if (vcpus == NULL)
		return false;
	vm->vcpus = vcpus;
	for (at = vm->vcpu_count; at > 0 && vcpus[at - 1]->index > index; at--)
		vcpus[at] = vcpus[at - 1];
	vcpus[at] = vcpu;
	vm->vcpu_count++;
	return true;
}

static void take_out(struct vm *vm, const struct vcpu *vcpu)
{
	for (size_t i = 0; i < vm->vcpu_count; i++) {
		if (vm->vcpus[i] != vcpu)
			continue;
		vm->vcpu_count--;
		memmove(&vm->vcpus[i], &vm->vcpus[i + 1], (vm->vcpu_count - i) * sizeof(struct vcpu *));
		return;
	}
}

static void free_vcpu(struct vcpu *vcpu)
{
	if (vcpu->clock != NULL) {
		pvclock_kvm_remove_vcpu(vcpu->vm->kvm, vcpu->clock);
		pvclock_vcpu_destroy(vcpu->clock);
	}
	if (vcpu->run != NULL)
		munmap(vcpu->run, (size_t)vcpu->vm->run_size);
	free(vcpu);
}

/* Its half of the clock. 0 or -errno. */
static int give_clock(struct vcpu *vcpu)
{
	struct vm *vm = vcpu->vm;
	int error = pvclock_vcpu_create(vm->clock, vcpu->index, &vcpu->clock);

	if (error)
		return error;
	error = pvclock_kvm_add_vcpu(vm->kvm, vcpu->clock, vcpu->object.fd);
	if (error) {
		pvclock_vcpu_destroy(vcpu->clock);
		vcpu->clock = NULL;
		return error;
	}
	if (vm->host.mantissa == 0) { /* no better account of the host than KVM's */
		int khz = kernel_ioctl(vcpu->object.fd, KVM_GET_TSC_KHZ, NULL);

		if (khz <= 0 || !pvclock_slope_from_khz((uint64_t)khz, &vm->host))
			return -ENOTSUP;
	}
	if (vm->started && vm_is(vm, PVCLOCK_MODE_STEER))
		vm->gate = true; /* KVM moves its clock when this vCPU enters first */
	return 0;
}

int vcpu_created(struct vm *vm, int vcpu_fd, uint32_t index)
{
	struct vcpu *vcpu = calloc(1, sizeof(*vcpu));
	int error = -ENOMEM;
	void *run;

	if (vcpu == NULL)
		goto out;
	vcpu->object = (struct object){ OBJECT_VCPU, vcpu_fd, getpid() };
	vcpu->vm = vm;
	vcpu->index = index;
	run = mmap(NULL, (size_t)vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, 0);
	if (run == MAP_FAILED)
		goto out;
	vcpu->run = run;
	pthread_mutex_lock(&vm->lock);
	if (vm->vcpu_count == 0 && !vm->started)
		learn(vm);
	error = vm->kvm != NULL ? give_clock(vcpu) : 0;
	if (error && vm->vcpu_count == 0) { /* a guest whose counters nobody may see, say */
		struct pvclock_reason why = { .code = PVCLOCK_REASON_OS };

		snprintf(why.text, sizeof(why.text), "KVM does not tell how a vCPU's TSC runs (%s).", strerror(-error));
		step_aside(vm, &why);
		error = 0;
	}
	if (error == 0 && (!insert(vm, vcpu, index) || !object_add(&vcpu->object))) {
		take_out(vm, vcpu);
		error = -ENOMEM;
	}
	if (error == 0)
		vm->users++;
	pthread_mutex_unlock(&vm->lock);
out:
	if (error == 0)
		return vcpu_fd;
	say("vCPU %u has no clock (%s), so the VM cannot have it.", index, strerror(-error));
	if (vcpu != NULL)
		free_vcpu(vcpu);
	close(vcpu_fd);
	return error;
}

void object_closed(struct object *object)
{
	struct vcpu *vcpu = (struct vcpu *)object;
	struct vm *vm = object->kind == OBJECT_VM ? (struct vm *)object : vcpu->vm;

	object_remove(object->fd);
	if (object->kind == OBJECT_VCPU) {
		pthread_mutex_lock(&vm->lock);
		take_out(vm, vcpu);
		free_vcpu(vcpu);
		pthread_mutex_unlock(&vm->lock);
	}
	drop(vm);
}
