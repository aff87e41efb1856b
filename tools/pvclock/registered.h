/* SPDX-License-Identifier: MIT */
/*
 * registered.h - what a Linux guest's kernel has registered with its host, and what the host writes there: by the MSRs of each
 * CPU and the guest's memory, which root may read (/dev/cpu/N/msr, /proc/kcore), and VMClock's device.
 */
#ifndef PVCLOCK_TOOL_REGISTERED_H
#define PVCLOCK_TOOL_REGISTERED_H

#include "pages.h"

#include <pvclock/guest.h>
#include <pvclock/nested.h>
#include <pvclock/vmclock.h>

/* How they are read; a test has its own. Each says whether it could. */
struct access {
	bool (*read_msr)(void *ctx, unsigned int cpu, uint32_t msr, uint64_t *value);
	bool (*read_memory)(void *ctx, uint64_t gpa, void *bytes, size_t size);
	const void *vmclock; /* the page; NULL: there is none */
	void *ctx;
};

/* Something beside the clock that the host tells in memory. */
struct told {
	bool known; /* its MSR could be read */
	uint64_t msr;
	const char *why; /* NULL: it is live; else why not */
};

struct vmclock_view {
	bool found; /* there is such a page */
	const char *why; /* NULL: it is live; else why not */
	struct pvclock_vmclock holds;
	bool rate_known; /* against vCPU 0's page */
	double rate_ppb;
	struct from_raw utc; /* its time in UTC less CLOCK_REALTIME, if known */
	uint64_t max_error_ns;
};

struct registered {
	bool msrs; /* these could be read: then `pages` are those of all vCPUs, and Hyper-V's if it is offered */
	struct shown_page *pages;
	size_t count;
	struct apart apart;
	bool counter_known; /* Hyper-V's, against its page: 0 if it is what the page is between two reads of the TSC */
	uint64_t counter;
	bool counter_compared;
	int64_t counter_off_ns;
	struct told suspend, nested;
	struct pvclock_suspend slept;
	struct pvclock_nested table;
	unsigned int entries[PVCLOCK_NESTED_TABLE + 1]; /* of the nested page, by kind */
	struct vmclock_view vmclock;
};

/* `cpus`: those that there may be. `vdso`: what processes see stands in where the memory cannot be read. */
void look_at_registered(const struct pvclock_os *os, const struct machine *machine, const struct access *access, unsigned int cpus,
			const struct vdso_pages *vdso, struct registered *registered);
void registered_clear(struct registered *registered);

/* --- vmclock_view.c ---------------------------------------------------------------------------------- */

void look_at_vmclock(const struct pvclock_os *os, const void *memory, const struct shown_page *pvclock, struct vmclock_view *view);

/* --- kernel_memory.c: this machine's -------------------------------------------------------------------- */

struct kernel_memory {
	int kcore;
};
void kernel_memory_open(struct kernel_memory *memory, const char *kcore);
void kernel_memory_close(struct kernel_memory *memory);
/* Of /dev/cpu/N/msr; struct access's. */
bool read_cpu_msr(void *ctx, unsigned int cpu, uint32_t msr, uint64_t *value);
/* By the addresses that /proc/kcore gives for memory. `ctx`: struct kernel_memory. */
bool read_kernel_memory(void *ctx, uint64_t gpa, void *bytes, size_t size);
/* /dev/vmclock0 (Linux 6.13), or NULL. It stays. */
const void *map_vmclock(const char *path);

/* --- registered_report.c -------------------------------------------------------------------------------- */

void print_registered(const struct registered *registered);
/* Members "hyperv_counter", "suspend", "nested" and "vmclock" of `object`. */
void set_registered(json_t *object, const struct registered *registered);

#endif
