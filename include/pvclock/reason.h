/* SPDX-License-Identifier: MIT */
/*
 * reason.h - why: every refusal and every loss of precision is an enum for programs and a
 * sentence for people, which names the thing and the way out.
 */
#ifndef PVCLOCK_REASON_H
#define PVCLOCK_REASON_H

#ifdef __cplusplus
extern "C" {
#endif

enum pvclock_reason_code {
	PVCLOCK_REASON_NONE = 0,

	/* the host has no line (source.h) */
	PVCLOCK_REASON_CLOCKSOURCE,       /* the host kernel keeps time by something that is no line of the TSC */
	PVCLOCK_REASON_TSC_NOT_INVARIANT, /* CPUID 0x80000007.EDX bit 8 is clear */
	PVCLOCK_REASON_TSC_BACKWARDS,     /* two samples contradict each other's order */
	PVCLOCK_REASON_SLOPE_UNPROVEN,    /* more than one kernel slope still fits the samples: wait */
	PVCLOCK_REASON_SLOPE_MISFIT,      /* no kernel slope fits the samples, or no longer */
	PVCLOCK_REASON_OS,                /* the OS refused a call; the sentence says which */

	/* the page is not stable (vm.h) */
	PVCLOCK_REASON_TSC_OFFSETS_DIFFER, /* two vCPUs have different TSC offsets */
	PVCLOCK_REASON_TSC_RATES_DIFFER,   /* two vCPUs have different TSC ratios */
	PVCLOCK_REASON_TSC_CATCHUP,        /* the kernel imitates a faster TSC in software */
	PVCLOCK_REASON_NO_LINE,            /* the VM has no line yet */

	/* KVM cannot do what was asked (kvm.h) */
	PVCLOCK_REASON_NO_MSR_FILTER,     /* KVM_CAP_X86_MSR_FILTER / USER_SPACE_MSR missing: no own mode */
	PVCLOCK_REASON_MSR_FILTER_FULL,   /* the VMM's filter leaves no range for ours */
	PVCLOCK_REASON_NO_MASTER_CLOCK,   /* KVM's master clock is off: no steer mode */
	PVCLOCK_REASON_STEER_RESIDUAL,    /* the kernel's clock could not be aimed to 1 ns */
	PVCLOCK_REASON_OFFSET_IGNORED,    /* KVM accepted a TSC offset and did not apply it */

	/* the record is refused (record.h) */
	PVCLOCK_REASON_RECORD_TRUNCATED,
	PVCLOCK_REASON_RECORD_MAGIC,
	PVCLOCK_REASON_RECORD_VERSION,
	PVCLOCK_REASON_RECORD_CHECKSUM,
	PVCLOCK_REASON_RECORD_FIELD, /* a field is out of its range, or contradicts another */
	PVCLOCK_REASON_VCPU_COUNT,   /* the VM has not the record's vCPUs */
	PVCLOCK_REASON_OTHER_HOST,   /* the record was made on another host, or another boot of this one */

	PVCLOCK_REASON_COUNT_
};

#define PVCLOCK_REASON_TEXT 240

struct pvclock_reason {
	enum pvclock_reason_code code;
	char text[PVCLOCK_REASON_TEXT]; /* one sentence, NUL-terminated; empty for NONE */
};

/* The code's name for programs and JSON, in lower case with dashes: "tsc-offsets-differ". Never NULL. */
const char *pvclock_reason_name(enum pvclock_reason_code code);

#ifdef __cplusplus
}
#endif
#endif
