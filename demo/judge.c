/* SPDX-License-Identifier: MIT */
#include "judge.h"

#include <stdlib.h>
#include <string.h>

#include <pvclock/page.h>

#define QUEUE_MAX ((size_t)1 << 21)   /* readings kept back per vCPU while another one is behind */
#define BUCKETS_MAX ((size_t)1 << 16) /* 20 minutes of picture */

void judge_init(struct judge *judge, unsigned int vcpus)
{
	memset(judge, 0, sizeof(*judge));
	judge->vcpus = vcpus < VMM_VCPUS_MAX ? vcpus : VMM_VCPUS_MAX;
}

void judge_clear(struct judge *judge)
{
	for (unsigned int i = 0; i < judge->vcpus; i++)
		free(judge->vcpu[i].queue);
	free(judge->events);
	free(judge->buckets);
	memset(judge, 0, sizeof(*judge));
}

static uint64_t magnitude(int64_t value)
{
	return value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
}

/* a - b as the signed number that it is; the two are never 292 years apart unless the clock is broken, and then it shows. */
static int64_t difference(uint64_t a, uint64_t b)
{
	return (int64_t)(a - b);
}

static void take_jump(struct judge *judge, uint64_t ns, int64_t jump, bool announced)
{
	if (magnitude(jump) > magnitude(judge->jump_max))
		judge->jump_max = jump == INT64_MIN ? INT64_MAX : (int64_t)magnitude(jump);
	if (!announced)
		judge->unannounced++;
	if (judge->event_count == judge->event_size) {
		size_t size = judge->event_size ? 2 * judge->event_size : 64;
		struct judge_event *events = realloc(judge->events, size * sizeof(*events));

		if (!events)
			return; /* the maximum above has it */
		judge->events = events;
		judge->event_size = size;
	}
	judge->events[judge->event_count++] = (struct judge_event){
		.seconds = (double)difference(ns, judge->start_ns) / 1e9,
		.jump_ns = jump,
		.announced = announced,
	};
}

static void trace(struct judge *judge, uint64_t ideal_ns, int64_t residual)
{
	size_t index;

	if (ideal_ns < judge->start_ns || (ideal_ns - judge->start_ns) / JUDGE_BUCKET_NS >= BUCKETS_MAX)
		return;
	index = (size_t)((ideal_ns - judge->start_ns) / JUDGE_BUCKET_NS);
	if (index >= judge->bucket_count) {
		struct judge_bucket *buckets = realloc(judge->buckets, (index + 1) * sizeof(*buckets));

		if (!buckets)
			return; /* the picture has a gap; the numbers have none */
		memset(buckets + judge->bucket_count, 0, (index + 1 - judge->bucket_count) * sizeof(*buckets));
		judge->buckets = buckets;
		judge->bucket_count = index + 1;
	}
	struct judge_bucket *bucket = &judge->buckets[index];

	if (bucket->readings == 0 || residual < bucket->min_ns)
		bucket->min_ns = residual;
	if (bucket->readings == 0 || residual > bucket->max_ns)
		bucket->max_ns = residual;
	bucket->readings++;
}

/* One reading outside of an event: it has to be on the line. */
static void judge_steady(struct judge *judge, struct judge_vcpu *vcpu, const struct vmm_ring_entry *reading)
{
	if (vcpu->difference == 0) {
		judge->checked++;
		return;
	}
	if (!vcpu->exact && magnitude(vcpu->difference) <= 2)
		return; /* the roundings of a line that we had to guess */
	take_jump(judge, reading->ns, vcpu->difference, false);
	vcpu->line.ns += (uint64_t)vcpu->difference;
	vcpu->exact = false;
	vcpu->difference = 0;
}

static void judge_reading(struct judge *judge, struct judge_vcpu *vcpu, const struct vmm_ring_entry *reading)
{
	uint64_t ideal;

	if (reading->result != PVCLOCK_READ_OK) {
		judge->failed++;
		return;
	}
	if (!(reading->flags & PVCLOCK_TSC_STABLE)) {
		judge->unstable++; /* such a page promises no order between vCPUs; each must still follow its own line */
	} else {
		if (judge->ordered && reading->ns < judge->order_ns)
			judge->backwards++;
		judge->order_ns = reading->ns;
		judge->ordered = true;
	}
	vcpu->last = *reading;
	if (!vcpu->known)
		return;

	judge->readings++;
	ideal = pvclock_line_ns(&judge->reference, reading->tsc);
	vcpu->residual = difference(reading->ns, ideal);
	if (!judge->started) {
		judge->started = true;
		judge->start_ns = ideal;
	}
	if (vcpu->readings++ == 0)
		vcpu->residual_first = vcpu->residual;
	trace(judge, ideal, vcpu->residual - vcpu->residual_first);

	vcpu->difference = difference(reading->ns, pvclock_line_ns(&vcpu->line, reading->tsc));
	if (!judge->in_event || reading->tsc < judge->event_begin) {
		judge_steady(judge, vcpu, reading);
		return;
	}
	if (vcpu->difference == 0)
		judge->checked++;
	if (magnitude(vcpu->difference) > magnitude(judge->event_jump))
		judge->event_jump = vcpu->difference;
	if (judge->event_ended && reading->tsc >= judge->event_end)
		vcpu->after++;
}

void judge_feed(struct judge *judge, unsigned int index, const struct vmm_ring_entry *readings, size_t count)
{
	struct judge_vcpu *vcpu;

	if (index >= judge->vcpus || count == 0)
		return;
	vcpu = &judge->vcpu[index];
	if (vcpu->queue_first + vcpu->queue_count + count > vcpu->queue_size) {
		size_t size = vcpu->queue_size ? vcpu->queue_size : VMM_RING_ENTRIES;
		struct vmm_ring_entry *queue;

		if (vcpu->queue_count)
			memmove(vcpu->queue, vcpu->queue + vcpu->queue_first,
				vcpu->queue_count * sizeof(*vcpu->queue));
		vcpu->queue_first = 0;
		while (size < vcpu->queue_count + count)
			size *= 2;
		if (size != vcpu->queue_size) {
			queue = realloc(vcpu->queue, size * sizeof(*queue));
			if (!queue) {
				judge->lost += count;
				return;
			}
			vcpu->queue = queue;
			vcpu->queue_size = size;
		}
	}
	memcpy(vcpu->queue + vcpu->queue_first + vcpu->queue_count, readings, count * sizeof(*readings));
	vcpu->queue_count += count;
}

void judge_merge(struct judge *judge, bool flush)
{
	for (;;) {
		struct judge_vcpu *next = NULL;

		for (unsigned int i = 0; i < judge->vcpus; i++) {
			struct judge_vcpu *vcpu = &judge->vcpu[i];

			if (vcpu->queue_count > QUEUE_MAX)
				flush = true; /* another vCPU stands still: do not keep an hour of readings for it */
			if (vcpu->queue_count == 0) {
				if (flush)
					continue;
				return; /* it may yet feed an older reading than all the others have */
			}
			if (!next || vcpu->queue[vcpu->queue_first].tsc < next->queue[next->queue_first].tsc)
				next = vcpu;
		}
		if (!next)
			return;
		judge_reading(judge, next, &next->queue[next->queue_first]);
		next->queue_count--;
		next->queue_first = next->queue_count ? next->queue_first + 1 : 0;
	}
}

bool judge_newest(const struct judge *judge, unsigned int index, struct vmm_ring_entry *reading)
{
	const struct judge_vcpu *vcpu = &judge->vcpu[index];

	if (vcpu->queue_count)
		*reading = vcpu->queue[vcpu->queue_first + vcpu->queue_count - 1];
	else
		*reading = vcpu->last;
	return reading->tsc != 0;
}

bool judge_set_line(struct judge *judge, unsigned int index, const struct pvclock_line *line)
{
	struct judge_vcpu *vcpu = &judge->vcpu[index];
	struct vmm_ring_entry newest;

	if (!judge_newest(judge, index, &newest) || pvclock_line_ns(line, newest.tsc) != newest.ns)
		return false;
	if (vcpu->known && vcpu->last.tsc && pvclock_line_ns(line, vcpu->last.tsc) != vcpu->last.ns)
		return false; /* it changed between what was judged and what was fed: that is for the judge to see */
	bool any = false;

	for (unsigned int i = 0; i < judge->vcpus; i++)
		any = any || judge->vcpu[i].known;
	if (!any)
		judge->reference = *line;
	vcpu->line = *line;
	vcpu->known = true;
	vcpu->exact = true;
	return true;
}

/* One past the newest tick that any vCPU has fed. */
static uint64_t after_newest(const struct judge *judge)
{
	uint64_t tsc = 0;

	for (unsigned int i = 0; i < judge->vcpus; i++) {
		struct vmm_ring_entry newest;

		if (judge_newest(judge, i, &newest) && newest.tsc >= tsc)
			tsc = newest.tsc + 1;
	}
	return tsc;
}

void judge_event_begin(struct judge *judge)
{
	judge->in_event = true;
	judge->event_ended = false;
	judge->event_begin = after_newest(judge);
	judge->event_jump = 0;
	judge->event_ns = 0;
	for (unsigned int i = 0; i < judge->vcpus; i++) {
		struct vmm_ring_entry newest;

		judge->vcpu[i].after = 0;
		if (judge_newest(judge, i, &newest) && newest.ns > judge->event_ns)
			judge->event_ns = newest.ns;
	}
}

void judge_event_mark(struct judge *judge)
{
	judge->event_end = after_newest(judge);
	judge->event_ended = true;
}

uint64_t judge_event_after(const struct judge *judge)
{
	uint64_t after = UINT64_MAX;

	for (unsigned int i = 0; i < judge->vcpus; i++)
		if (judge->vcpu[i].after < after)
			after = judge->vcpu[i].after;
	return after;
}

int64_t judge_event_end(struct judge *judge)
{
	for (unsigned int i = 0; i < judge->vcpus; i++) {
		struct judge_vcpu *vcpu = &judge->vcpu[i];

		if (vcpu->difference) {
			vcpu->line.ns += (uint64_t)vcpu->difference;
			vcpu->exact = false;
			vcpu->difference = 0;
		}
	}
	take_jump(judge, judge->event_ns, judge->event_jump, true);
	judge->in_event = false;
	return judge->event_jump;
}

int64_t judge_total(const struct judge *judge)
{
	int64_t total = 0;

	for (unsigned int i = 0; i < judge->vcpus; i++) {
		int64_t way = judge->vcpu[i].residual - judge->vcpu[i].residual_first;

		if (magnitude(way) > magnitude(total))
			total = way;
	}
	return total;
}
