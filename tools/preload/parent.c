/* SPDX-License-Identifier: MIT */
/*
 * parent.c - a VM on a machine whose host tells of its moves (docs/spec/nested.md), from its first line on. The engine does the
 * rest: it enters the clock's pages in the host's tree, and follows at the next pause or resume.
 */
#include "parent.h"
#include "preload.h"

void parent_find(struct vm *vm)
{
	vm->parent = vm_is(vm, PVCLOCK_MODE_OWN) ? machine_parent() : NULL;
	if (vm->parent != NULL)
		vm->generation = pvclock_parent_generation(vm->parent->parent);
}

void parent_know_host(struct vm *vm)
{
	const struct pvclock_line_change *last;
	struct pvclock_nested told;
	struct pvclock_slope host;

	if (vm->parent == NULL || pvclock_parent_generation(vm->parent->parent) == vm->generation ||
	    pvclock_nested_read(vm->parent->page, &told) != PVCLOCK_READ_OK)
		return;
	last = &told.changes[told.generation % PVCLOCK_NESTED_CHANGES];
	if (!pvclock_slope_from_line(&last->next, &host))
		return; /* nobody knows: the VM will be told so */
	vm->host = host;
	vm->generation = told.generation;
}

void parent_add(struct vm *vm)
{
	if (vm->parent == NULL)
		return;
	pvclock_parent_remove(vm->clock);
	pvclock_parent_add(vm->parent->parent, vm->clock, vm->generation);
	vm->followed = vm->generation;
}

void parent_tell(struct vm *vm)
{
	struct pvclock_reason reason = { 0 };
	struct pvclock_nested told;
	bool stable;

	if (vm->parent == NULL || pvclock_parent_of(vm->clock) == NULL || pvclock_parent_changed(vm->clock) ||
	    pvclock_nested_read(vm->parent->page, &told) != PVCLOCK_READ_OK || told.generation == vm->followed)
		return;
	vm->followed = told.generation;
	parent_know_host(vm);
	vm_learn_again(vm);
	stable = pvclock_vm_stable(vm->clock, &reason);
	if (stable)
		say("this machine's own clock has changed, and the VM's follows it: its host has said so.");
	else
		say("this machine's own clock has changed: %s", reason.text);
	record_event("followed", &reason, "\"generation\":%llu,\"rewritten\":%u,\"refused\":%u,\"stable\":%s",
		     (unsigned long long)told.generation, told.rewritten, told.refused, stable ? "true" : "false");
}
