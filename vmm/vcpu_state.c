// SPDX-License-Identifier: MIT
/*
 * vcpu_state.c - what a vCPU is beside its clock: registers, FPU, local APIC, MSRs, pending events.
 *
 * Left out on purpose: the TSC and the clock MSRs, which are the library's (IA32_TSC by KVM_SET_MSRS is snapped by
 * heuristics); and nested state, since no guest of this VMM runs guests.
 */
#include "vmm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define MSR_IA32_TSC 0x10u
#define MSR_IA32_TSC_ADJUST 0x3bu
#define MSR_IA32_TSC_DEADLINE 0x6e0u
#define MSR_INDEX_MAX 4096u

/*
 * One structure, one ioctl each way. In the order of restoring: the APIC base in SREGS before the APIC's registers,
 * XCR0 before XSAVE.
 */
static const struct part {
	enum wire_kind kind;
	const char *name;
	unsigned long get, set;
	size_t size;
} parts[] = {
	{ WIRE_SREGS, "SREGS", KVM_GET_SREGS, KVM_SET_SREGS, sizeof(struct kvm_sregs) },
	{ WIRE_REGS, "REGS", KVM_GET_REGS, KVM_SET_REGS, sizeof(struct kvm_regs) },
	{ WIRE_XCRS, "XCRS", KVM_GET_XCRS, KVM_SET_XCRS, sizeof(struct kvm_xcrs) },
	{ WIRE_DEBUGREGS, "DEBUGREGS", KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, sizeof(struct kvm_debugregs) },
	{ WIRE_LAPIC, "LAPIC", KVM_GET_LAPIC, KVM_SET_LAPIC, sizeof(struct kvm_lapic_state) },
	{ WIRE_MP_STATE, "MP_STATE", KVM_GET_MP_STATE, KVM_SET_MP_STATE, sizeof(struct kvm_mp_state) },
	{ WIRE_EVENTS, "VCPU_EVENTS", KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, sizeof(struct kvm_vcpu_events) },
};

struct msr_list {
	struct kvm_msr_list list;
	uint32_t indices[MSR_INDEX_MAX];
};

struct one_msr {
	struct kvm_msrs header;
	struct kvm_msr_entry entry;
};

static bool is_clock_msr(uint32_t msr)
{
	return msr == MSR_IA32_TSC || msr == MSR_IA32_TSC_ADJUST || msr == MSR_IA32_TSC_DEADLINE ||
	       msr == PVCLOCK_MSR_WALL_CLOCK_OLD || msr == PVCLOCK_MSR_SYSTEM_TIME_OLD ||
	       msr == PVCLOCK_MSR_WALL_CLOCK || msr == PVCLOCK_MSR_SYSTEM_TIME;
}

/*
 * Finds out, on a vCPU that has not run, which MSRs can be got and set: KVM lists some that it then refuses. Both sides
 * of an update do this before the blackout.
 */
int vcpu_state_prepare(struct machine *machine, struct problem *problem)
{
	struct msr_list *list = calloc(1, sizeof(*list));
	int result = -1;

	int xsave = ioctl(machine->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	machine->xsave_size = xsave > (int)sizeof(struct kvm_xsave) ? (size_t)xsave : 0;
	if (list == NULL)
		return fail(problem, "MSRs: out of memory");
	list->list.nmsrs = MSR_INDEX_MAX;
	if (ioctl(machine->kvm_fd, KVM_GET_MSR_INDEX_LIST, &list->list) < 0) {
		fail(problem, "KVM_GET_MSR_INDEX_LIST: %s", strerror(errno));
		goto out;
	}
	machine->msrs = calloc(1, sizeof(*machine->msrs) + list->list.nmsrs * sizeof(struct kvm_msr_entry));
	if (machine->msrs == NULL) {
		fail(problem, "MSRs: out of memory");
		goto out;
	}
	for (uint32_t i = 0; i < list->list.nmsrs; i++) {
		struct one_msr one = { .header.nmsrs = 1, .entry.index = list->indices[i] };

		if (is_clock_msr(one.entry.index))
			continue;
		if (ioctl(machine->vcpus[0].fd, KVM_GET_MSRS, &one) != 1 ||
		    ioctl(machine->vcpus[0].fd, KVM_SET_MSRS, &one) != 1)
			continue;
		machine->msrs->entries[machine->msrs->nmsrs++].index = one.entry.index;
	}
	result = 0;
out:
	free(list);
	return result;
}

static int save_msrs(struct vcpu *vcpu, struct wire *wire, struct problem *problem)
{
	const struct kvm_msrs *wanted = vcpu->machine->msrs;
	size_t size = sizeof(*wanted) + wanted->nmsrs * sizeof(wanted->entries[0]);
	struct kvm_msrs *msrs = wire_add(wire, WIRE_MSRS, vcpu->index, size, problem);

	if (msrs == NULL)
		return -1;
	memcpy(msrs, wanted, size);
	int got = ioctl(vcpu->fd, KVM_GET_MSRS, msrs);
	if (got < 0 || (uint32_t)got != wanted->nmsrs)
		return fail(problem, "KVM_GET_MSRS of vCPU %u: stopped at MSR %#x", vcpu->index,
			    wanted->entries[got < 0 ? 0 : got].index);
	return 0;
}

static int save_xsave(struct vcpu *vcpu, struct wire *wire, struct problem *problem)
{
	size_t size = vcpu->machine->xsave_size;
	unsigned long request = size > 0 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;

	if (size == 0)
		size = sizeof(struct kvm_xsave);
	void *xsave = wire_add(wire, WIRE_XSAVE, vcpu->index, size, problem);
	if (xsave == NULL)
		return -1;
	if (ioctl(vcpu->fd, request, xsave) < 0)
		return fail(problem, "KVM_GET_XSAVE of vCPU %u: %s", vcpu->index, strerror(errno));
	return 0;
}

int vcpu_state_save(struct vcpu *vcpu, struct wire *wire, struct problem *problem)
{
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		void *space = wire_add(wire, parts[i].kind, vcpu->index, parts[i].size, problem);
		if (space == NULL)
			return -1;
		if (ioctl(vcpu->fd, parts[i].get, space) < 0)
			return fail(problem, "KVM_GET_%s of vCPU %u: %s", parts[i].name, vcpu->index, strerror(errno));
	}
	return save_xsave(vcpu, wire, problem) < 0 ? -1 : save_msrs(vcpu, wire, problem);
}

/* A section of exactly the expected size, or NULL. */
static const void *section_of(const struct vcpu *vcpu, const struct wire *wire, enum wire_kind kind, size_t expected,
			      const char *name, struct problem *problem)
{
	size_t size;
	const void *section = wire_find(wire, kind, vcpu->index, &size);

	if (section != NULL && size == expected)
		return section;
	fail(problem, "the saved state holds no %s of this kernel's size for vCPU %u", name, vcpu->index);
	return NULL;
}

static int restore_part(struct vcpu *vcpu, const struct wire *wire, const struct part *part, struct problem *problem)
{
	const void *section = section_of(vcpu, wire, part->kind, part->size, part->name, problem);

	if (section == NULL)
		return -1;
	if (ioctl(vcpu->fd, part->set, section) < 0)
		return fail(problem, "KVM_SET_%s of vCPU %u: %s", part->name, vcpu->index, strerror(errno));
	return 0;
}

static int restore_msrs(struct vcpu *vcpu, const struct wire *wire, struct problem *problem)
{
	size_t size;
	const struct kvm_msrs *msrs = wire_find(wire, WIRE_MSRS, vcpu->index, &size);

	if (msrs == NULL || size < sizeof(*msrs) || msrs->nmsrs > MSR_INDEX_MAX ||
	    size != sizeof(*msrs) + msrs->nmsrs * sizeof(msrs->entries[0]))
		return fail(problem, "the saved state holds no MSRs for vCPU %u", vcpu->index);
	int set = ioctl(vcpu->fd, KVM_SET_MSRS, msrs);
	if (set < 0 || (uint32_t)set != msrs->nmsrs)
		return fail(problem, "KVM_SET_MSRS of vCPU %u: refused MSR %#x", vcpu->index,
			    msrs->nmsrs == 0 ? 0 : msrs->entries[set < 0 ? 0 : set].index);
	return 0;
}

int vcpu_state_restore(struct vcpu *vcpu, const struct wire *wire, struct problem *problem)
{
	const struct part xsave = {
		WIRE_XSAVE, "XSAVE", KVM_GET_XSAVE, KVM_SET_XSAVE,
		vcpu->machine->xsave_size > 0 ? vcpu->machine->xsave_size : sizeof(struct kvm_xsave),
	};

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		if (restore_part(vcpu, wire, &parts[i], problem) < 0)
			return -1;
		if (parts[i].kind == WIRE_XCRS && restore_part(vcpu, wire, &xsave, problem) < 0)
			return -1;
		/* After the APIC, whose base is one of them; before the events that they may raise. */
		if (parts[i].kind == WIRE_LAPIC && restore_msrs(vcpu, wire, problem) < 0)
			return -1;
	}
	return 0;
}
