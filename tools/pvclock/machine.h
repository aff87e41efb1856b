/* SPDX-License-Identifier: MIT */
/* machine.h - what this machine's CPUID says of who runs it: whose guest it is, what it is offered, how deep it is nested. */
#ifndef PVCLOCK_TOOL_MACHINE_H
#define PVCLOCK_TOOL_MACHINE_H

#include "command.h"

#include <pvclock/interface.h>
#include <pvclock/os.h>

#define MACHINE_INTERFACES_MAX 4

struct machine {
	bool guest; /* CPUID names a hypervisor; else all of this is nothing */
	struct {
		uint32_t base;
		char signature[13];
	} interfaces[MACHINE_INTERFACES_MAX]; /* by their leaves; a hypervisor may show several */
	unsigned int interface_count;
	bool kvm; /* one of them is KVM's */
	uint32_t kvm_features;
	bool hyperv; /* one is Hyper-V's, whatever its maker calls itself */
	uint32_t hyperv_features; /* of PVCLOCK_HYPERV_FEATURES */
	struct pvclock_interface parent; /* base 0: the host is no pvclock */
};

void look_at_machine(const struct pvclock_os *os, struct machine *machine);

void print_machine(const struct machine *machine);
/* Members "hypervisors" (signatures), "kvm_features", "hyperv_features", "parent" and "nesting" of `object`. */
void set_machine(json_t *object, const struct machine *machine);

#endif
