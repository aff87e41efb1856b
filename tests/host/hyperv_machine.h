/* SPDX-License-Identifier: MIT */
/*
 * hyperv_machine.h - a VM with Hyper-V's clock (docs/hyperv.md), bound to a KVM in virtual time; and that clock's definition in
 * 128 bits, by which page and counter are judged.
 */
#ifndef TEST_HOST_HYPERV_MACHINE_H
#define TEST_HOST_HYPERV_MACHINE_H

#include "machine.h"

#include "../random.h"

#include <pvclock/record.h>

#include <inttypes.h>
#include <stdio.h>

#define PAGE 0x1000u
#define CLOCK 0x40u
#define MEMORY 0x3000u
#define APIC_HZ 1000000000u

typedef unsigned __int128 u128;
typedef __int128 s128;

struct hv {
	struct fake_kvm fake;
	struct pvclock_vm *vm;
	struct pvclock_vcpu *vcpus[2];
	struct pvclock_kvm *kvm;
	struct pvclock_slope host;
	unsigned int count;
	uint32_t mult; /* the host's, at shift 24 */
	_Alignas(4096) uint8_t memory[MEMORY];
};

extern uint64_t seed; /* 1, or PVCLOCK_SEED */
void take_seed(void);

/* Not started. */
void create(struct hv *m, unsigned int vcpus, uint32_t features, uint32_t mult);
struct hv *new_hv(unsigned int vcpus, uint32_t features, uint32_t mult);
void free_hv(struct hv *m);

/* As a guest does it: 1: done; -1: #GP. */
int write_msr(struct hv *m, uint32_t msr, uint64_t value);
uint64_t read_msr(struct hv *m, uint32_t msr);
void turn_on(struct hv *m);

void blackout(struct hv *m);
void set_policy(struct hv *m, enum pvclock_passing passing);

/* Another VMM, on this host or one that runs at another rate, with the guest's memory. mult 0: the same one. */
struct hv *move(struct hv *from, uint32_t mult, enum pvclock_blackout blackout, uint64_t ticks);

bool read_page(const struct hv *m, struct pvclock_hyperv_snapshot *page);
struct pvclock_hyperv_snapshot page_of(const struct hv *m);
bool same_time(const struct pvclock_hyperv_line *a, const struct pvclock_hyperv_line *b);

/* --- the definition, in 128 bits ------------------------------------------------------------------------ */

uint64_t reference_time(const struct pvclock_hyperv_line *hyperv, uint64_t tick);
uint64_t system_time(const struct pvclock_line *line, uint64_t tick);

/* Page, counter and pvclock page, at `ticks` ticks from now on; half of them where the reading turns. */
uint64_t judge_all(struct hv *m, const struct pvclock_hyperv_line *hyperv, unsigned int ticks);

#endif
