/* SPDX-License-Identifier: MIT */
#include "cost.h"
#include "probe.h"

#include <inttypes.h>
#include <stdio.h>

int probe_once(struct probe *probe, double seconds)
{
	struct page_entry page;
	struct pages_totals lines;
	struct watch_totals totals;
	struct rate rate = measure_rate(probe->clocks, seconds);
	struct cost cost = measure_cost();

	totals = watch_totals(&probe->watch);
	printf("CPUs          %u, %" PRIu64 " readings of each clock\n", watch_running(&probe->watch), totals.samples);
	printf("steps back    %" PRIu64 " on one CPU, %" PRIu64 " from one CPU to another, the worst %" PRIu64 " ns\n",
	       totals.within, totals.between, totals.worst_ns);
	if (pages_now(&probe->pages, &page)) {
		lines = pages_totals(&probe->pages);
		printf("page          version %" PRIu32 "%s: %" PRIu64 " ns at tick %" PRIu64 ", mul %" PRIu32
		       ", shift %d\n",
		       page.snapshot.version, page.snapshot.flags & PVCLOCK_TSC_STABLE ? ", stable" : ", not stable",
		       page.snapshot.line.ns, page.snapshot.line.tsc, page.snapshot.line.mul,
		       page.snapshot.line.shift);
		printf("lines         %" PRIu32 ", the worst difference %" PRId64 " ns; rewritten without one %" PRIu64
		       " times\n",
		       lines.lines, lines.worst_jump, lines.rewrites);
	} else {
		printf("page          none: see pvclock guest\n");
	}
	if (rate.known)
		printf("rate          %.12f ns a tick, to %.1f ppb, over %.3f s\n", rate.ns_per_tick, rate.error_ppb,
		       rate.seconds);
	printf("clock_gettime %.0f ticks, as a system call %.0f; a TSC read %.0f: %s\n", cost.vdso, cost.syscall,
	       cost.rdtsc, cost.answered ? "the vDSO answers" : "the vDSO does not answer");
	return totals.within + totals.between != 0;
}
