/* SPDX-License-Identifier: MIT */
/*
 * nested.c - a guest that is itself a host (docs/spec/nested.md): when its line has become another it is told so in its
 * memory, and the pages of its own guests, of which it keeps a table there, are made right. No vCPU runs meanwhile, so
 * nobody reads a page that is wrong.
 *
 * The table is the guest's, and may say anything. Each entry is read once; what it can bring about is that a pvclock
 * page (32 bytes), or the head of a nested page (320), is rewritten within the guest's own memory, where there is one
 * already. At most PVCLOCK_NESTED_ENTRIES, with one look at each.
 */
#include "vm.h"

#define TABLE_SIZE sizeof(struct pvclock_nested_page)

/* What became of the entries so far. */
struct walk {
	struct pvclock_vm *vm;
	void *table;
	uint64_t generation;
	uint32_t rewritten, refused;
	struct {
		bool done;
		uint8_t under;
		uint64_t gpa, size;
		struct pvclock_line old; /* of a PAGE, before */
		struct pvclock_line_change changes[NESTED_CHANGES]; /* of a TABLE's VM */
	} slots[PVCLOCK_NESTED_ENTRIES];
};

/* --- what has changed ------------------------------------------------------------------------- */

static bool same_function(struct pvclock_line a, struct pvclock_line b)
{
	if (a.mul != b.mul || a.shift != b.shift)
		return false;
	pvclock_line_reanchor(&a, b.tsc);
	pvclock_line_reanchor(&b, a.tsc);
	return a.tsc == b.tsc && a.ns == b.ns;
}

/* Of a counter that moved, under a line that moved with it. */
static bool is_move(const struct pvclock_line_change *change)
{
	struct pvclock_line moved = change->old;

	moved.tsc += change->next_ticks - change->old_ticks;
	return same_function(moved, change->next);
}

static bool is_nothing(const struct pvclock_line_change *change)
{
	return change->old_ticks == change->next_ticks && same_function(change->old, change->next);
}

static void add_change(struct pvclock_nested_state *nested, const struct pvclock_line_change *change)
{
	struct pvclock_line_change *last = nested->change_count ? &nested->changes[nested->change_count - 1] : NULL;

	if (is_nothing(change))
		return;
	if (last && is_move(change)) { /* nobody has read in between: one change with another end */
		last->next = change->next;
		last->next_ticks += change->next_ticks - change->old_ticks;
		nested->change_count -= is_nothing(last);
	} else if (nested->change_count == NESTED_CHANGES) {
		nested->lost = true;
	} else {
		nested->changes[nested->change_count++] = *change;
	}
}

void pvclock_vm_add_change(struct pvclock_vm *vm, const struct pvclock_line_change *change)
{
	if (vm->vcpu_count == 0)
		return;
	add_change(&vm->nested, change);
	vm->nested.line = change->next;
	vm->nested.offset = vm->vcpus[0]->tsc.offset;
	vm->nested.line_known = true;
}

void pvclock_vm_line_changed(struct pvclock_vm *vm, const struct pvclock_line_change *change)
{
	pthread_mutex_lock(&vm->lock);
	pvclock_vm_add_change(vm, change);
	pthread_mutex_unlock(&vm->lock);
}

void pvclock_vm_remember_line(struct pvclock_vm *vm)
{
	vm->nested.line_known = vm->has_line && vm->vcpu_count > 0;
	if (!vm->nested.line_known)
		return;
	vm->nested.line = *pvclock_vcpu_line(vm->vcpus[0]);
	vm->nested.offset = vm->vcpus[0]->tsc.offset;
}

/*
 * A line that somebody has set without a word: the clock changes where it stands. Or a counter, whose line has moved
 * with it: nothing has happened to the clock, and what is made from that counter moves, too.
 */
static void find_unsaid(struct pvclock_vm *vm)
{
	struct pvclock_line_change change;

	if (!vm->nested.line_known || !vm->has_line || vm->vcpu_count == 0)
		return;
	change.old = vm->nested.line;
	change.next = *pvclock_vcpu_line(vm->vcpus[0]);
	change.old_ticks = change.next_ticks = pvclock_tsc_to_guest(&vm->vcpus[0]->tsc, vm->os->ops->read_tsc(vm->os->ctx)).ticks;
	change.old_ticks -= vm->vcpus[0]->tsc.offset - vm->nested.offset;
	if (!is_move(&change))
		change.old_ticks = change.next_ticks;
	add_change(&vm->nested, &change);
}

/* --- where it may be written ------------------------------------------------------------------- */

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
	return a <= b ? b - a < a_size : a - b < b_size;
}

/* What this engine writes for the guest itself. */
static bool overlaps_ours(const struct pvclock_vm *vm, uint64_t gpa, uint64_t size)
{
	if (overlap(gpa, size, vm->nested.page.gpa, TABLE_SIZE))
		return true;
	if (vm->suspend_page.host && overlap(gpa, size, vm->suspend_page.gpa, sizeof(struct pvclock_suspend_page)))
		return true;
	if (vm->hyperv.page.host && overlap(gpa, size, vm->hyperv.page.gpa, sizeof(struct pvclock_hyperv_page)))
		return true;
	for (size_t i = 0; i < vm->vcpu_count; i++) {
		const struct pvclock_vcpu *vcpu = vm->vcpus[i];

		if (vcpu->page.host && overlap(gpa, size, vcpu->page.gpa, sizeof(struct pvclock_page)))
			return true;
		if (vcpu->steal_page.host && overlap(gpa, size, vcpu->steal_page.gpa, sizeof(struct pvclock_steal_page)))
			return true;
	}
	return false;
}

/* And what it has just rewritten: twice would be wrong. */
static bool overlaps_done(const struct walk *walk, unsigned int number, uint64_t gpa, uint64_t size)
{
	for (unsigned int i = 0; i < number; i++)
		if (walk->slots[i].done && overlap(gpa, size, walk->slots[i].gpa, walk->slots[i].size))
			return true;
	return false;
}

static bool find(const struct walk *walk, unsigned int number, const struct pvclock_nested_entry *entry, struct place *place)
{
	uint64_t size = entry->kind == PVCLOCK_NESTED_TABLE ? TABLE_SIZE : sizeof(struct pvclock_page);

	if (entry->gpa % (entry->kind == PVCLOCK_NESTED_TABLE ? TABLE_SIZE : 4) != 0)
		return false;
	return pvclock_vm_find_place(walk->vm, entry->gpa, size, place) && !overlaps_ours(walk->vm, entry->gpa, size) &&
	       !overlaps_done(walk, number, entry->gpa, size);
}

/* --- the walk ------------------------------------------------------------------------------------ */

/* What changed for the VM that has an entry: this guest, or the one in whose table it stands. */
static const struct pvclock_line_change *changes_of(const struct walk *walk, const struct pvclock_nested_entry *entry)
{
	unsigned int under = entry->under;

	if (under && entry->kind == PVCLOCK_NESTED_TABLE) /* beside its page */
		under = walk->slots[under - 1].under;
	return under ? walk->slots[under - 1].changes : walk->vm->nested.changes;
}

static bool rewrite_page(struct walk *walk, unsigned int number, const struct pvclock_nested_entry *entry,
			 const struct pvclock_tsc_transform *transform, const struct place *place)
{
	const struct pvclock_vm *vm = walk->vm;
	/* P4: where this guest's own vCPUs have not one line any more, no guest of its has */
	uint8_t keep = vm->unstable.code == PVCLOCK_REASON_NONE ? UINT8_MAX : (uint8_t)~PVCLOCK_TSC_STABLE;

	return pvclock_page_follow(place->host, changes_of(walk, entry), vm->nested.change_count, transform, keep, &walk->slots[number].old);
}

/* A guest's guest that is a host, too, is told what became of its line: that of its first vCPU, whose page is the entry before. */
static bool tell_table(struct walk *walk, unsigned int number, const struct pvclock_nested_entry *entry,
		       const struct pvclock_tsc_transform *transform, const struct place *place)
{
	const struct pvclock_line_change *parent = changes_of(walk, entry);
	struct pvclock_line_change *own = walk->slots[number].changes;
	struct pvclock_line line = walk->slots[entry->under - 1].old;

	if (!pvclock_nested_begun(place->host))
		return false;
	for (size_t i = 0; i < walk->vm->nested.change_count; i++) {
		own[i].old = line;
		own[i].old_ticks = pvclock_tsc_to_guest(transform, (struct pvclock_host_tsc){ parent[i].old_ticks }).ticks;
		own[i].next_ticks = pvclock_tsc_to_guest(transform, (struct pvclock_host_tsc){ parent[i].next_ticks }).ticks;
		if (!pvclock_line_follow(&parent[i], transform, &line, &line))
			return false;
		own[i].next = line;
	}
	for (size_t i = 0; i < walk->vm->nested.change_count; i++) /* how many of its own entries follow is not known yet */
		pvclock_nested_tell(place->host, &own[i], UINT32_MAX, UINT32_MAX);
	return true;
}

/*
 * A page stands in a table, which is what it is under, if it is not this guest's own; a table stands beside the page of
 * its VM's first vCPU.
 */
static bool is_page(const struct walk *walk, const struct pvclock_nested_entry *entry, unsigned int under)
{
	return entry->kind == PVCLOCK_NESTED_PAGE && (under == 0 || walk->slots[under - 1].size == TABLE_SIZE);
}

static bool is_table(const struct walk *walk, const struct pvclock_nested_entry *entry, unsigned int under)
{
	return entry->kind == PVCLOCK_NESTED_TABLE && under != 0 && walk->slots[under - 1].size == sizeof(struct pvclock_page);
}

static bool follow(struct walk *walk, unsigned int number, const struct pvclock_nested_entry *entry)
{
	struct pvclock_tsc_transform transform = { .ratio = entry->ratio, .offset = entry->offset, .frac_bits = entry->frac_bits };
	struct place place;
	bool done;

	if (walk->vm->nested.lost || entry->frac_bits > 63 || (entry->frac_bits && !entry->ratio))
		return false;
	if (entry->under > number || (entry->under && !walk->slots[entry->under - 1].done))
		return false;
	if (!find(walk, number, entry, &place))
		return false;
	walk->slots[number].gpa = entry->gpa;
	walk->slots[number].under = entry->under;
	if (is_page(walk, entry, entry->under)) {
		walk->slots[number].size = sizeof(struct pvclock_page);
		done = rewrite_page(walk, number, entry, &transform, &place);
	} else if (is_table(walk, entry, entry->under)) {
		walk->slots[number].size = TABLE_SIZE;
		done = tell_table(walk, number, entry, &transform, &place);
	} else {
		return false;
	}
	if (done)
		pvclock_vm_mark_dirty(&place, walk->slots[number].size);
	return done;
}

static void walk_table(struct walk *walk, bool mark)
{
	unsigned int count = pvclock_nested_count(walk->table);
	struct pvclock_nested_entry entry;

	for (unsigned int i = 0; i < count; i++) {
		if (!pvclock_nested_look(walk->table, i, &entry))
			continue;
		walk->slots[i].done = follow(walk, i, &entry);
		walk->rewritten += walk->slots[i].done;
		walk->refused += !walk->slots[i].done;
		if (walk->slots[i].done && mark)
			pvclock_nested_mark(walk->table, i, walk->generation);
	}
}

static void tell(struct pvclock_vm *vm)
{
	struct pvclock_nested_state *nested = &vm->nested;
	struct walk walk = { .vm = vm, .table = nested->page.host };
	size_t told = nested->lost ? 1 : nested->change_count;

	walk.generation = pvclock_nested_generation(walk.table) + told;
	walk_table(&walk, told > 0);
	for (size_t i = 0; i < told; i++)
		pvclock_nested_tell(walk.table, nested->lost ? NULL : &nested->changes[i], walk.rewritten, walk.refused);
	/* also one that a save has told, and that nobody was interrupted for: its VMM had another life to go on in */
	nested->told |= told > 0 || pvclock_nested_acknowledged(walk.table) != walk.generation;
	if (told > 0)
		pvclock_vm_mark_dirty(&nested->page, TABLE_SIZE);
}

static void forget(struct pvclock_vm *vm)
{
	vm->nested.change_count = 0;
	vm->nested.lost = false;
	pvclock_vm_remember_line(vm);
}

void pvclock_vm_follow_nested(struct pvclock_vm *vm)
{
	find_unsaid(vm);
	if (vm->nested.page.host && vm->has_line)
		tell(vm);
	forget(vm);
}

void pvclock_vm_settle_nested(struct pvclock_vm *vm)
{
	find_unsaid(vm);
	if (!vm->nested.page.host || (vm->nested.change_count == 0 && !vm->nested.lost))
		return;
	tell(vm);
	forget(vm);
}

uint64_t pvclock_vm_take_nested(struct pvclock_vm *vm)
{
	uint64_t control;

	pthread_mutex_lock(&vm->lock);
	control = vm->nested.told && (vm->nested.msr & PVCLOCK_MSR_ENABLE) ? vm->nested.control : 0;
	vm->nested.told = false;
	pthread_mutex_unlock(&vm->lock);
	return control;
}

/* --- registration ------------------------------------------------------------------------------- */

void pvclock_vm_resolve_nested(struct pvclock_vm *vm)
{
	if (vm->nested.msr & PVCLOCK_MSR_ENABLE)
		pvclock_vm_find_place(vm, vm->nested.msr - PVCLOCK_MSR_ENABLE, TABLE_SIZE, &vm->nested.page);
	else
		vm->nested.page = (struct place){ 0 };
}

/* Also the guest's word that its table has changed, for whoever has a copy of it. False: #GP. */
bool pvclock_vm_write_nested(struct pvclock_vm *vm, uint64_t value)
{
	struct place place = { 0 };

	if ((value & PVCLOCK_MSR_ENABLE) && !pvclock_vm_find_place(vm, value - PVCLOCK_MSR_ENABLE, TABLE_SIZE, &place))
		return false;
	if (place.host && (value != vm->nested.msr || !pvclock_nested_begun(place.host))) {
		pvclock_nested_begin(place.host);
		pvclock_vm_mark_dirty(&place, TABLE_SIZE);
	}
	vm->nested.msr = value;
	vm->nested.page = place;
	pvclock_parent_copy_table(vm);
	return true;
}
