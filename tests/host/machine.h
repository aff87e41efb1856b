/* SPDX-License-Identifier: MIT */
/* machine.h - a VM of one vCPU, bound to a KVM in virtual time. */
#ifndef TEST_HOST_MACHINE_H
#define TEST_HOST_MACHINE_H

#include "../fake/kvm.h"

#include "../../src/kvm/kvm.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct machine {
	struct fake_kvm fake;
	struct pvclock_vm *vm;
	struct pvclock_vcpu *vcpu;
	struct pvclock_kvm *kvm;
	_Alignas(64) uint8_t memory[4096];
};

static inline void machine_init(struct machine *m, uint64_t seed, enum pvclock_mode mode)
{
	struct pvclock_kvm_config config = { .os = &m->fake.os, .vm_fd = 3, .mode = mode };

	memset(m, 0, sizeof(*m));
	fake_kvm_init(&m->fake, seed);
	assert_int_equal(pvclock_vm_create(&m->fake.os, &m->vm), 0);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, sizeof(m->memory), m->memory, 0), 0);
	assert_int_equal(pvclock_vcpu_create(m->vm, 0, &m->vcpu), 0);
	config.vm = m->vm;
	assert_int_equal(pvclock_kvm_attach(&config, &m->kvm, NULL), 0);
	assert_int_equal(pvclock_kvm_mode(m->kvm), mode == PVCLOCK_MODE_AUTO ? PVCLOCK_MODE_OWN : mode);
	assert_int_equal(pvclock_kvm_add_vcpu(m->kvm, m->vcpu, 4), 0);
}

static inline void machine_clear(struct machine *m)
{
	pvclock_kvm_remove_vcpu(m->kvm, m->vcpu);
	pvclock_kvm_detach(m->kvm);
	pvclock_vcpu_destroy(m->vcpu);
	pvclock_vm_destroy(m->vm);
}

/* The kernel's page, as the guest would find it after its next entry. */
static inline void kernel_publishes(struct machine *m)
{
	struct pvclock_line line;

	fake_kvm_enter(&m->fake);
	m->fake.system_time_msr = 64 + 1;
	pvclock_line_make_kvm(&line, m->fake.anchor_tsc + m->fake.offset, m->fake.anchor_ns, m->fake.khz);
	pvclock_page_write(m->memory + 64, &line, PVCLOCK_TSC_STABLE);
}

#endif
