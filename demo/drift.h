/* SPDX-License-Identifier: MIT */
/*
 * drift.h - measures the guest's clock against the host's CLOCK_MONOTONIC_RAW, with the error of the measurement.
 *
 * A sample is (TSC, RAW, TSC), many times within a few milliseconds. Each bracket says that RAW's value belongs to a
 * tick between its two, so RAW minus the guest's clock lies between two bounds; the sample keeps what all brackets
 * leave. Two samples far apart then bound the drift, and half of what they leave open is the error.
 */
#ifndef DEMO_DRIFT_H
#define DEMO_DRIFT_H

#include "shared.h"

#include <pvclock/line.h>
#include <pvclock/os.h>

struct drift_sample {
	uint64_t raw_ns;
	int64_t low_ns, high_ns; /* of RAW minus the guest's clock */
};

/*
 * The guest's clock at a tick is what it read at the nearest tick (`reading`), carried there by the line it lies on.
 * Guest TSC = host TSC + tsc_offset. 0, or -errno of clock_gettime.
 */
int drift_sample(const struct pvclock_os *os, const struct pvclock_line *line, const struct vmm_ring_entry *reading,
		 uint64_t tsc_offset, struct drift_sample *sample);

/*
 * How much faster than RAW the guest's clock ran from one sample to the other, in ppb, and the error (+-). moved_ns: by how much
 * its line was moved in between; that is the jumps' business and no drift.
 */
void drift_between(const struct drift_sample *start, const struct drift_sample *end, int64_t moved_ns, double *ppb,
		   double *error_ppb);

#endif
