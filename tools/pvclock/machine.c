/* SPDX-License-Identifier: MIT */
/* machine.c - what CPUID says of this machine's hypervisor. */
#define _GNU_SOURCE
#include "machine.h"

#include <pvclock/hyperv.h>

#include <inttypes.h>
#include <string.h>

struct name {
	uint32_t bit;
	const char *text;
};

/* Linux Documentation/virt/kvm/x86/cpuid.rst */
static const struct name of_kvm[] = {
	{ 1u << 0, "clocksource" },
	{ 1u << 3, "clocksource2" },
	{ 1u << 5, "steal-time" },
	{ 1u << 24, "clocksource-stable" },
	{ 0, NULL },
};

static const struct name of_hyperv[] = {
	{ PVCLOCK_HYPERV_COUNTER, "counter" },
	{ PVCLOCK_HYPERV_TSC_PAGE, "tsc-page" },
	{ PVCLOCK_HYPERV_FREQUENCIES, "frequencies" },
	{ PVCLOCK_HYPERV_REENLIGHTENMENT, "re-enlightenment" },
	{ PVCLOCK_HYPERV_INVARIANT, "invariant-tsc" },
	{ 0, NULL },
};

static const struct name of_pvclock[] = {
	{ PVCLOCK_FEATURE_DEADLINE, "deadline" },
	{ PVCLOCK_FEATURE_SUSPEND, "suspend" },
	{ PVCLOCK_FEATURE_NESTED, "nested" },
	{ 0, NULL },
};

/* --- looking ----------------------------------------------------------------------------------- */

static void look_at_interface(const struct pvclock_os *os, uint32_t base, struct machine *machine)
{
	char *signature = machine->interfaces[machine->interface_count].signature;
	uint32_t regs[4];

	os->ops->cpuid(os->ctx, base, 0, regs);
	/* KVM once said 0 for its largest leaf; an interface that is not there has no signature either */
	if (regs[1] == 0 || (regs[0] != 0 && (regs[0] < base || regs[0] >= base + PVCLOCK_CPUID_STEP)))
		return;
	memcpy(signature, &regs[1], 12);
	for (unsigned int i = 0; i < 12; i++)
		if (signature[i] != '\0' && (signature[i] < ' ' || signature[i] > '~'))
			signature[i] = '?';
	machine->interfaces[machine->interface_count++].base = base;
	if (strcmp(signature, "KVMKVMKVM") == 0 && !machine->kvm) {
		machine->kvm = true;
		os->ops->cpuid(os->ctx, base + 1, 0, regs);
		machine->kvm_features = regs[0];
	}
}

static void look_at_hyperv(const struct pvclock_os *os, struct machine *machine)
{
	uint32_t regs[4];

	os->ops->cpuid(os->ctx, PVCLOCK_HYPERV_CPUID, 0, regs);
	if (regs[0] < PVCLOCK_HYPERV_CPUID + 3 || regs[0] >= PVCLOCK_HYPERV_CPUID + PVCLOCK_CPUID_STEP)
		return;
	os->ops->cpuid(os->ctx, PVCLOCK_HYPERV_CPUID + 1, 0, regs);
	if (regs[0] != PVCLOCK_HYPERV_CPUID_INTERFACE)
		return;
	machine->hyperv = true;
	os->ops->cpuid(os->ctx, PVCLOCK_HYPERV_CPUID + 3, 0, regs);
	machine->hyperv_features = regs[0] & PVCLOCK_HYPERV_FEATURES;
	if (!(regs[3] & PVCLOCK_HYPERV_CPUID_FREQUENCIES)) /* a guest wants both */
		machine->hyperv_features &= ~PVCLOCK_HYPERV_FREQUENCIES;
}

void look_at_machine(const struct pvclock_os *os, struct machine *machine)
{
	*machine = (struct machine){ .guest = false };
	pvclock_interface_search(os->ops->cpuid, os->ctx, &machine->parent);
	machine->guest = machine->parent.guest;
	if (!machine->guest)
		return;
	for (uint32_t base = PVCLOCK_CPUID_FIRST;
	     base <= PVCLOCK_CPUID_LAST && machine->interface_count < MACHINE_INTERFACES_MAX; base += PVCLOCK_CPUID_STEP)
		look_at_interface(os, base, machine);
	look_at_hyperv(os, machine);
}

/* --- telling ----------------------------------------------------------------------------------- */

/* " a b c", or what to say of none. */
static const char *names(const struct name *all, uint32_t features, const char *none, char *text, size_t size)
{
	size_t length = 0;

	snprintf(text, size, "%s", none);
	for (; all->text != NULL; all++)
		if (features & all->bit && length < size)
			length += (size_t)snprintf(text + length, size - length, " %s", all->text);
	return text;
}

static void print_parent(const struct pvclock_interface *parent)
{
	char list[80];

	if (parent->base == 0)
		print_item("", "no pvclock interface");
	else
		print_item("", "pvclock's interface, version %" PRIu32 ":%s", parent->version,
			   names(of_pvclock, parent->features, " nothing that this pvclock knows", list, sizeof(list)));
	if (parent->depth == 0)
		print_item("nesting", "at least 1 deep: the host does not say");
	else
		print_item("nesting", "%" PRIu32 " deep: %s", parent->depth, parent->depth == 1 ? "the host is no guest" :
			   "the host is a guest itself");
}

void print_machine(const struct machine *machine)
{
	char list[160] = "";

	for (unsigned int i = 0; i < machine->interface_count; i++)
		snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s at 0x%08" PRIx32, i ? ", " : "",
			 machine->interfaces[i].signature, machine->interfaces[i].base);
	if (!machine->guest) {
		print_item("hypervisor", "none: CPUID names none");
		print_item("nesting", "0 deep: this machine is no guest");
		return;
	}
	print_item("hypervisor", "%s", list[0] != '\0' ? list : "one without a name");
	if (machine->kvm)
		print_item("", "KVM's features 0x%08" PRIx32 ":%s", machine->kvm_features,
			   names(of_kvm, machine->kvm_features, " no clock", list, sizeof(list)));
	if (machine->hyperv)
		print_item("", "Hyper-V's clock:%s", names(of_hyperv, machine->hyperv_features, " none", list, sizeof(list)));
	print_parent(&machine->parent);
}

static json_t *names_to_json(const struct name *all, uint32_t features)
{
	json_t *list = json_array();

	for (; all->text != NULL; all++)
		if (features & all->bit)
			json_array_append_new(list, json_string(all->text));
	return list;
}

void set_machine(json_t *object, const struct machine *machine)
{
	json_t *list = json_array(), *parent = json_null(), *nesting = json_object();

	for (unsigned int i = 0; i < machine->interface_count; i++)
		json_array_append_new(list, json_string(machine->interfaces[i].signature));
	json_object_set_new(object, "hypervisors", list);
	json_object_set_new(object, "kvm_features", machine->kvm ? json_integer(machine->kvm_features) : json_null());
	json_object_set_new(object, "hyperv_features",
			    machine->hyperv ? names_to_json(of_hyperv, machine->hyperv_features) : json_null());
	if (machine->parent.base != 0) {
		parent = json_object();
		set_number(parent, "leaf", machine->parent.base);
		set_number(parent, "version", machine->parent.version);
		json_object_set_new(parent, "features", names_to_json(of_pvclock, machine->parent.features));
	}
	json_object_set_new(object, "parent", parent);
	set_flag(nesting, "guest", machine->guest);
	set_number(nesting, "depth", machine->guest ? machine->parent.depth ? machine->parent.depth : 1 : 0);
	set_flag(nesting, "exact", !machine->guest || machine->parent.depth != 0);
	json_object_set_new(object, "nesting", nesting);
}
