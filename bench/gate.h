/* SPDX-License-Identifier: MIT */
/* gate.h - the two halves of the preload's bench. */
#ifndef PVCLOCK_BENCH_GATE_H
#define PVCLOCK_BENCH_GATE_H

#include "bench.h"

/* What the preload does on the way into KVM_RUN and out again, with a KVM that does nothing. */
void bench_gate(struct bench *bench);
/* What a copy of this program does in the two processes of the other half. Its exit code. */
int bench_exits_worker(void);

#endif
