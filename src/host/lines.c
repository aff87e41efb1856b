/* SPDX-License-Identifier: MIT */
/*
 * lines.c - one line per VM, and what each vCPU reads of it: coordinates, derived; and whether one line serves them
 * all (P4).
 */
#include "vm.h"
#include "reason.h"

/* The stable bit says that one line serves all vCPUs' TSCs (P4): the same ratio, the same offset, no imitation. */
void pvclock_vm_judge_stability(struct pvclock_vm *vm)
{
	const struct pvclock_vcpu *first = vm->vcpu_count ? vm->vcpus[0] : NULL;
	size_t i;

	vm->unstable = (struct pvclock_reason){ .code = PVCLOCK_REASON_NONE };
	if (!vm->has_line) {
		pvclock_reason_set(&vm->unstable, PVCLOCK_REASON_NO_LINE,
				   "The VM has no line yet: start or restore it; where the kernel publishes, it is learnt at the "
				   "first pause.");
		return;
	}
	vm->unstable = vm->declared;
	for (i = 0; i < vm->vcpu_count && vm->unstable.code == PVCLOCK_REASON_NONE; i++) {
		const struct pvclock_vcpu *vcpu = vm->vcpus[i];

		if (vcpu->catchup)
			pvclock_reason_set(&vm->unstable, PVCLOCK_REASON_TSC_CATCHUP,
					   "vCPU %u's TSC is imitated by the kernel's catch-up and is no line; "
					   "give the VM a TSC rate that this host runs.", vcpu->index);
		else if (!tsc_same_rate(&vcpu->tsc, &first->tsc))
			pvclock_reason_set(&vm->unstable, PVCLOCK_REASON_TSC_RATES_DIFFER,
					   "vCPUs %u and %u have different TSC ratios; give all vCPUs one TSC rate.",
					   first->index, vcpu->index);
		else if (vcpu->tsc.offset != first->tsc.offset)
			pvclock_reason_set(&vm->unstable, PVCLOCK_REASON_TSC_OFFSETS_DIFFER,
					   "vCPUs %u and %u have TSC offsets that differ by %lld ticks; "
					   "set all offsets alike.", first->index, vcpu->index,
					   (long long)(vcpu->tsc.offset - first->tsc.offset));
	}
}

/* ns per host tick of a clock that has `guest` per guest tick: the ratio, multiplied in and rounded to 64 bits. */
static struct pvclock_slope slope_to_host(const struct pvclock_slope *guest, const struct pvclock_tsc_transform *tsc)
{
	unsigned __int128 product = (unsigned __int128)guest->mantissa * tsc->ratio;
	int exponent = guest->exponent - tsc->frac_bits;

	if (tsc->frac_bits == 0)
		return *guest;
	while (product >> 64) {
		product = (product >> 1) + (product & 1);
		exponent++;
	}
	while (!((uint64_t)product >> 63)) {
		product <<= 1;
		exponent--;
	}
	return (struct pvclock_slope){ .mantissa = (uint64_t)product, .exponent = (int16_t)exponent };
}

void pvclock_vm_set_line(struct pvclock_vm *vm, const struct pvclock_line *line, const struct pvclock_tsc_transform *reference,
		 const struct pvclock_slope *host)
{
	struct pvclock_slope slope;
	size_t i;

	vm->line = *line;
	vm->reference = *reference;
	vm->has_line = true;
	if (host)
		vm->host = *host;
	else if (pvclock_slope_from_line(line, &slope))
		vm->host = slope_to_host(&slope, reference);
	for (i = 0; i < vm->vcpu_count; i++)
		vm->vcpus[i]->synced = false;
	pvclock_vm_judge_stability(vm);
}

uint64_t pvclock_vm_system_time(struct pvclock_vm *vm, struct pvclock_host_tsc at)
{
	return pvclock_line_ns(&vm->line, pvclock_tsc_to_guest(&vm->reference, at).ticks);
}

/* The first host tick at which `transform` reads at least `guest`. */
static struct pvclock_host_tsc tsc_to_host(const struct pvclock_tsc_transform *transform, uint64_t guest)
{
	uint64_t scaled = guest - transform->offset;
	unsigned __int128 wide = (unsigned __int128)scaled << transform->frac_bits;

	if (transform->frac_bits == 0)
		return (struct pvclock_host_tsc){ scaled };
	return (struct pvclock_host_tsc){ (uint64_t)((wide + transform->ratio - 1) / transform->ratio) };
}

const struct pvclock_line *pvclock_vcpu_line(struct pvclock_vcpu *vcpu)
{
	struct pvclock_vm *vm = vcpu->vm;

	if (vcpu->synced)
		return &vcpu->line;
	if (tsc_same_rate(&vcpu->tsc, &vm->reference)) {
		vcpu->line = vm->line;
		pvclock_line_shift(&vcpu->line, (int64_t)(vcpu->tsc.offset - vm->reference.offset));
	} else {
		struct pvclock_host_tsc at = tsc_to_host(&vm->reference, vm->line.tsc);

		if (!pvclock_line_compose(&vcpu->tsc, at, vm->line.ns, &vm->host, &vcpu->line, NULL))
			vcpu->line = (struct pvclock_line){ .ns = vm->line.ns };
	}
	vcpu->synced = true;
	return &vcpu->line;
}
