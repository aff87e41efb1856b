/* SPDX-License-Identifier: MIT */
/*
 * parent.c - the other half of nested.c, in the guest that is a host: its VMs' clock pages in the table that its own host walks.
 *
 * Why nothing is missed: the parent acts while this machine stands still, so between any two of its instructions.
 * - A page that was whole then, and entered, it has rewritten.
 * - A page that was being written, or about to be, was made from a line of the generation before: whoever wrote it looks at the generation afterwards
 *   (pvclock_parent_changed, before its vCPU runs) and writes it again.
 * - An entry that was being changed was none (pvclock_nested_enter).
 * So the entry follows the page: first the line is written there, then it is entered, then the generation is looked at.
 * And it is withdrawn before the guest gets back what it had registered.
 *
 * What VMs of this machine keep in tables of their own, being hosts, is copied, with addresses in this machine's
 * memory. So the parent knows of one guest only, and reaches all that run in it.
 */
#include "vm.h"
#include "reason.h"

#include <errno.h>
#include <stdlib.h>

struct pvclock_parent {
	const struct pvclock_parent_ops *ops;
	void *ctx;
	struct pvclock_nested_page *page;
	uint64_t msr, control;
	pthread_mutex_t lock; /* of what follows, and of the table; taken after a VM's */
	const void *owners[PVCLOCK_NESTED_ENTRIES]; /* a vCPU of its page, a VM of its table and of what stands there; NULL: it is free */
	struct pvclock_vm *children;
};

int pvclock_parent_open(const struct pvclock_parent_ops *ops, void *ctx, struct pvclock_nested_page *page, uint64_t control,
			struct pvclock_parent **out)
{
	struct pvclock_parent *parent = calloc(1, sizeof(*parent));
	int error;

	if (!parent || pthread_mutex_init(&parent->lock, NULL)) {
		free(parent);
		return -ENOMEM;
	}
	parent->ops = ops;
	parent->ctx = ctx;
	parent->page = page;
	parent->control = control;
	error = ops->locate(ctx, page, sizeof(*page), &parent->msr);
	parent->msr |= PVCLOCK_MSR_ENABLE;
	if (error == 0)
		error = ops->write_msr(ctx, PVCLOCK_MSR_NESTED_CONTROL, control);
	if (error == 0)
		error = ops->write_msr(ctx, PVCLOCK_MSR_NESTED, parent->msr);
	if (error == 0 && !pvclock_nested_begun(page))
		error = -ENOTSUP;
	if (error) {
		pthread_mutex_destroy(&parent->lock);
		free(parent);
		return error;
	}
	*out = parent;
	return 0;
}

void pvclock_parent_close(struct pvclock_parent *parent)
{
	if (!parent)
		return;
	parent->ops->write_msr(parent->ctx, PVCLOCK_MSR_NESTED, 0);
	parent->ops->write_msr(parent->ctx, PVCLOCK_MSR_NESTED_CONTROL, 0);
	pthread_mutex_destroy(&parent->lock);
	free(parent);
}

uint64_t pvclock_parent_generation(const struct pvclock_parent *parent)
{
	return pvclock_nested_generation(parent->page);
}

const struct pvclock_parent *pvclock_parent_of(const struct pvclock_vm *vm)
{
	return vm->parent;
}

bool pvclock_parent_changed(const struct pvclock_vm *vm)
{
	/*
	 * What this CPU has stored is done before the answer. The host stops it as a signal stops a thread, between two
	 * instructions, with all that came before in memory; so it is the compiler alone that has to keep the order.
	 */
	atomic_signal_fence(memory_order_seq_cst);
	return vm->parent && pvclock_parent_generation(vm->parent) != atomic_load_explicit(&vm->followed, memory_order_relaxed);
}

/* --- the table ------------------------------------------------------------------------------------ */

/* The parent may itself have a parent, which has a copy. */
static void say_changed(const struct pvclock_parent *parent)
{
	parent->ops->write_msr(parent->ctx, PVCLOCK_MSR_NESTED, parent->msr);
}

void pvclock_parent_renew(const struct pvclock_vm *vm)
{
	struct pvclock_parent *parent = vm->parent;

	if (!parent)
		return;
	pthread_mutex_lock(&parent->lock);
	if (parent->ops->write_msr(parent->ctx, PVCLOCK_MSR_NESTED_CONTROL, parent->control) == 0)
		say_changed(parent);
	pthread_mutex_unlock(&parent->lock);
}

/* With the parent's lock. 1 + a free entry that is not before number `from`; 0: there is none. */
static unsigned int take_entry(struct pvclock_parent *parent, const void *owner, unsigned int from)
{
	for (unsigned int i = from; i < PVCLOCK_NESTED_ENTRIES; i++) {
		if (parent->owners[i])
			continue;
		parent->owners[i] = owner;
		return i + 1;
	}
	return 0;
}

static bool free_entries(struct pvclock_parent *parent, const void *owner)
{
	bool any = false;

	for (unsigned int i = 0; i < PVCLOCK_NESTED_ENTRIES; i++) {
		if (parent->owners[i] != owner)
			continue;
		pvclock_nested_enter(parent->page, i, NULL);
		parent->owners[i] = NULL;
		any = true;
	}
	return any;
}

/*
 * With the parent's lock. A VM's table, and what stands there; the table first, so that all of it is there or nothing. Whether
 * the parent had told it of a change that the VM has yet to follow is not forgotten: told twice it would be followed twice.
 */
static bool free_table(struct pvclock_parent *parent, struct pvclock_vm *vm)
{
	bool any = free_entries(parent, vm);
	struct pvclock_nested_entry entry;

	if (vm->parent_table) {
		pvclock_nested_look(parent->page, vm->parent_table - 1, &entry); /* nobody marks it any more */
		vm->table_told = entry.generation ? entry.generation : vm->table_told;
	}
	vm->parent_table = 0;
	return any;
}

static bool same_entry(const struct pvclock_nested_entry *a, const struct pvclock_nested_entry *b)
{
	return a->gpa == b->gpa && a->offset == b->offset && a->ratio == b->ratio && a->frac_bits == b->frac_bits;
}

static struct pvclock_nested_entry make_entry(uint64_t gpa, const struct pvclock_tsc_transform *transform, enum pvclock_nested_kind kind,
					      unsigned int under)
{
	return (struct pvclock_nested_entry){ .gpa = gpa, .offset = transform->offset, .ratio = transform->ratio,
					      .frac_bits = transform->frac_bits, .kind = (uint8_t)kind, .under = (uint8_t)under };
}

/* A VM's line is its first vCPU's, so its own table stands under that one's page. */
static bool is_first(const struct pvclock_vcpu *vcpu)
{
	return vcpu->vm->vcpu_count > 0 && vcpu->vm->vcpus[0] == vcpu;
}

void pvclock_parent_withdraw(struct pvclock_vcpu *vcpu)
{
	struct pvclock_parent *parent = vcpu->vm->parent;

	if (!parent || !vcpu->parent_entry)
		return;
	pthread_mutex_lock(&parent->lock);
	if (is_first(vcpu))
		free_table(parent, vcpu->vm);
	free_entries(parent, vcpu);
	vcpu->parent_entry = 0;
	say_changed(parent);
	pthread_mutex_unlock(&parent->lock);
}

void pvclock_parent_enter(struct pvclock_vcpu *vcpu)
{
	struct pvclock_parent *parent = vcpu->vm->parent;
	struct pvclock_nested_entry entry;
	uint64_t gpa;

	if (!parent)
		return;
	if (!vcpu->page.host || !vcpu->vm->has_line ||
	    parent->ops->locate(parent->ctx, vcpu->page.host, sizeof(struct pvclock_page), &gpa)) {
		pvclock_parent_withdraw(vcpu);
		return;
	}
	entry = make_entry(gpa, &vcpu->tsc, PVCLOCK_NESTED_PAGE, 0);
	if (vcpu->parent_entry && same_entry(&entry, &vcpu->entered))
		return;
	pthread_mutex_lock(&parent->lock);
	if (!vcpu->parent_entry)
		vcpu->parent_entry = take_entry(parent, vcpu, 0);
	if (vcpu->parent_entry) {
		pvclock_nested_enter(parent->page, vcpu->parent_entry - 1, &entry);
		vcpu->entered = entry;
		say_changed(parent);
	}
	pthread_mutex_unlock(&parent->lock);
	if (is_first(vcpu))
		pvclock_parent_copy_table(vcpu->vm);
}

/* One entry of a VM's own table as one of this machine's. 1 + where it was put; 0: nowhere. */
static unsigned int copy_entry(struct pvclock_vm *vm, const struct pvclock_nested_entry *theirs, unsigned int under)
{
	uint64_t size = theirs->kind == PVCLOCK_NESTED_TABLE ? sizeof(struct pvclock_nested_page) : sizeof(struct pvclock_page);
	struct pvclock_tsc_transform transform = { .ratio = theirs->ratio, .offset = theirs->offset, .frac_bits = theirs->frac_bits };
	struct pvclock_parent *parent = vm->parent;
	struct pvclock_nested_entry entry;
	struct place place;
	unsigned int copy;
	uint64_t gpa;

	if (theirs->kind != PVCLOCK_NESTED_PAGE && theirs->kind != PVCLOCK_NESTED_TABLE)
		return 0;
	if (under == 0 || !pvclock_vm_find_place(vm, theirs->gpa, size, &place) || parent->ops->locate(parent->ctx, place.host, size, &gpa))
		return 0;
	copy = take_entry(parent, vm, under);
	if (copy == 0)
		return 0;
	entry = make_entry(gpa, &transform, (enum pvclock_nested_kind)theirs->kind, under);
	pvclock_nested_enter(parent->page, copy - 1, &entry);
	return copy;
}

/* With the parent's lock. The table is entered last: without it the parent follows none of what is under it, and tells nobody. */
static void copy_entries(struct pvclock_vm *vm)
{
	const struct pvclock_vcpu *first = vm->vcpus[0];
	unsigned int count = pvclock_nested_count(vm->nested.page.host), copies[PVCLOCK_NESTED_ENTRIES] = { 0 };
	struct pvclock_nested_entry table, entry;
	uint64_t gpa;

	if (vm->parent->ops->locate(vm->parent->ctx, vm->nested.page.host, sizeof(struct pvclock_nested_page), &gpa))
		return;
	vm->parent_table = take_entry(vm->parent, vm, first->parent_entry);
	if (!vm->parent_table)
		return;
	table = make_entry(gpa, &first->tsc, PVCLOCK_NESTED_TABLE, first->parent_entry);
	for (unsigned int i = 0; i < count; i++) {
		if (!pvclock_nested_look(vm->nested.page.host, i, &entry) || entry.under > i)
			continue;
		copies[i] = copy_entry(vm, &entry, entry.under ? copies[entry.under - 1] : vm->parent_table);
	}
	pvclock_nested_enter(vm->parent->page, vm->parent_table - 1, &table);
}

void pvclock_parent_copy_table(struct pvclock_vm *vm)
{
	struct pvclock_parent *parent = vm->parent;
	bool any;

	if (!parent)
		return;
	pthread_mutex_lock(&parent->lock);
	any = free_table(parent, vm);
	if (vm->nested.page.host && vm->vcpu_count > 0 && vm->vcpus[0]->parent_entry) {
		copy_entries(vm);
		any = true;
	}
	if (any)
		say_changed(parent);
	pthread_mutex_unlock(&parent->lock);
}

/* --- VMs ------------------------------------------------------------------------------------------- */

/* With the parent's lock: what the slowest of them follows. */
static void acknowledge(struct pvclock_parent *parent)
{
	uint64_t oldest = pvclock_parent_generation(parent);

	for (const struct pvclock_vm *vm = parent->children; vm; vm = vm->next_child) {
		uint64_t followed = atomic_load_explicit(&vm->followed, memory_order_relaxed);

		oldest = followed < oldest ? followed : oldest;
	}
	pvclock_nested_acknowledge(parent->page, oldest);
}

int pvclock_parent_add(struct pvclock_parent *parent, struct pvclock_vm *vm, uint64_t generation)
{
	int error = -EBUSY;

	pthread_mutex_lock(&vm->lock);
	if (!vm->parent) {
		error = 0;
		vm->parent = parent;
		atomic_store_explicit(&vm->followed, generation, memory_order_relaxed);
		pthread_mutex_lock(&parent->lock);
		vm->next_child = parent->children;
		parent->children = vm;
		acknowledge(parent);
		pthread_mutex_unlock(&parent->lock);
		for (size_t i = 0; !vm->paused && i < vm->vcpu_count; i++)
			pvclock_parent_enter(vm->vcpus[i]);
	}
	pthread_mutex_unlock(&vm->lock);
	return error;
}

void pvclock_parent_remove(struct pvclock_vm *vm)
{
	struct pvclock_parent *parent;
	struct pvclock_vm **at;

	pthread_mutex_lock(&vm->lock);
	parent = vm->parent;
	if (parent) {
		for (size_t i = 0; i < vm->vcpu_count; i++)
			pvclock_parent_withdraw(vm->vcpus[i]);
		pthread_mutex_lock(&parent->lock);
		for (at = &parent->children; *at != vm; at = &(*at)->next_child)
			;
		*at = vm->next_child;
		acknowledge(parent);
		pthread_mutex_unlock(&parent->lock);
		vm->parent = NULL;
	}
	pthread_mutex_unlock(&vm->lock);
}

/* --- following ---------------------------------------------------------------------------------------- */

static int refuse(uint64_t behind, struct pvclock_reason *reason)
{
	pvclock_reason_set(reason, PVCLOCK_REASON_NO_LINE,
			   "This machine's clock has become another %llu times since the guest's was made from it, in a way that its host does not "
			   "tell; give the guest's clock a line anew.", (unsigned long long)behind);
	return -ESTALE;
}

/* The VM's line, and what its own table is told of it, if the parent has not done so. */
static bool follow(struct pvclock_vm *vm, const struct pvclock_line_change *parent)
{
	const struct pvclock_tsc_transform *tsc = &vm->vcpus[0]->tsc;
	struct pvclock_line_change change = { .old = *pvclock_vcpu_line(vm->vcpus[0]) };

	if (!pvclock_line_follow(parent, tsc, &change.old, &change.next))
		return false;
	change.old_ticks = pvclock_tsc_to_guest(tsc, (struct pvclock_host_tsc){ parent->old_ticks }).ticks;
	change.next_ticks = pvclock_tsc_to_guest(tsc, (struct pvclock_host_tsc){ parent->next_ticks }).ticks;
	pvclock_vm_set_line(vm, &change.next, tsc, NULL);
	pvclock_vm_add_change(vm, &change);
	return true;
}

/*
 * Every page of the VM's has been what it is to become now: whoever rewrote it, at whatever depth. A guest that writes there itself
 * deceives us of nothing but whether its clock is kept from going back. Hyper-V's page is in no table.
 */
static bool reached_all(const struct pvclock_vm *vm)
{
	struct pvclock_snapshot held;

	for (size_t i = 0; i < vm->vcpu_count; i++) {
		struct pvclock_vcpu *vcpu = vm->vcpus[i];
		struct pvclock_line line = *pvclock_vcpu_line(vcpu);

		if (vcpu->page.host && (pvclock_page_read(vcpu->page.host, &held) != PVCLOCK_READ_OK || held.line.tsc != line.tsc ||
					held.line.ns != line.ns || held.line.mul != line.mul || held.line.shift != line.shift))
			return false;
	}
	return !vm->hyperv.page.host;
}

/* The last change that the parent has told the VM's own table of; 0: none. */
static uint32_t last_told(const struct pvclock_vm *vm)
{
	struct pvclock_nested_entry entry;

	if (vm->parent_table && pvclock_nested_look(vm->parent->page, vm->parent_table - 1, &entry) && entry.generation)
		return entry.generation;
	return vm->table_told;
}

static int follow_all(struct pvclock_vm *vm, const struct pvclock_nested *told, uint32_t table_told, struct pvclock_slope *host,
		      struct pvclock_reason *reason)
{
	uint64_t followed = atomic_load_explicit(&vm->followed, memory_order_relaxed), behind = told->generation - followed;

	if (behind > PVCLOCK_NESTED_CHANGES || !vm->has_line || vm->vcpu_count == 0)
		return refuse(behind, reason);
	for (uint64_t i = followed + 1; i != told->generation + 1; i++) {
		if (!follow(vm, &told->changes[i % PVCLOCK_NESTED_CHANGES]))
			return refuse(behind, reason);
		if ((uint32_t)i != table_told)
			continue;
		/* the parent has told a VM that is a host, and seen to its guests: not twice, but its interrupt is ours to send */
		vm->nested.change_count = 0;
		vm->nested.lost = false;
		vm->nested.told = true;
	}
	if (host)
		pvclock_slope_from_line(&told->changes[told->generation % PVCLOCK_NESTED_CHANGES].next, host);
	return reached_all(vm) ? 1 : 2;
}

int pvclock_parent_follow(struct pvclock_vm *vm, struct pvclock_slope *host, struct pvclock_reason *reason)
{
	struct pvclock_nested told;
	enum pvclock_read read;
	uint32_t table_told;
	int result = 0;

	pvclock_reason_clear(reason);
	pthread_mutex_lock(&vm->lock);
	if (pvclock_parent_changed(vm) && !vm->paused) {
		result = -EBUSY;
	} else if (pvclock_parent_changed(vm)) {
		do { /* of one instant */
			read = pvclock_nested_read(vm->parent->page, &told);
			table_told = last_told(vm);
		} while (read == PVCLOCK_READ_OK && told.generation != pvclock_parent_generation(vm->parent));
		if (read == PVCLOCK_READ_OK)
			result = follow_all(vm, &told, table_told, host, reason);
		else
			result = refuse(0, reason);
		pthread_mutex_lock(&vm->parent->lock);
		atomic_store_explicit(&vm->followed, result == -ESTALE ? pvclock_parent_generation(vm->parent) : told.generation, memory_order_relaxed);
		acknowledge(vm->parent);
		pthread_mutex_unlock(&vm->parent->lock);
	}
	pthread_mutex_unlock(&vm->lock);
	return result;
}
