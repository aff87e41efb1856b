/* SPDX-License-Identifier: MIT */
/* hyperv_machine.c - how it is made, moved, read and judged. */
#include "hyperv_machine.h"

uint64_t seed = 1;

void take_seed(void)
{
	const char *text = getenv("PVCLOCK_SEED");

	if (text && *text)
		seed = strtoull(text, NULL, 0);
}

void create(struct hv *m, unsigned int vcpus, uint32_t features, uint32_t mult)
{
	struct pvclock_kvm_config config = { .os = &m->fake.os, .vm_fd = 3, .mode = PVCLOCK_MODE_OWN };

	memset(m, 0, sizeof(*m));
	fake_kvm_init(&m->fake, seed);
	m->fake.khz = (uint32_t)(((1000000ull << 24) + mult / 2) / mult);
	m->count = vcpus;
	m->mult = mult;
	assert_true(pvclock_slope_from_kernel(mult, 24, &m->host));
	assert_int_equal(pvclock_vm_create(&m->fake.os, &m->vm), 0);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, MEMORY, m->memory, 0), 0);
	pvclock_vm_offer_hyperv(m->vm, features, APIC_HZ);
	config.vm = m->vm;
	assert_int_equal(pvclock_kvm_attach(&config, &m->kvm, NULL), 0);
	for (uint32_t i = 0; i < vcpus; i++) {
		assert_int_equal(pvclock_vcpu_create(m->vm, i, &m->vcpus[i]), 0);
		assert_int_equal(pvclock_kvm_add_vcpu(m->kvm, m->vcpus[i], FAKE_VCPU_FD + (int)i), 0);
	}
}

struct hv *new_hv(unsigned int vcpus, uint32_t features, uint32_t mult)
{
	struct hv *m = aligned_alloc(4096, (sizeof(*m) + 4095) / 4096 * 4096);

	create(m, vcpus, features, mult);
	assert_int_equal(pvclock_kvm_start(m->kvm, &m->host), 0);
	return m;
}

void free_hv(struct hv *m)
{
	for (unsigned int i = 0; i < m->count; i++) {
		pvclock_kvm_remove_vcpu(m->kvm, m->vcpus[i]);
		pvclock_vcpu_destroy(m->vcpus[i]);
	}
	pvclock_kvm_detach(m->kvm);
	pvclock_vm_destroy(m->vm);
	free(m);
}

int write_msr(struct hv *m, uint32_t msr, uint64_t value)
{
	struct kvm_run run = { .exit_reason = KVM_EXIT_X86_WRMSR };

	run.msr.index = msr;
	run.msr.data = value;
	run.msr.reason = KVM_MSR_EXIT_REASON_FILTER;
	assert_int_equal(pvclock_kvm_handle_exit(m->kvm, m->vcpus[0], &run), 1);
	return run.msr.error ? -1 : 1;
}

uint64_t read_msr(struct hv *m, uint32_t msr)
{
	struct kvm_run run = { .exit_reason = KVM_EXIT_X86_RDMSR };

	run.msr.index = msr;
	run.msr.reason = KVM_MSR_EXIT_REASON_FILTER;
	assert_int_equal(pvclock_kvm_handle_exit(m->kvm, m->vcpus[0], &run), 1);
	assert_int_equal(run.msr.error, 0);
	return run.msr.data;
}

void turn_on(struct hv *m)
{
	assert_int_equal(write_msr(m, PVCLOCK_HYPERV_MSR_REFERENCE_TSC, PAGE | 1), 1);
	assert_int_equal(write_msr(m, PVCLOCK_MSR_SYSTEM_TIME, CLOCK | 1), 1);
}

void blackout(struct hv *m)
{
	assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
	m->fake.tsc += 1 + splitmix64(&seed) % 100000000;
	assert_int_equal(pvclock_kvm_resume(m->kvm, NULL, NULL), 0);
}

void set_policy(struct hv *m, enum pvclock_passing passing)
{
	struct pvclock_policy policy;

	pvclock_vm_get_policy(m->vm, &policy);
	policy.on[PVCLOCK_BLACKOUT_PAUSE] = passing;
	pvclock_vm_set_policy(m->vm, &policy);
}

bool read_page(const struct hv *m, struct pvclock_hyperv_snapshot *page)
{
	return pvclock_hyperv_page_read(m->memory + PAGE, page) == PVCLOCK_READ_OK;
}

struct pvclock_hyperv_snapshot page_of(const struct hv *m)
{
	struct pvclock_hyperv_snapshot page;

	assert_true(read_page(m, &page));
	return page;
}

bool same_time(const struct pvclock_hyperv_line *a, const struct pvclock_hyperv_line *b)
{
	return a->scale == b->scale && a->offset == b->offset;
}

struct hv *move(struct hv *from, uint32_t mult, enum pvclock_blackout blackout, uint64_t ticks)
{
	struct hv *to = aligned_alloc(4096, (sizeof(*to) + 4095) / 4096 * 4096);
	bool other = mult != 0;
	struct pvclock_record record, read;
	struct pvclock_reason reason;
	uint8_t bytes[2048];
	ssize_t size;

	assert_int_equal(pvclock_kvm_pause(from->kvm), 0);
	assert_int_equal(pvclock_kvm_save(from->kvm, &record), 0);
	size = pvclock_record_encode(&record, bytes, sizeof(bytes), &reason);
	assert_true(size > 0);
	assert_int_equal(pvclock_record_decode(bytes, (size_t)size, &read, &reason), 0);
	create(to, from->count, PVCLOCK_HYPERV_FEATURES, other ? mult : from->mult);
	to->fake.tsc = from->fake.tsc + ticks;
	to->fake.offset = to->fake.second_offset = from->fake.offset_ignored ? from->fake.offset : -to->fake.tsc;
	to->fake.offset_ignored = from->fake.offset_ignored;
	memcpy(to->memory, from->memory, MEMORY);
	if (pvclock_kvm_restore(to->kvm, &read, blackout, other ? &to->host : NULL, NULL, &reason) != 0)
		fail_msg("%s", reason.text);
	assert_int_equal(pvclock_kvm_resume(to->kvm, NULL, NULL), 0);
	pvclock_record_clear(&record);
	pvclock_record_clear(&read);
	free_hv(from);
	return to;
}

/* --- the definition, in 128 bits ------------------------------------------------------------------------ */

uint64_t reference_time(const struct pvclock_hyperv_line *hyperv, uint64_t tick)
{
	return (uint64_t)((u128)tick * hyperv->scale >> 64) + (uint64_t)hyperv->offset;
}

uint64_t system_time(const struct pvclock_line *line, uint64_t tick)
{
	u128 d = tick > line->tsc ? tick - line->tsc : 0;

	d = line->shift < 0 ? d >> -line->shift : d << line->shift;
	return line->ns + (uint64_t)(d * line->mul >> 32);
}

/* -1 - e < R - line / 100 < 1.02 + e, e = t / 2^65; in units of 2^-65 / 100, exactly. */
static bool within(uint64_t time, uint64_t ns, uint64_t tick)
{
	s128 apart = ((s128)time * 100 - (s128)ns) * ((s128)1 << 65), e = (s128)100 * tick;

	return apart > -((s128)100 << 65) - e && apart < ((s128)102 << 65) + e;
}

/* The counter as the vCPU reads it at a tick. */
static uint64_t counter_at(struct hv *m, uint64_t tick)
{
	uint64_t value;

	m->fake.tsc = tick - m->fake.offset - 30; /* which the reading itself takes */
	assert_int_equal(pvclock_vcpu_read_msr(m->vcpus[0], PVCLOCK_HYPERV_MSR_TIME_REF_COUNT, &value), 0);
	return value;
}

/* Page, counter and pvclock page at one tick. */
static void judge(struct hv *m, const struct pvclock_hyperv_line *page, const struct pvclock_line *line, uint64_t tick)
{
	uint64_t time = reference_time(page, tick), counter = counter_at(m, tick), ns = system_time(line, tick);

	if (pvclock_hyperv_time(page, tick) != time || counter != time)
		fail_msg("at tick %" PRIu64 " the page says %" PRIu64 " and the counter %" PRIu64 " (seed %" PRIu64 ")", tick,
			 time, counter, seed);
	if (!within(time, ns, tick))
		fail_msg("at tick %" PRIu64 " reference time is %" PRIu64 " and the clock reads %" PRIu64 " ns (seed %" PRIu64 ")",
			 tick, time, ns, seed);
}

uint64_t judge_all(struct hv *m, const struct pvclock_hyperv_line *hyperv, unsigned int ticks)
{
	uint64_t host = m->fake.tsc, now = host + m->fake.offset, state = splitmix64(&seed);
	struct pvclock_line line;

	assert_int_equal(pvclock_vcpu_get_line(m->vcpus[0], &line), 0);
	for (unsigned int i = 0; i < ticks; i += 2) {
		uint64_t random = splitmix64(&state), tick = now + (random >> 1) % ((uint64_t)1 << (8 + random % 44));
		u128 n = ((u128)tick * hyperv->scale >> 64) + 1;
		uint64_t turn = (uint64_t)(((n << 64) + hyperv->scale - 1) / hyperv->scale);

		judge(m, hyperv, &line, i % 4 ? tick : turn - 1);
		judge(m, hyperv, &line, turn);
	}
	m->fake.tsc = host;
	return ticks;
}
