/* SPDX-License-Identifier: MIT */
/* vm.c - a VM: its beginning and end, its line given and asked for, pause and resume. */
#include "vm.h"
#include "reason.h"

#include <errno.h>
#include <stdlib.h>

int pvclock_vm_create(const struct pvclock_os *os, struct pvclock_vm **out)
{
	struct pvclock_vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return -ENOMEM;
	vm->os = os;
	if (pthread_mutex_init(&vm->lock, NULL)) {
		free(vm);
		return -ENOMEM;
	}
	vm->policy = pvclock_policy_default();
	pvclock_host_time_read(os, &vm->time);
	pvclock_vm_judge_stability(vm);
	*out = vm;
	return 0;
}

void pvclock_vm_destroy(struct pvclock_vm *vm)
{
	size_t i;

	if (!vm)
		return;
	pvclock_parent_remove(vm);
	for (i = 0; i < vm->region_count; i++)
		free(vm->regions[i].dirty);
	free(vm->regions);
	free(vm->vcpus);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

/* --- the line ------------------------------------------------------------------------ */

int pvclock_vm_start(struct pvclock_vm *vm, struct pvclock_host_tsc at, uint64_t ns, const struct pvclock_slope *host)
{
	struct pvclock_tsc_transform reference = { 0 };
	struct pvclock_line line;
	int error = -EINVAL;

	pthread_mutex_lock(&vm->lock);
	if (vm->vcpu_count > 0)
		reference = vm->vcpus[0]->tsc;
	if ((host->mantissa >> 63) && pvclock_line_compose(&reference, at, ns, host, &line, NULL)) {
		pvclock_vm_set_line(vm, &line, &reference, host);
		if (!vm->paused)
			pvclock_vm_publish_all(vm);
		error = 0;
	}
	pthread_mutex_unlock(&vm->lock);
	return error;
}

int pvclock_vm_now(struct pvclock_vm *vm, uint64_t *ns)
{
	int error = -ENODATA;

	pthread_mutex_lock(&vm->lock);
	if (vm->has_line) {
		*ns = pvclock_vm_system_time(vm, vm->os->ops->read_tsc(vm->os->ctx));
		error = 0;
	}
	pthread_mutex_unlock(&vm->lock);
	return error;
}

void pvclock_vm_move_reference(struct pvclock_vm *vm, uint64_t offset)
{
	size_t i;

	pthread_mutex_lock(&vm->lock);
	vm->reference.offset += offset;
	for (i = 0; i < vm->vcpu_count; i++)
		vm->vcpus[i]->synced = false;
	pthread_mutex_unlock(&vm->lock);
}

void pvclock_vm_declare_unstable(struct pvclock_vm *vm, const struct pvclock_reason *reason)
{
	enum pvclock_reason_code before;

	pthread_mutex_lock(&vm->lock);
	before = vm->unstable.code;
	if (reason)
		vm->declared = *reason;
	else
		pvclock_reason_clear(&vm->declared);
	pvclock_vm_judge_stability(vm);
	if (before != vm->unstable.code && !vm->paused)
		pvclock_vm_publish_all(vm);
	pthread_mutex_unlock(&vm->lock);
}

bool pvclock_vm_stable(const struct pvclock_vm *vm, struct pvclock_reason *reason)
{
	struct pvclock_vm *mutable = (struct pvclock_vm *)vm;
	bool stable;

	pthread_mutex_lock(&mutable->lock);
	stable = vm->unstable.code == PVCLOCK_REASON_NONE;
	if (reason)
		*reason = vm->unstable;
	pthread_mutex_unlock(&mutable->lock);
	return stable;
}

/* --- events ------------------------------------------------------------------------------ */

int pvclock_vm_pause(struct pvclock_vm *vm)
{
	int error = -EALREADY;

	pthread_mutex_lock(&vm->lock);
	if (!vm->paused) {
		pvclock_vm_update_steals(vm, true); /* up to the blackout, and not what lies in it */
		pvclock_vm_remember_line(vm);
		pvclock_vm_pause_hyperv(vm);
		vm->paused = true;
		error = 0;
	}
	pthread_mutex_unlock(&vm->lock);
	return error;
}

int pvclock_vm_resume(struct pvclock_vm *vm)
{
	int error = 0;
	size_t i;

	pthread_mutex_lock(&vm->lock);
	if (!vm->paused) {
		error = -EALREADY;
	} else {
		for (i = 0; i < vm->vcpu_count; i++)
			vm->vcpus[i]->stop_pending |= (vm->vcpus[i]->system_time_msr & PVCLOCK_MSR_ENABLE) != 0;
		pvclock_vm_publish_all(vm);
		pvclock_vm_follow_nested(vm);
		pvclock_vm_update_steals(vm, false);
		vm->paused = false;
	}
	pthread_mutex_unlock(&vm->lock);
	return error;
}

/* --- policy and account -------------------------------------------------------------------- */

void pvclock_vm_set_policy(struct pvclock_vm *vm, const struct pvclock_policy *policy)
{
	pthread_mutex_lock(&vm->lock);
	vm->policy = *policy;
	pthread_mutex_unlock(&vm->lock);
}

void pvclock_vm_get_policy(const struct pvclock_vm *vm, struct pvclock_policy *policy)
{
	pthread_mutex_t *lock = (pthread_mutex_t *)&vm->lock;

	pthread_mutex_lock(lock);
	*policy = vm->policy;
	pthread_mutex_unlock(lock);
}

void pvclock_vm_get_account(const struct pvclock_vm *vm, struct pvclock_account *account)
{
	pthread_mutex_t *lock = (pthread_mutex_t *)&vm->lock;

	pthread_mutex_lock(lock);
	*account = vm->account;
	pthread_mutex_unlock(lock);
}

void pvclock_vm_count(struct pvclock_vm *vm, const struct pvclock_account *more)
{
	struct pvclock_account *account = &vm->account;

	pthread_mutex_lock(&vm->lock);
	account->blackouts += more->blackouts;
	account->counted_ns += more->counted_ns;
	account->uncounted_ns += more->uncounted_ns;
	account->rate_changes += more->rate_changes;
	if (__builtin_add_overflow(account->error_ns, more->error_ns, &account->error_ns))
		account->error_ns = PVCLOCK_ERROR_UNKNOWN;
	account->moved_ticks = (int64_t)((uint64_t)account->moved_ticks + (uint64_t)more->moved_ticks);
	if (more->residual_ns_max > account->residual_ns_max)
		account->residual_ns_max = more->residual_ns_max;
	pthread_mutex_unlock(&vm->lock);
}

uint64_t pvclock_vm_tell(struct pvclock_vm *vm, enum pvclock_cause cause, uint64_t ns)
{
	uint64_t control;

	pthread_mutex_lock(&vm->lock);
	vm->told = (struct pvclock_suspend){
		.cause = cause,
		.count = vm->account.blackouts,
		.uncounted_ns = vm->account.uncounted_ns,
		.counted_ns = vm->account.counted_ns,
		.last_ns = ns,
		.error_ns = vm->account.error_ns,
		.counter = vm->vcpu_count ? pvclock_tsc_to_guest(&vm->vcpus[0]->tsc, vm->os->ops->read_tsc(vm->os->ctx)).ticks : 0,
	};
	pvclock_vm_write_suspend(vm);
	control = vm->suspend_msr & PVCLOCK_MSR_ENABLE ? vm->suspend_control : 0;
	pthread_mutex_unlock(&vm->lock);
	return control;
}
