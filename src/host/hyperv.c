/* SPDX-License-Identifier: MIT */
/*
 * hyperv.c - Hyper-V's clock towards the guest (docs/hyperv.md): reference time, derived from the VM's line once and then kept,
 * bit for bit, as long as it agrees with it; the page that tells it, the counter that is the same function, and the guest that
 * wants to be told when it became another one.
 *
 * Reference time is over the TSC of the VM's first vCPU. Where the page is valid all have that TSC.
 */
#include "vm.h"

#include <errno.h>

#define NS_PER_SEC 1000000000u
#define NS_PER_UNIT 100
#define TURN_UNITS 2u    /* how far a new reference time can be behind the old one, where the line itself goes on */
#define TURN_TRIES 4096u /* readings of the TSC: those units are 200 ns */

#define BIT_0 1ull

void pvclock_hyperv_cpuid(uint32_t features, struct pvclock_cpuid leaves[PVCLOCK_HYPERV_LEAVES])
{
	features &= PVCLOCK_HYPERV_FEATURES;
	for (uint32_t i = 0; i < PVCLOCK_HYPERV_LEAVES; i++)
		leaves[i] = (struct pvclock_cpuid){ .leaf = PVCLOCK_HYPERV_CPUID + i };
	leaves[0].eax = PVCLOCK_HYPERV_CPUID + PVCLOCK_HYPERV_LEAVES - 1;
	leaves[0].ebx = PVCLOCK_HYPERV_CPUID_SIGNATURE_EBX;
	leaves[0].ecx = PVCLOCK_HYPERV_CPUID_SIGNATURE_ECX;
	leaves[0].edx = PVCLOCK_HYPERV_CPUID_SIGNATURE_EDX;
	leaves[1].eax = PVCLOCK_HYPERV_CPUID_INTERFACE;
	leaves[3].eax = features;
	leaves[3].edx = features & PVCLOCK_HYPERV_FREQUENCIES ? PVCLOCK_HYPERV_CPUID_FREQUENCIES : 0;
	leaves[4].ebx = UINT32_MAX; /* spinlocks never notify */
}

void pvclock_vm_offer_hyperv(struct pvclock_vm *vm, uint32_t features, uint64_t apic_hz)
{
	pthread_mutex_lock(&vm->lock);
	vm->hyperv.features = features & PVCLOCK_HYPERV_FEATURES;
	vm->hyperv.apic_hz = apic_hz;
	pthread_mutex_unlock(&vm->lock);
}

uint32_t pvclock_vm_offered_hyperv(const struct pvclock_vm *vm)
{
	pthread_mutex_t *lock = (pthread_mutex_t *)&vm->lock;
	uint32_t features;

	pthread_mutex_lock(lock);
	features = vm->hyperv.features;
	pthread_mutex_unlock(lock);
	return features;
}

/* --- reference time ------------------------------------------------------------------------------ */

/*
 * Whether reference time is still what the header says of `line`. With a the line's anchor and Y(t) = t * scale / 2^64 + offset -
 * (the line at t, before any floor) / 100, a new one has 0 <= Y(a) < 1 (pvclock_line_to_hyperv), and a scale within 2^-65 of the
 * slope, so that it has
 *
 *     -t * 2^-65  <=  Y(t)  <  1 + t * 2^-65
 *
 * at every later t. That is asked here of t = a, in units of 2^-65 / 100, exactly: any reference time that was derived from this
 * same function, at whatever anchor, passes; and one that passes has these bounds from here on, as its scale has the same error.
 * So nothing adds up over any number of lines.
 */
static bool agrees(const struct pvclock_hyperv_line *hyperv, const struct pvclock_line *line)
{
	struct pvclock_hyperv_line fresh;
	pvclock_word low;
	int64_t units;
	const __int128 one_ns = (__int128)1 << 65;
	__int128 apart, allowed;

	if (!pvclock_line_to_hyperv(line, &fresh) || fresh.scale != hyperv->scale)
		return false;
	units = (int64_t)(pvclock_word_mul(line->tsc, hyperv->scale, &low) + (uint64_t)hyperv->offset - line->ns / NS_PER_UNIT);
	if (units < -2 || units > 2)
		return false;
	/* |units * 100 * 2^65| < 2^74, and the others are less */
	apart = ((__int128)units * NS_PER_UNIT - (__int128)(line->ns % NS_PER_UNIT)) * one_ns + (__int128)low * NS_PER_UNIT * 2;
	allowed = (__int128)line->tsc * NS_PER_UNIT;
	return apart >= -allowed && apart < NS_PER_UNIT * one_ns + allowed;
}

static bool same_line(const struct pvclock_line *a, const struct pvclock_line *b)
{
	return a->tsc == b->tsc && a->ns == b->ns && a->mul == b->mul && a->shift == b->shift;
}

/* Reference time now. A line that has no place in Hyper-V's form is read as it is: there is no page to differ from. */
static uint64_t time_now(const struct pvclock_vm *vm)
{
	struct pvclock_host_tsc now = vm->os->ops->read_tsc(vm->os->ctx);

	if (vm->hyperv.known)
		return pvclock_hyperv_time(&vm->hyperv.line, pvclock_tsc_to_guest(&vm->hyperv.over, now).ticks);
	return vm->has_line ? pvclock_vm_system_time((struct pvclock_vm *)vm, now) / NS_PER_UNIT : 0;
}

/*
 * A new reference time may read a unit or two less than the old one did, where the line itself went on: the guest does not see it
 * before it has come that far. A clock that somebody set back is back.
 */
static void wait_for(const struct pvclock_vm *vm, uint64_t last)
{
	for (unsigned int i = 0; i < TURN_TRIES && last - time_now(vm) - 1 < TURN_UNITS; i++)
		pvclock_relax();
}

/* --- the page ---------------------------------------------------------------------------------------- */

static bool page_on(const struct hyperv *hyperv)
{
	return (hyperv->features & PVCLOCK_HYPERV_TSC_PAGE) && hyperv->page.host;
}

/* Whatever it said: a guest may have left there anything, and would read it as a clock. */
static void withdraw(struct hyperv *hyperv)
{
	if (hyperv->says == HYPERV_NOTHING || !page_on(hyperv))
		return;
	pvclock_hyperv_page_withdraw(hyperv->page.host);
	pvclock_vm_mark_dirty(&hyperv->page, sizeof(struct pvclock_hyperv_page));
	hyperv->says = HYPERV_NOTHING;
}

/* `asked`: the guest has just set up the page, or acknowledged: it waits for nothing more. */
static void show(struct pvclock_vm *vm, bool asked)
{
	struct hyperv *hyperv = &vm->hyperv;

	if (!page_on(hyperv) || (hyperv->says == HYPERV_TIME && hyperv->known && vm->unstable.code == PVCLOCK_REASON_NONE))
		return;
	if (!hyperv->known || vm->unstable.code != PVCLOCK_REASON_NONE || (hyperv->emulation_status && !asked)) {
		withdraw(hyperv);
		return;
	}
	hyperv->sequence = pvclock_hyperv_page_write(hyperv->page.host, &hyperv->line, hyperv->sequence);
	pvclock_vm_mark_dirty(&hyperv->page, sizeof(struct pvclock_hyperv_page));
	hyperv->says = HYPERV_TIME;
}

/* Memory that came with the guest, from another VMM, may say already what it should. The guest may have written anything there. */
static enum hyperv_says look(const struct hyperv *hyperv)
{
	const uint32_t *words = hyperv->page.host;
	const uint64_t offset = (uint64_t)hyperv->line.offset;

	if (!page_on(hyperv))
		return HYPERV_ANYTHING;
	if (pvclock_load_relaxed_u32(&words[0]) == 0)
		return HYPERV_NOTHING;
	return hyperv->known && pvclock_load_relaxed_u32(&words[0]) == hyperv->sequence &&
		       pvclock_load_relaxed_u32(&words[2]) == (uint32_t)hyperv->line.scale &&
		       pvclock_load_relaxed_u32(&words[3]) == (uint32_t)(hyperv->line.scale >> 32) &&
		       pvclock_load_relaxed_u32(&words[4]) == (uint32_t)offset &&
		       pvclock_load_relaxed_u32(&words[5]) == (uint32_t)(offset >> 32) ? HYPERV_TIME : HYPERV_ANYTHING;
}

static void find_page(struct pvclock_vm *vm)
{
	struct hyperv *hyperv = &vm->hyperv;

	/* nowhere, where there is no such memory: KVM takes any address too, and leaves the guest with the counter */
	if (hyperv->tsc_page & PVCLOCK_MSR_ENABLE)
		pvclock_vm_find_place(vm, hyperv->tsc_page & ~(uint64_t)(PVCLOCK_HYPERV_PAGE_SIZE - 1),
				      sizeof(struct pvclock_hyperv_page), &hyperv->page);
	else
		hyperv->page = (struct place){ 0 };
}

void pvclock_vm_resolve_hyperv(struct pvclock_vm *vm)
{
	const void *before = vm->hyperv.page.host;

	find_page(vm);
	if (vm->hyperv.page.host != before)
		vm->hyperv.says = look(&vm->hyperv);
	if (!vm->paused && vm->has_line)
		show(vm, false);
}

/* --- the line changes ----------------------------------------------------------------------------------- */

/*
 * The guest did not run: it has to be told, and if it acknowledges what it is told, it has no page until then. What it did to its
 * own TSC it knows.
 */
static void announce(struct hyperv *hyperv)
{
	if (!(hyperv->features & PVCLOCK_HYPERV_REENLIGHTENMENT))
		return;
	hyperv->owed = hyperv->reenlightenment & PVCLOCK_CONTROL_ENABLE;
	hyperv->emulation_status = hyperv->emulation_control;
}

void pvclock_vm_follow_hyperv(struct pvclock_vm *vm)
{
	struct hyperv *hyperv = &vm->hyperv;
	struct pvclock_hyperv_line before = hyperv->line;
	const struct pvclock_line *line;
	bool known = hyperv->known;
	uint64_t last;

	if (!hyperv->features || !vm->has_line || vm->vcpu_count == 0)
		return;
	line = pvclock_vcpu_line(vm->vcpus[0]);
	if (!known || !same_line(line, &hyperv->of) || !tsc_same(&vm->vcpus[0]->tsc, &hyperv->over)) {
		last = vm->paused ? hyperv->last : time_now(vm);
		if (!known || !agrees(&before, line)) {
			hyperv->known = pvclock_line_to_hyperv(line, &hyperv->line);
			withdraw(hyperv);
			if (known && vm->paused)
				announce(hyperv);
		}
		hyperv->of = *line;
		hyperv->over = vm->vcpus[0]->tsc;
		wait_for(vm, last);
	}
	show(vm, false);
}

void pvclock_vm_pause_hyperv(struct pvclock_vm *vm)
{
	if (vm->hyperv.features)
		vm->hyperv.last = time_now(vm);
}

uint64_t pvclock_vm_take_reenlightenment(struct pvclock_vm *vm)
{
	uint64_t control;

	pthread_mutex_lock(&vm->lock);
	control = vm->hyperv.owed ? vm->hyperv.reenlightenment : 0;
	vm->hyperv.owed = false;
	pthread_mutex_unlock(&vm->lock);
	return control;
}

/* --- MSRs ------------------------------------------------------------------------------------------------ */

static uint32_t feature_of(uint32_t msr)
{
	switch (msr) {
	case PVCLOCK_HYPERV_MSR_TIME_REF_COUNT:
		return PVCLOCK_HYPERV_COUNTER;
	case PVCLOCK_HYPERV_MSR_REFERENCE_TSC:
		return PVCLOCK_HYPERV_TSC_PAGE;
	case PVCLOCK_HYPERV_MSR_TSC_FREQUENCY:
	case PVCLOCK_HYPERV_MSR_APIC_FREQUENCY:
		return PVCLOCK_HYPERV_FREQUENCIES;
	case PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL:
	case PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL:
	case PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS:
		return PVCLOCK_HYPERV_REENLIGHTENMENT;
	case PVCLOCK_HYPERV_MSR_TSC_INVARIANT_CONTROL:
		return PVCLOCK_HYPERV_INVARIANT;
	default:
		return 0;
	}
}

/* Where a guest's value is kept; NULL: it is read only. */
static uint64_t *kept(struct hyperv *hyperv, uint32_t msr)
{
	switch (msr) {
	case PVCLOCK_HYPERV_MSR_REFERENCE_TSC:
		return &hyperv->tsc_page;
	case PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL:
		return &hyperv->reenlightenment;
	case PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL:
		return &hyperv->emulation_control;
	case PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS:
		return &hyperv->emulation_status;
	case PVCLOCK_HYPERV_MSR_TSC_INVARIANT_CONTROL:
		return &hyperv->invariant;
	default:
		return NULL;
	}
}

/* Whether the MSR can hold it. */
static bool holds(uint32_t msr, uint64_t value)
{
	switch (msr) {
	case PVCLOCK_HYPERV_MSR_REFERENCE_TSC:
		return true;
	case PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL:
		return pvclock_interface_check(PVCLOCK_MSR_SUSPEND_CONTROL, value);
	default:
		return value <= BIT_0;
	}
}

int pvclock_hyperv_write(struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t value)
{
	struct hyperv *hyperv = &vcpu->vm->hyperv;
	uint64_t *to = kept(hyperv, msr);

	if (!(hyperv->features & feature_of(msr)))
		return -ENOENT;
	if (!to || !holds(msr, value))
		return -EINVAL;
	switch (msr) {
	case PVCLOCK_HYPERV_MSR_REFERENCE_TSC:
		/* Where it was, nothing is written any more: that memory is the guest's again. */
		hyperv->says = HYPERV_ANYTHING;
		*to = value;
		find_page(vcpu->vm);
		if (!vcpu->vm->paused) { /* else the resume does it, by the line that there will be */
			pvclock_vm_follow_hyperv(vcpu->vm);
			show(vcpu->vm, true);
		}
		return 0;
	case PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS:
		if (value)
			return -EINVAL;
		break;
	case PVCLOCK_HYPERV_MSR_TSC_INVARIANT_CONTROL:
		if (value < *to) /* it is not taken back */
			return -EINVAL;
		*to = value;
		return 0;
	case PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL:
		*to = value;
		if (value)
			return 0;
		break;
	default:
		*to = value;
		return 0;
	}
	hyperv->emulation_status = 0; /* acknowledged, or not asked for any more */
	if (!vcpu->vm->paused)
		show(vcpu->vm, true);
	return 0;
}

/* 10^9 / slope, to nearest: exact arithmetic, below 2^93. */
static uint64_t tsc_hz(const struct pvclock_line *line)
{
	unsigned __int128 hz = line->mul ? (((unsigned __int128)NS_PER_SEC << (32 - line->shift)) + line->mul / 2) / line->mul : 0;

	return hz >> 64 ? UINT64_MAX : (uint64_t)hz;
}

int pvclock_hyperv_read(struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t *value)
{
	struct pvclock_vm *vm = vcpu->vm;

	if (!(vm->hyperv.features & feature_of(msr)))
		return -ENOENT;
	switch (msr) {
	case PVCLOCK_HYPERV_MSR_TIME_REF_COUNT:
		if (!vm->paused)
			pvclock_vm_follow_hyperv(vm);
		*value = time_now(vm);
		break;
	case PVCLOCK_HYPERV_MSR_TSC_FREQUENCY:
		*value = vm->has_line ? tsc_hz(pvclock_vcpu_line(vcpu)) : 0;
		break;
	case PVCLOCK_HYPERV_MSR_APIC_FREQUENCY:
		*value = vm->hyperv.apic_hz;
		break;
	default:
		*value = *kept(&vm->hyperv, msr);
	}
	return 0;
}

int pvclock_hyperv_restore(struct pvclock_vcpu *vcpu, uint32_t msr, uint64_t value)
{
	uint64_t *to = kept(&vcpu->vm->hyperv, msr);

	if (!feature_of(msr))
		return -ENOENT;
	if (!to || !holds(msr, value))
		return -EINVAL;
	*to = value;
	if (msr == PVCLOCK_HYPERV_MSR_REFERENCE_TSC) {
		find_page(vcpu->vm);
		vcpu->vm->hyperv.says = look(&vcpu->vm->hyperv);
	}
	return 0;
}

/* --- the record ----------------------------------------------------------------------------------------------- */

/* `ticks`: of the guest's TSC, and no later one was read. */
static void restore_time(struct pvclock_vm *vm, const struct pvclock_hyperv_line *line, uint32_t sequence,
			 const struct pvclock_tsc_transform *over, uint64_t ticks)
{
	struct hyperv *hyperv = &vm->hyperv;

	hyperv->known = line->scale != 0;
	hyperv->line = *line;
	hyperv->sequence = sequence;
	hyperv->over = *over;
	hyperv->of = (struct pvclock_line){ .mul = 0 }; /* none: the line decides */
	hyperv->last = hyperv->known ? pvclock_hyperv_time(line, ticks) : 0;
	find_page(vm);
	hyperv->says = look(hyperv);
}

int pvclock_vm_restore_hyperv(struct pvclock_vm *vm, const struct pvclock_record *record)
{
	if (record->vcpu_count == 0)
		return -EINVAL;
	pthread_mutex_lock(&vm->lock);
	pvclock_vm_apply_hyperv(vm, record);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

int pvclock_vm_adopt_hyperv(struct pvclock_vm *vm, const struct pvclock_hyperv_snapshot *page, uint64_t ticks)
{
	int error = -EINVAL;

	pthread_mutex_lock(&vm->lock);
	if (vm->vcpu_count > 0 && page->hyperv.scale != 0 && pvclock_hyperv_sequence_valid(page->sequence)) {
		restore_time(vm, &page->hyperv, page->sequence, &vm->vcpus[0]->tsc, ticks);
		error = 0;
	}
	pthread_mutex_unlock(&vm->lock);
	return error;
}

void pvclock_vm_capture_hyperv(const struct pvclock_vm *vm, struct pvclock_record *record)
{
	const struct hyperv *hyperv = &vm->hyperv;

	record->hyperv_tsc_page = hyperv->tsc_page;
	record->hyperv_reenlightenment = hyperv->reenlightenment;
	record->hyperv_emulation_control = hyperv->emulation_control;
	record->hyperv_emulation_status = hyperv->emulation_status;
	record->hyperv_invariant = hyperv->invariant;
	record->hyperv = hyperv->known ? hyperv->line : (struct pvclock_hyperv_line){ .scale = 0 };
	record->hyperv_sequence = hyperv->sequence;
}

void pvclock_vm_apply_hyperv(struct pvclock_vm *vm, const struct pvclock_record *record)
{
	struct hyperv *hyperv = &vm->hyperv;

	hyperv->tsc_page = record->hyperv_tsc_page;
	hyperv->reenlightenment = record->hyperv_reenlightenment;
	hyperv->emulation_control = record->hyperv_emulation_control;
	hyperv->emulation_status = record->hyperv_emulation_status;
	hyperv->invariant = record->hyperv_invariant;
	hyperv->owed = false;
	restore_time(vm, &record->hyperv, record->hyperv_sequence, &record->vcpus[0].tsc,
		     pvclock_tsc_to_guest(&record->vcpus[0].tsc, record->time.at).ticks);
}
