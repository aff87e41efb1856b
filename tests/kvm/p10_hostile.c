/* SPDX-License-Identifier: MIT */
/*
 * P10: a guest that writes every class of 64-bit value into the clock's registration MSRs, and fights over one page
 * from two vCPUs. Each write ends as vm.h says, #GP or a defined result; the VMM lives; and a clock registered properly
 * afterwards works.
 *
 * Guest: hostile.elf, which logs each write as (MSR, value, took a #GP), and ends with code 0 if its clock works. Host: the same
 * rules, written down here once more. Built with sanitizers, the VMM also shows that nothing outside of guest memory was touched.
 */
#include "live.h"

#include <pvclock/guest.h>
#include <pvclock/interface.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define END_MS 60000
#define WRONG_SHOWN 10u

struct log {
	uint64_t memory_size;
	uint64_t writes, faults, wrong;
	bool judged; /* by the rules of own mode */
	bool steal;  /* ... and of stolen time that the VMM owns */
	bool offered;             /* deadlines, as the VMM does by itself */
	bool on[VMM_VCPUS_MAX];   /* whose are enabled */
};

static bool inside(const struct log *log, uint64_t address, uint64_t size)
{
	return size <= log->memory_size && address <= log->memory_size - size;
}

/* `control`: PVCLOCK_MSR_DEADLINE_CONTROL, else PVCLOCK_MSR_DEADLINE. What is not offered is no MSR. */
static bool must_fault_deadline(struct log *log, unsigned int vcpu, bool control, uint64_t value)
{
	bool on = value & PVCLOCK_CONTROL_ENABLE;

	if (!log->offered || (!control && !log->on[vcpu]))
		return true;
	if (!control)
		return false;
	if ((value & ~(uint64_t)(PVCLOCK_CONTROL_ENABLE | PVCLOCK_CONTROL_VECTOR)) || (on && (value & PVCLOCK_CONTROL_VECTOR) < 16))
		return true;
	log->on[vcpu] = on;
	return false;
}

static bool must_fault(struct log *log, unsigned int vcpu, uint64_t msr, uint64_t value)
{
	if (msr == PVCLOCK_MSR_DEADLINE_CONTROL || msr == PVCLOCK_MSR_DEADLINE)
		return must_fault_deadline(log, vcpu, msr == PVCLOCK_MSR_DEADLINE_CONTROL, value);
	if (msr == PVCLOCK_MSR_WALL_CLOCK || msr == PVCLOCK_MSR_WALL_CLOCK_OLD)
		return value != 0 && (value % 4 != 0 || !inside(log, value, sizeof(struct pvclock_wall_clock)));
	if (msr == PVCLOCK_MSR_STEAL_TIME && (value & 0x3e))
		return true;
	if (!(value & PVCLOCK_MSR_ENABLE))
		return false; /* off, whatever the address */
	value &= ~(uint64_t)PVCLOCK_MSR_ENABLE;
	if (msr == PVCLOCK_MSR_STEAL_TIME)
		return !inside(log, value, sizeof(struct pvclock_steal_page));
	return value % 4 != 0 || !inside(log, value, sizeof(struct pvclock_page));
}

static void take(void *ctx, unsigned int vcpu, const struct vmm_ring_entry *entries, size_t count)
{
	struct log *log = ctx;

	for (size_t i = 0; i < count; i++) {
		bool faulted = entries[i].result != 0;

		log->writes++;
		log->faults += faulted;
		if (!log->judged || (!log->steal && entries[i].tsc == PVCLOCK_MSR_STEAL_TIME) || faulted == must_fault(log, vcpu, entries[i].tsc, entries[i].ns))
			continue;
		if (log->wrong++ < WRONG_SHOWN)
			live_note("vCPU %u: MSR %#llx = %#llx %s", vcpu, (unsigned long long)entries[i].tsc,
				  (unsigned long long)entries[i].ns, faulted ? "took a #GP" : "took none");
	}
}

/* `pvclock`: the VMM has KVM's own clock, and `pvclock run` gives it another; NULL: the VMM does so itself. */
static void attack(struct live *live, const char *mode, const char *pvclock)
{
	struct log log = { .judged = !strcmp(mode, "own"), .steal = !pvclock, .offered = !pvclock };
	char *payload = harness_path("hostile.elf");
	const struct harness_options options = {
		.vmm = live->vmm,
		.payload = payload,
		.mode = pvclock ? "stock" : mode,
		.vcpus = 2,
		.extra = { "--steal", "own" },
		.under = { pvclock, "run", "--mode", mode, "--" },
	};
	struct harness harness;
	uint64_t dropped = 0;
	bool ended;

	ended = harness_start(&harness, &options) == 0;
	if (ended) {
		log.memory_size = harness.memory_size;
		harness.sink = take;
		harness.sink_ctx = &log;
		ended = harness_wait_ended(&harness, END_MS) == 0;
		for (unsigned int i = 0; i < harness.vcpus; i++)
			dropped += atomic_load(&harness.shared->ring[i].head) - harness.taken[i];
	}
	harness_stop(&harness);
	free(payload);
	if (!live_check(live, ended, "P10 %s: the guest comes to its end%s", mode, harness.error))
		return;
	live_check(live, WIFEXITED(harness.exit_status) && WEXITSTATUS(harness.exit_status) == 0,
		   "P10 %s: the VMM lives, and the clock works afterwards: wait status %#x", mode, (unsigned int)harness.exit_status);
	live_check(live, log.writes > 2000 && dropped == 0, "P10 %s: %llu writes, %llu of them #GP", mode,
		   (unsigned long long)log.writes, (unsigned long long)log.faults);
	if (log.judged)
		live_check(live, log.wrong == 0, "P10 %s: each ended as it should: %llu did not", mode,
			   (unsigned long long)log.wrong);
}

int main(int argc, char **argv)
{
	bool preload = argc > 1 && !strcmp(argv[1], "preload");
	const char *pvclock = preload ? getenv("PVCLOCK_COMMAND") : NULL;
	struct live live;

	live_begin(&live);
	if (preload && !pvclock)
		live_check(&live, false, "PVCLOCK_COMMAND names the command");
	attack(&live, "own", pvclock);
	/* There the kernel answers for itself; the guest has to come through all the same. */
	attack(&live, "steer", pvclock);
	return live_end(&live);
}
