/* SPDX-License-Identifier: MIT */
/*
 * interface.c - what a pvclock host offers beside KVM's own clock (pvclock/interface.h), to guests whose operator wants
 * them to have it: its leaves are added to the CPUID that the VMM made up. What a guest registers there no VMM carries;
 * it is in the record, and where a VM arrives without one it has registered nothing, as after a reset.
 */
#include "offer_words.h"
#include "preload.h"

#include <pvclock/interface.h>

#include <stdlib.h>
#include <string.h>

#define CPUID_ENTRIES_MAX 256u /* KVM's own limit */

void vm_offer(struct vm *vm)
{
	const char *words = getenv("PVCLOCK_OFFER");
	uint32_t features = 0;

	if (words != NULL && *words != '\0' && !offer_from_words(words, &features))
		say("PVCLOCK_OFFER=%s: there is nothing such to be offered; there are suspend and nested.", words);
	pvclock_vm_offer(vm->clock, features);
}

/* The first base that the VMM has nothing at; 0: it has our leaves itself, or there is none. */
static uint32_t choose_base(const struct kvm_cpuid2 *cpuid)
{
	uint32_t taken = 0, base;

	for (uint32_t i = 0; i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];
		uint32_t number = (entry->function - PVCLOCK_CPUID_FIRST) / PVCLOCK_CPUID_STEP;

		if (entry->function >= PVCLOCK_CPUID_FIRST && number < 32)
			taken |= 1u << number;
		if (entry->ebx == PVCLOCK_CPUID_SIGNATURE_EBX && entry->ecx == PVCLOCK_CPUID_SIGNATURE_ECX)
			return 0;
	}
	for (base = 0; base < 32 && (taken & 1u << base); base++)
		;
	return base < 32 ? PVCLOCK_CPUID_FIRST + base * PVCLOCK_CPUID_STEP : 0;
}

struct kvm_cpuid2 *vm_with_interface(const struct vm *vm, const struct kvm_cpuid2 *cpuid)
{
	struct pvclock_cpuid leaves[PVCLOCK_CPUID_LEAVES];
	uint32_t features = vm_is(vm, PVCLOCK_MODE_OWN) ? pvclock_vm_offered(vm->clock) : 0, base;
	struct kvm_cpuid2 *with;

	if (features == 0 || cpuid->nent > CPUID_ENTRIES_MAX - PVCLOCK_CPUID_LEAVES)
		return NULL;
	base = choose_base(cpuid);
	with = base != 0 ? calloc(1, sizeof(*with) + (cpuid->nent + PVCLOCK_CPUID_LEAVES) * sizeof(with->entries[0])) : NULL;
	if (with == NULL)
		return NULL;
	memcpy(with->entries, cpuid->entries, cpuid->nent * sizeof(with->entries[0]));
	with->nent = cpuid->nent;
	pvclock_interface_cpuid(base, features, pvclock_interface_guest_depth(&vm->os), leaves);
	for (size_t i = 0; i < PVCLOCK_CPUID_LEAVES; i++)
		with->entries[with->nent++] = (struct kvm_cpuid_entry2){ .function = leaves[i].leaf, .eax = leaves[i].eax,
			.ebx = leaves[i].ebx, .ecx = leaves[i].ecx, .edx = leaves[i].edx };
	return with;
}

void vm_take_registrations(struct vm *vm, const struct pvclock_record *record)
{
	struct pvclock_vcpu *first = vm->vcpus[0]->clock;

	if (!vm_is(vm, PVCLOCK_MODE_OWN))
		return;
	pvclock_vcpu_restore_msr(first, PVCLOCK_MSR_SUSPEND_CONTROL, record ? record->suspend_control : 0);
	pvclock_vcpu_restore_msr(first, PVCLOCK_MSR_SUSPEND, record ? record->suspend_msr : 0);
	pvclock_vcpu_restore_msr(first, PVCLOCK_MSR_NESTED_CONTROL, record ? record->nested_control : 0);
	pvclock_vcpu_restore_msr(first, PVCLOCK_MSR_NESTED, record ? record->nested_msr : 0);
}
