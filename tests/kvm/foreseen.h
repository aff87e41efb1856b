/* SPDX-License-Identifier: MIT */
/*
 * foreseen.h - what `pvclock preflight` says of a snapshot before it is restored, held against what the VMM says that it did and
 * what the guest then reads.
 */
#ifndef TESTS_KVM_FORESEEN_H
#define TESTS_KVM_FORESEEN_H

#include "live.h"

struct foreseen {
	char name[64];
	json_t *plan;
	int64_t asked_ms, told_ms;   /* the host's clocks were read in between */
	int64_t begun_ms, ended_ms;  /* of the restore; so they were there */
};

/* Asks. False: a failed check. foreseen_clear is needed in both cases. */
bool foresee(struct live *live, struct foreseen *foreseen, const char *file, const char *mode, const char *as, const char *policy);
/*
 * After the restore: `restored` is the VMM's account of it, `guest` what the first vCPU reads, `limit_ns` what the mode may miss.
 */
void foreseen_check(struct live *live, const struct foreseen *foreseen, const json_t *restored, const struct judge_vcpu *guest,
		    int64_t limit_ns);
void foreseen_clear(struct foreseen *foreseen);

/* How far a line of this slope gets in so many ticks, cut off. */
int64_t ticks_in_ns(const struct pvclock_line *line, int64_t ticks);

#endif
