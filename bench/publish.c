/* SPDX-License-Identifier: MIT */
/* publish.c - P11: publishing to all vCPUs is linear in their number. */
#include "bench.h"

#include <pvclock/vm.h>
#include <stdlib.h>
#include <string.h>

#define FEW 16
#define MANY 4096
#define RUNS 101
#define STRIDE 64 /* a page and a cache line each, as Linux guests have it */

struct machine {
	struct pvclock_vm *vm;
	struct pvclock_vcpu **vcpus;
	uint8_t *memory;
	unsigned int count;
};

static void machine_destroy(struct machine *machine)
{
	for (unsigned int i = 0; machine->vcpus && i < machine->count; i++)
		if (machine->vcpus[i])
			pvclock_vcpu_destroy(machine->vcpus[i]);
	if (machine->vm)
		pvclock_vm_destroy(machine->vm);
	free(machine->vcpus);
	free(machine->memory);
}

static bool machine_create(struct machine *machine, unsigned int count)
{
	const struct pvclock_os *os = pvclock_os_linux();
	struct pvclock_slope slope;
	size_t size = ((size_t)count * STRIDE + 4096) & ~(size_t)4095;

	memset(machine, 0, sizeof(*machine));
	machine->count = count;
	machine->vcpus = calloc(count, sizeof(struct pvclock_vcpu *));
	machine->memory = aligned_alloc(4096, size);
	if (!machine->vcpus || !machine->memory || pvclock_vm_create(os, &machine->vm) != 0)
		return false;
	memset(machine->memory, 0, size);
	if (pvclock_vm_add_memory(machine->vm, (struct pvclock_gpa){ 0 }, size, machine->memory, 0) != 0)
		return false;
	for (unsigned int i = 0; i < count; i++)
		if (pvclock_vcpu_create(machine->vm, i, &machine->vcpus[i]) != 0)
			return false;
	if (!pvclock_slope_from_khz(2600000, &slope) ||
	    pvclock_vm_start(machine->vm, os->ops->read_tsc(os->ctx), 0, &slope) != 0)
		return false;
	for (unsigned int i = 0; i < count; i++)
		if (pvclock_vcpu_write_msr(machine->vcpus[i], PVCLOCK_MSR_SYSTEM_TIME,
					   (uint64_t)i * STRIDE | PVCLOCK_MSR_ENABLE) != 0)
			return false;
	return pvclock_vm_publish(machine->vm) == count;
}

/* Ticks for MANY pages, whatever the number of vCPUs. */
static double publish(const struct machine *machine)
{
	double began = bench_ticks();

	for (unsigned int i = 0; i < MANY / machine->count; i++)
		bench_use(pvclock_vm_publish(machine->vm));
	return (bench_ticks() - began) / MANY;
}

void bench_publish(struct bench *bench)
{
	const struct limit limit = { 2.0, 2.0 };
	static double few_samples[RUNS], many_samples[RUNS];
	struct machine few = { 0 }, many = { 0 };

	if (!machine_create(&few, FEW) || !machine_create(&many, MANY)) {
		bench_figure(bench, "publish_4096_per_16_vcpus", 1.0 / 0.0, limit, "the VMs could not be made");
	} else {
		double few_median, many_median;

		for (unsigned int run = 0; run < RUNS; run++) {
			few_samples[run] = publish(&few);
			many_samples[run] = publish(&many);
		}
		few_median = bench_median(few_samples, RUNS);
		many_median = bench_median(many_samples, RUNS);
		bench_figure(bench, "publish_4096_per_16_vcpus", many_median / few_median, limit,
			     "%.1f to %.1f ticks a vCPU", many_median, few_median);
	}
	machine_destroy(&few);
	machine_destroy(&many);
}
