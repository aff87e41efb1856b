/* SPDX-License-Identifier: MIT */
/* restore_machine.c - how it is made, saved and made elsewhere. */
#include "restore_machine.h"

struct cell cell_now;

uint64_t oracle(const struct pvclock_line *line, uint64_t tick)
{
	unsigned __int128 d = tick > line->tsc ? tick - line->tsc : 0;

	d = line->shift < 0 ? d >> -line->shift : d << line->shift;
	return line->ns + (uint64_t)(d * line->mul >> 32);
}

struct pvclock_line line_of(const struct machine *m, unsigned int i)
{
	struct pvclock_line line;

	require(pvclock_vcpu_get_line(m->vcpus[i], &line) == 0);
	return line;
}

void create(struct machine *m, const struct cell *cell, const char *boot_id, uint64_t tsc, uint64_t tai_ns)
{
	struct pvclock_kvm_config config = { .os = &m->fake.os, .vm_fd = 3, .mode = cell->mode };

	memset(m, 0, sizeof(*m));
	cell_now = *cell;
	fake_kvm_init(&m->fake, 5);
	m->count = cell->vcpus;
	m->fake.boot_id = boot_id;
	m->fake.tsc = tsc;
	m->fake.tai_offset = 37;
	m->fake.max_error_us = 250;
	m->fake.realtime_ns = (int64_t)(tai_ns - 37 * S - (uint64_t)((unsigned __int128)tsc * 1000000 / m->fake.khz));
	m->fake.offset = m->fake.second_offset = cell->ignored ? 0 : -tsc;
	m->fake.offset_ignored = cell->ignored;
	if (cell->mode == PVCLOCK_MODE_OWN)
		require(pvclock_slope_from_kernel(6462370, 24, &m->host));
	else
		require(pvclock_slope_from_khz(m->fake.khz, &m->host));
	require(pvclock_vm_create(&m->fake.os, &m->vm) == 0);
	require(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, sizeof(m->memory), m->memory, 0) == 0);
	config.vm = m->vm;
	require(pvclock_kvm_attach(&config, &m->kvm, NULL) == 0);
	for (uint32_t i = 0; i < m->count; i++) {
		require(pvclock_vcpu_create(m->vm, i, &m->vcpus[i]) == 0);
		require(pvclock_kvm_add_vcpu(m->kvm, m->vcpus[i], FAKE_VCPU_FD + (int)i) == 0);
	}
}

void create_elsewhere(struct machine *m, const struct cell *cell, uint64_t tai_ns)
{
	create(m, cell, BOOT_B, 77777777777777ull, tai_ns);
}

void destroy(struct machine *m)
{
	for (unsigned int i = 0; i < m->count; i++) {
		pvclock_kvm_remove_vcpu(m->kvm, m->vcpus[i]);
		pvclock_vcpu_destroy(m->vcpus[i]);
	}
	pvclock_kvm_detach(m->kvm);
	pvclock_vm_destroy(m->vm);
}

void moved(struct machine *from, struct machine *to, struct pvclock_record *record)
{
	pvclock_record_clear(record);
	destroy(from);
	destroy(to);
}

void start(struct machine *m, const struct cell *cell)
{
	struct pvclock_policy policy = pvclock_policy_default();

	create(m, cell, BOOT_A, TSC_A, TAI);
	if (m->count == 2)
		m->fake.second_offset += APART(cell->mode);
	require(m->count == 1 || pvclock_kvm_follow_tsc(m->kvm, m->vcpus[1]) == 0);
	require(pvclock_kvm_start(m->kvm, &m->host) == 0);
	if (cell->mode == PVCLOCK_MODE_OWN) {
		require(pvclock_vcpu_write_msr(m->vcpus[0], PVCLOCK_MSR_SYSTEM_TIME, PAGE_GPA | PVCLOCK_MSR_ENABLE) == 0);
		require(pvclock_vcpu_write_msr(m->vcpus[0], PVCLOCK_MSR_WALL_CLOCK, 128) == 0);
	} else {
		m->fake.anchor_tsc = m->fake.tsc;
	}
	policy.on[cell->blackout] = cell->passing;
	pvclock_vm_set_policy(m->vm, &policy);
	m->fake.tsc += 123456789012;
	for (unsigned int i = 0; i < m->count; i++) {
		m->fake.deadline[i] = m->fake.tsc + offset_of(m, i) + 2000000000 + 77 * i; /* 0.8 s from now */
		m->fake.armed_with[i] = offset_of(m, i);
		m->fake.tsc_adjust[i] = 0xfffffff000000000 + i;
	}
}

void save(struct machine *m, struct pvclock_record *record)
{
	struct pvclock_record captured;
	struct pvclock_reason reason;
	uint8_t bytes[1024];
	ssize_t length;

	require(pvclock_kvm_pause(m->kvm) == 0);
	require(pvclock_kvm_save(m->kvm, &captured) == 0);
	length = pvclock_record_encode(&captured, bytes, sizeof(bytes), &reason);
	require(length > 0 && pvclock_record_decode(bytes, (size_t)length, record, &reason) == 0);
	pvclock_record_clear(&captured);
}

void create_next(struct machine *m, const struct machine *before, const struct cell *cell, const struct pvclock_record *record)
{
	if (cell->blackout == PVCLOCK_BLACKOUT_LIVE_UPDATE)
		create(m, cell, BOOT_A, before->fake.tsc + 5 * 2596142000ull,
		       record->time.tai_ns + (uint64_t)((unsigned __int128)(before->fake.tsc - record->time.at.ticks) * 1000000 / before->fake.khz) +
			       5 * S);
	else
		create_elsewhere(m, cell, record->time.tai_ns + 90 * 60 * S);
}
