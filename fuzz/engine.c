/* SPDX-License-Identifier: MIT */
/*
 * engine.c - a hostile guest and a careless VMM: any sequence of registrations, memory changes, TSC changes and
 * events. ASan watches the guest's memory; a page that can be read must be the vCPU's line.
 */
#include "input.h"

#include "../tests/fake/still.h"

#include <pvclock/hyperv.h>
#include <pvclock/interface.h>
#include <pvclock/record.h>
#include <pvclock/vm.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REGIONS 3
#define REGION_SIZE 256u
#define HYPERV_GPA 0x5000u /* a page that only Hyper-V's clock is asked for */
#define VCPUS 2

/* An address near something that matters, or any at all. */
static uint64_t take_gpa(struct input *input)
{
	static const uint64_t bases[] = { 0, 0x1000, 0x1000 + REGION_SIZE, 0xfee00000, UINT64_MAX - 255 };
	uint8_t kind = (uint8_t)take(input, 1);

	if (kind >= 5 * 32)
		return take(input, 8);
	return bases[kind % 5] + take(input, 2) % (REGION_SIZE + 32) - 16;
}

/* A thread that waits, and another at each step. */
static ssize_t read_schedstat(void *ctx, const char *path, char *text, size_t size)
{
	(void)path;
	return snprintf(text, size, "1 %llu 1\n", (unsigned long long)(*(uint64_t *)ctx * 0x9e3779b97f4a7c15));
}

/* Any word of the kernel's, and another one at each step. */
static int adjtimex_any(void *ctx, struct timex *status)
{
	uint64_t word = *(uint64_t *)ctx * 0x9e3779b97f4a7c15;

	status->freq = (long)(int32_t)word;
	status->tick = (long)(word >> 50) - 100;
	status->maxerror = status->esterror = (long)(word >> 20 & 0xffffff);
	status->tolerance = (long)(int16_t)(word >> 8);
	status->tai = (int)(int8_t)(word >> 40);
	status->status = (int)(word & 0xff);
	return (int)(word >> 48) % 8 - 1;
}

/* What a guest that did not write there finds is a page, whoever told the host what. */
static void look_at_vmclock(struct pvclock_vm *vm)
{
	struct pvclock_vmclock_update said;
	struct pvclock_vmclock_time time;

	if (pvclock_vm_update_vmclock(vm, &said))
		return;
	if (said.page.time_type > PVCLOCK_VMCLOCK_TAI || said.page.status > PVCLOCK_VMCLOCK_UNRELIABLE || said.next_ns == 0 || said.next_ns > 1000000000)
		abort();
	if (said.page.status == PVCLOCK_VMCLOCK_SYNCHRONIZED && said.page.period >> 63 == 0)
		abort();
	if (pvclock_vmclock_reliable(&said.page) && !pvclock_vm_stable(vm, NULL))
		abort();
	pvclock_vmclock_at(&said.page, said.page.counter, &time);
	if (time.sec != said.page.sec || time.frac != said.page.frac)
		abort();
}

/* Whatever the guest has armed on whatever line: due is what its own clock has reached; else the wait leads there. */
static void fire(struct pvclock_vcpu *vcpu, struct pvclock_host_tsc now)
{
	struct pvclock_tsc_transform transform;
	struct pvclock_deadline deadline;
	uint64_t armed = 0, control = 0;
	struct pvclock_line line;
	bool due, known;

	pvclock_vcpu_read_msr(vcpu, PVCLOCK_MSR_DEADLINE, &armed);
	pvclock_vcpu_read_msr(vcpu, PVCLOCK_MSR_DEADLINE_CONTROL, &control);
	pvclock_vcpu_get_tsc(vcpu, &transform);
	known = pvclock_vcpu_get_line(vcpu, &line) == 0;
	due = pvclock_vcpu_take_deadline(vcpu, now, &deadline);
	if (due != (known && armed && pvclock_line_ns(&line, pvclock_tsc_to_guest(&transform, now).ticks) >= armed))
		abort();
	if (due ? deadline.wait_ns != 0 || deadline.vector != (control & PVCLOCK_CONTROL_VECTOR) : deadline.wait_ns == 0)
		abort();
	if ((deadline.at.ticks == UINT64_MAX) != (deadline.wait_ns == UINT64_MAX))
		abort();
}

static const uint32_t hyperv_msrs[] = {
	PVCLOCK_HYPERV_MSR_TIME_REF_COUNT, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PVCLOCK_HYPERV_MSR_TSC_FREQUENCY,
		PVCLOCK_HYPERV_MSR_APIC_FREQUENCY,
	PVCLOCK_HYPERV_MSR_REENLIGHTENMENT_CONTROL, PVCLOCK_HYPERV_MSR_TSC_EMULATION_CONTROL,
		PVCLOCK_HYPERV_MSR_TSC_EMULATION_STATUS,
	PVCLOCK_HYPERV_MSR_TSC_INVARIANT_CONTROL,
};

/* -1 - e < time - ns / 100 < 1.02 + e, e = tick / 2^65 (docs/hyperv.md) */
static bool within(uint64_t time, uint64_t ns, uint64_t tick)
{
	__int128 apart = ((__int128)time * 100 - (__int128)ns) * ((__int128)1 << 65), e = (__int128)100 * tick;

	return apart > -((__int128)100 << 65) - e && apart < ((__int128)102 << 65) + e;
}

/* What a record says of Hyper-V's clock is what it says again. */
static void save_and_restore(struct pvclock_vm *vm)
{
	struct pvclock_record record, again;

	if (pvclock_vm_pause(vm) == 0 && pvclock_record_capture(vm, &record) == 0) {
		if (pvclock_vm_restore_hyperv(vm, &record) || pvclock_record_capture(vm, &again))
			abort();
		if (record.hyperv.scale != again.hyperv.scale || record.hyperv.offset != again.hyperv.offset ||
		    record.hyperv_sequence != again.hyperv_sequence ||
			    record.hyperv_emulation_status != again.hyperv_emulation_status)
			abort();
		pvclock_record_clear(&record);
		pvclock_record_clear(&again);
	}
	pvclock_vm_resume(vm);
}

/* A page that is a clock is the counter, and both agree with the line, from its anchor on and before it saturates. */
static void check_hyperv(struct pvclock_vcpu *vcpu, const uint8_t *page, uint64_t *tsc)
{
	struct pvclock_tsc_transform transform;
	struct pvclock_hyperv_snapshot snapshot;
	uint64_t on = 0, counter, tick, ns;
	struct pvclock_line line;

	pvclock_vcpu_read_msr(vcpu, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, &on);
	if (on != (HYPERV_GPA | 1))
		return;
	if (pvclock_vcpu_read_msr(vcpu, PVCLOCK_HYPERV_MSR_TIME_REF_COUNT, &counter))
		abort();
	pvclock_vcpu_get_tsc(vcpu, &transform);
	tick = pvclock_tsc_to_guest(&transform, (struct pvclock_host_tsc){ *tsc }).ticks;
	if (pvclock_hyperv_page_read(page, &snapshot) != PVCLOCK_READ_OK || pvclock_vcpu_get_line(vcpu, &line))
		return;
	if (pvclock_hyperv_time(&snapshot.hyperv, tick) != counter)
		abort();
	ns = pvclock_line_ns(&line, tick);
	/* modulo 2^64: no such time was ever, and the arithmetic above has no such numbers */
	if (tick >= line.tsc && ns != UINT64_MAX && (int64_t)counter >= 0 && ns > 100 && !within(counter, ns, tick))
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint32_t msrs[] = { PVCLOCK_MSR_SYSTEM_TIME, PVCLOCK_MSR_SYSTEM_TIME_OLD, PVCLOCK_MSR_WALL_CLOCK,
					 PVCLOCK_MSR_WALL_CLOCK_OLD, PVCLOCK_MSR_DEADLINE_CONTROL, PVCLOCK_MSR_DEADLINE,
					 PVCLOCK_MSR_SUSPEND_CONTROL, PVCLOCK_MSR_SUSPEND, PVCLOCK_MSR_STEAL_TIME,
					 PVCLOCK_MSR_NESTED_CONTROL, PVCLOCK_MSR_NESTED };
	uint64_t tsc = 1ull << 40;
	const struct pvclock_os_ops ops = { .read_tsc = still_read_tsc, .clock_gettime = still_gettime, .read_file = read_schedstat, .adjtimex = adjtimex_any };
	const struct pvclock_os os = { .ops = &ops, .ctx = &tsc };
	struct input input = { data, size };
	struct pvclock_vcpu *vcpus[VCPUS];
	struct pvclock_slope slope;
	uint8_t dirty[2 * REGION_SIZE / 8];
	struct pvclock_vm *vm;
	uint8_t *memory[REGIONS], *page;
	int i;

	if (pvclock_vm_create(&os, &vm))
		abort();
	for (i = 0; i < REGIONS; i++)
		memory[i] = calloc(1, REGION_SIZE); /* blocks of their own, so that ASan sees every byte outside */
	for (i = 0; i < VCPUS; i++)
		pvclock_vcpu_create(vm, (uint32_t)i, &vcpus[i]);
	pvclock_slope_from_kernel(6462414, 24, &slope);
	pvclock_vm_offer(vm, PVCLOCK_FEATURES);
	pvclock_vm_own_steal(vm, true);
	pvclock_vm_offer_hyperv(vm, PVCLOCK_HYPERV_FEATURES, 1000000000);
	page = calloc(1, sizeof(struct pvclock_hyperv_page)); /* nothing beside it */
	pvclock_vm_add_memory(vm, (struct pvclock_gpa){ HYPERV_GPA }, sizeof(struct pvclock_hyperv_page), page, 0);
	while (input.size > 0) {
		uint8_t op = (uint8_t)take(&input, 1);
		struct pvclock_vcpu *vcpu = vcpus[op >> 7];
		struct pvclock_tsc_transform transform = { 0 };
		struct pvclock_line line;
		uint64_t value;

		switch (op % 19) {
		case 0:
		case 1:
		case 2:
			value = take_gpa(&input);
			pvclock_vcpu_write_msr(vcpu, msrs[(op >> 4) % 11], value);
			break;
		case 3:
			value = take_gpa(&input);
			pvclock_vcpu_restore_msr(vcpu, msrs[(op >> 4) % 11], value);
			break;
		case 4:
		case 5:
			i = (op >> 4) % REGIONS;
			value = take_gpa(&input);
			pvclock_vm_add_memory(vm, (struct pvclock_gpa){ value }, 1 + take(&input, 1), memory[i], op >> 7);
			break;
		case 6:
			value = take_gpa(&input);
			pvclock_vm_remove_memory(vm, (struct pvclock_gpa){ value }, 1 + take(&input, 1));
			break;
		case 7:
			transform.offset = take(&input, 8);
			transform.frac_bits = (uint8_t)take(&input, 1);
			transform.ratio = take(&input, 8);
			pvclock_vcpu_set_tsc(vcpu, &transform, op >> 6 & 1);
			break;
		case 8:
			slope.mantissa = take(&input, 8);
			slope.exponent = (int16_t)take(&input, 2);
			pvclock_vm_start(vm, (struct pvclock_host_tsc){ take(&input, 8) }, take(&input, 8), &slope);
			break;
		case 9:
			line.tsc = take(&input, 8);
			line.ns = take(&input, 8);
			line.mul = (uint32_t)take(&input, 4);
			line.shift = (int8_t)take(&input, 1);
			pvclock_vcpu_set_line(vcpu, &line);
			break;
		case 10:
			pvclock_vcpu_set_thread(vcpu, op >> 6 & 1);
			pvclock_vm_update_steal(vm);
			break;
		case 11:
			pvclock_vm_pause(vm);
			pvclock_vm_resume(vm);
			break;
		case 12:
			fire(vcpu, (struct pvclock_host_tsc){ take(&input, 8) });
			break;
		case 13:
			value = op >> 7 ? HYPERV_GPA | 1 : take(&input, 8);
			pvclock_vcpu_write_msr(vcpu, op >> 7 ? PVCLOCK_HYPERV_MSR_REFERENCE_TSC : hyperv_msrs[take(&input, 1) % 8],
					       value);
			break;
		case 14:
			value = take(&input, 1) % 4 | (take(&input, 1) & 0xf0) << 12 | take(&input, 1);
			pvclock_vcpu_write_msr(vcpu, hyperv_msrs[4 + (op >> 6)], value);
			break;
		case 15:
			if (op >> 6)
				pvclock_vcpu_restore_msr(vcpu, hyperv_msrs[(op >> 5) % 8], take(&input, 8));
			else
				save_and_restore(vm);
			break;
		case 16:
			value = take_gpa(&input);
			pvclock_vm_set_vmclock(vm, (struct pvclock_gpa){ value & ~7ull }, take(&input, 1) + 16, op >> 7);
			break;
		case 17:
			if (op >> 6 & 1)
				pvclock_vm_disrupt(vm, op >> 7);
			look_at_vmclock(vm);
			break;
		default:
			pvclock_vm_take_dirty(vm, (struct pvclock_gpa){ take_gpa(&input) & ~0xfffull },
					      take(&input, 2) % (sizeof(dirty) * 8 * 4096), dirty);
			i = (op >> 4) % REGIONS; /* the guest scribbles */
			memset(memory[i], (int)take(&input, 1), REGION_SIZE);
			pvclock_vm_publish(vm);
		}
		for (i = 0; i < VCPUS; i++) {
			struct pvclock_line of_vcpu;

			if (pvclock_vcpu_get_line(vcpus[i], &of_vcpu) == 0)
				pvclock_line_ns(&of_vcpu, tsc);
		}
		check_hyperv(vcpus[0], page, &tsc);
	}
	for (i = 0; i < VCPUS; i++)
		pvclock_vcpu_destroy(vcpus[i]);
	pvclock_vm_destroy(vm);
	for (i = 0; i < REGIONS; i++)
		free(memory[i]);
	free(page);
	return 0;
}
