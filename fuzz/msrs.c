/* SPDX-License-Identifier: MIT */
/*
 * msrs.c (fuzz) - the preload's lists of MSRs: any lists that a VMM may send, against a machine that does them one
 * entry after the other. What KVM has is a table here; the clock's MSRs are the engine's.
 */
#include "input.h"

#include "../tests/fake/kvm.h"
#include "../tools/preload/preload.h"

#include <errno.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ENTRIES 48u
#define KERNEL_MSRS 8u /* 0x100...; what is beyond does not exist */
#define KERNEL_LIMIT 40u

struct list {
	struct kvm_msrs head;
	struct kvm_msr_entry entries[ENTRIES];
};

/* One machine of either kind: the real one behind kernel_ioctl, and the one that says what should be. */
struct machine {
	uint64_t kernel[KERNEL_MSRS], clock[2], tsc, resets;
	bool has_tsc;
};

static struct machine real, expected;
static bool own, stopped;

_Thread_local unsigned int passing;

static uint64_t *find(struct machine *machine, uint32_t msr)
{
	if (msr - 0x100 < KERNEL_MSRS)
		return &machine->kernel[msr - 0x100];
	if (msr == MSR_IA32_TSC)
		return &machine->tsc;
	if (msr == PVCLOCK_MSR_SYSTEM_TIME || msr == PVCLOCK_MSR_SYSTEM_TIME_OLD)
		return &machine->clock[0];
	return msr == PVCLOCK_MSR_WALL_CLOCK || msr == PVCLOCK_MSR_WALL_CLOCK_OLD ? &machine->clock[1] : NULL;
}

/* As Linux does it (__msr_io): entry by entry, up to one that fails. */
static int carry_out(struct machine *machine, bool set, struct kvm_msrs *msrs, bool has_clock)
{
	uint32_t i;

	if (msrs->nmsrs >= KERNEL_LIMIT)
		return -E2BIG;
	for (i = 0; i < msrs->nmsrs; i++) {
		struct kvm_msr_entry *entry = &msrs->entries[i];
		uint64_t *place = find(machine, entry->index);

		if (!place || (!has_clock && (place == &machine->clock[0] || place == &machine->clock[1])))
			break;
		if (!set) {
			entry->data = *place;
			continue;
		}
		*place = entry->data;
		machine->resets += place == &machine->clock[0] && entry->data == 0;
		if (place == &machine->tsc)
			machine->has_tsc = stopped && entry->data != 0;
	}
	return (int)i;
}

/* --- what msrs.c calls ------------------------------------------------------------------------- */

int kernel_ioctl(int fd, unsigned long request, void *arg)
{
	(void)fd;
	if (request == KVM_GET_MSRS || request == KVM_SET_MSRS)
		return carry_out(&real, request == KVM_SET_MSRS, arg, !own);
	return -ENXIO;
}

bool vm_is(const struct vm *vm, enum pvclock_mode mode)
{
	(void)vm;
	return mode == (own ? PVCLOCK_MODE_OWN : PVCLOCK_MODE_STEER);
}

bool gate_close_if_stopped(struct vm *vm)
{
	(void)vm;
	return stopped;
}

void vm_hold(struct vm *vm)
{
	(void)vm;
}

/* A clock that is registered nowhere is a machine that was reset: so is what the VMM knows nothing of. */
void vm_take_registrations(struct vm *vm, const struct pvclock_record *record)
{
	(void)vm;
	check(!record);
	real.resets++;
}

/* --- the lists ------------------------------------------------------------------------------------ */

static void take_list(struct input *input, struct list *list)
{
	static const uint32_t msrs[] = { 0x10, 0x11, 0x12, 0x4b564d00, 0x4b564d01, 0x100, 0x101, 0x107, 0x108, 0xdeadbeef };

	memset(list, 0, sizeof(*list));
	list->head.nmsrs = (uint32_t)take(input, 1) % (ENTRIES + 1);
	for (uint32_t i = 0; i < list->head.nmsrs; i++) {
		uint8_t kind = (uint8_t)take(input, 1);

		/* mostly one that exists: else lists end at once */
		list->entries[i].index = kind < 250 ? msrs[kind % 8] : msrs[kind % 10];
		list->entries[i].data = take(input, kind & 0x40 ? 8 : 1);
	}
}

static uint32_t ours(const struct list *list)
{
	uint32_t count = 0;

	for (uint32_t i = 0; own && i < list->head.nmsrs; i++)
		count += list->entries[i].index >> 8 == 0x4b564d || list->entries[i].index == 0x11 || list->entries[i].index == 0x12;
	return count;
}

/* The engine's registrations against what they should be. */
static void registrations(struct vcpu *vcpu)
{
	uint64_t system_time = 0, wall_clock = 0;

	pvclock_vcpu_read_msr(vcpu->clock, PVCLOCK_MSR_SYSTEM_TIME, &system_time);
	pvclock_vcpu_read_msr(vcpu->clock, PVCLOCK_MSR_WALL_CLOCK_OLD, &wall_clock);
	check(!own || (system_time == expected.clock[0] && wall_clock == expected.clock[1]));
	check(own || memcmp(real.clock, expected.clock, sizeof(real.clock)) == 0);
	check(memcmp(real.kernel, expected.kernel, sizeof(real.kernel)) == 0);
	check(real.resets == expected.resets);
	check(vcpu->has_tsc == expected.has_tsc && (!vcpu->has_tsc || vcpu->tsc == expected.tsc));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	struct fake_kvm fake;
	struct vm vm = { .object = { OBJECT_VM, 3, 0 } };
	struct vcpu vcpu = { .object = { OBJECT_VCPU, FAKE_VCPU_FD, 0 }, .vm = &vm }, *vcpus[] = { &vcpu };
	struct pvclock_kvm_config config = { .os = &fake.os, .vm_fd = 3 };
	uint8_t flags = (uint8_t)take(&input, 1);

	own = flags & 1;
	stopped = flags & 2;
	memset(&real, 0, sizeof(real));
	memset(&expected, 0, sizeof(expected));
	fake_kvm_init(&fake, 1);
	pthread_mutex_init(&vm.lock, NULL);
	config.mode = own ? PVCLOCK_MODE_OWN : PVCLOCK_MODE_STEER;
	if (pvclock_vm_create(&fake.os, &vm.clock) || pvclock_vcpu_create(vm.clock, 0, &vcpu.clock))
		abort();
	config.vm = vm.clock;
	if (pvclock_kvm_attach(&config, &vm.kvm, NULL) || pvclock_kvm_add_vcpu(vm.kvm, vcpu.clock, FAKE_VCPU_FD))
		abort();
	vm.vcpus = vcpus;
	vm.vcpu_count = 1;
	while (input.size > 0) {
		bool set = take(&input, 1) & 1;
		struct list list, should;
		uint32_t fewer;
		int count, right;

		take_list(&input, &list);
		should = list;
		/* Without the clock's a list may just fit, and is then done: more than KVM itself would do. */
		fewer = ours(&list);
		if (list.head.nmsrs >= KERNEL_LIMIT && list.head.nmsrs - fewer < KERNEL_LIMIT)
			continue;
		right = carry_out(&expected, set, &should.head, true);
		count = set ? vcpu_set_msrs(&vcpu, &list.head) : vcpu_get_msrs(&vcpu, &list.head);
		check(count == right);
		check(set || right < 0 || memcmp(&list, &should, sizeof(list)) == 0);
		registrations(&vcpu);
	}
	pvclock_kvm_remove_vcpu(vm.kvm, vcpu.clock);
	pvclock_kvm_detach(vm.kvm);
	pvclock_vcpu_destroy(vcpu.clock);
	pvclock_vm_destroy(vm.clock);
	pthread_mutex_destroy(&vm.lock);
	return 0;
}
