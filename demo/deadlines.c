/* SPDX-License-Identifier: MIT */
#include "deadlines.h"

#include <stdlib.h>

static void add(struct lateness *late, uint64_t ns)
{
	if (late->count == late->size) {
		late->size = late->size * 2 + 4096;
		late->ns = realloc(late->ns, late->size * sizeof(*late->ns));
		if (!late->ns)
			abort();
	}
	late->ns[late->count++] = ns;
}

static int order(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

uint64_t lateness_quantile(struct lateness *late, unsigned int percent)
{
	if (late->count == 0)
		return 0;
	qsort(late->ns, late->count, sizeof(*late->ns), order);
	return late->ns[(late->count - 1) * percent / 100];
}

static void count_early(struct deadlines *deadlines, unsigned int vcpu, const struct vmm_ring_entry *entry)
{
	const struct vmm_ring_entry *asked = &deadlines->vcpu[vcpu].asked;
	bool across = entry->version != asked->version;

	if (deadlines->early < DEADLINES_EARLY_MAX)
		deadlines->first[deadlines->early] = (struct deadline_early){
			.vcpu = vcpu, .across = across, .ns = asked->ns - entry->ns, .ticks = asked->tsc ? (int64_t)(entry->tsc - asked->tsc) : 0 };
	deadlines->early++;
	deadlines->early_across += across;
}

static void take_one(struct deadlines *deadlines, unsigned int vcpu, const struct vmm_ring_entry *entry)
{
	const struct vmm_ring_entry *asked = &deadlines->vcpu[vcpu].asked;
	bool across = entry->version != asked->version;

	deadlines->taken++;
	deadlines->vcpu[vcpu].taken++;
	deadlines->across += across;
	if (entry->ns < asked->ns)
		count_early(deadlines, vcpu, entry);
	else
		add(across ? &deadlines->disturbed : &deadlines->quiet, entry->ns - asked->ns);
}

static void count_unpaired(struct deadlines *deadlines, unsigned int vcpu, const struct vmm_ring_entry *entry)
{
	if (deadlines->unpaired < DEADLINES_EARLY_MAX)
		deadlines->first_unpaired[deadlines->unpaired] = (struct deadline_unpaired){
			.vcpu = vcpu, .number = deadlines->vcpu[vcpu].entries, .before = deadlines->vcpu[vcpu].before, .entry = *entry };
	deadlines->unpaired++;
}

static void take_entry(struct deadlines *deadlines, unsigned int vcpu, const struct vmm_ring_entry *entry)
{
	bool asks = entry->result == VMM_DEADLINE_ASKED;

	if (entry->result == VMM_DEADLINE_EARLY && deadlines->vcpu[vcpu].armed) {
		count_early(deadlines, vcpu, entry);
		return;
	}
	if (deadlines->vcpu[vcpu].armed == asks) {
		count_unpaired(deadlines, vcpu, entry);
		return;
	}
	deadlines->vcpu[vcpu].armed = asks;
	if (asks)
		deadlines->vcpu[vcpu].asked = *entry;
	else
		take_one(deadlines, vcpu, entry);
}

void deadlines_take(struct deadlines *deadlines, unsigned int vcpu, const struct vmm_ring_entry *entries, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		take_entry(deadlines, vcpu, &entries[i]);
		deadlines->vcpu[vcpu].before = entries[i];
		deadlines->vcpu[vcpu].entries++;
	}
}

void deadlines_begin(struct deadlines *deadlines)
{
	deadlines->taken = deadlines->early = deadlines->early_across = deadlines->across = deadlines->unpaired = 0;
	deadlines->quiet.count = deadlines->disturbed.count = 0;
}

void deadlines_clear(struct deadlines *deadlines)
{
	free(deadlines->quiet.ns);
	free(deadlines->disturbed.ns);
	*deadlines = (struct deadlines){ 0 };
}
