/* SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include "made_up.h"

#include <stdlib.h>
#include <string.h>

static struct pvclock_host_tsc read_tsc(void *ctx)
{
	struct made_up *machine = ctx;

	machine->tsc += machine->step;
	return (struct pvclock_host_tsc){ machine->tsc };
}

static int get_time(void *ctx, clockid_t clock, struct timespec *ts)
{
	struct made_up *machine = ctx;
	uint64_t ns;

	machine->tsc += machine->step;
	if (machine->quick && ++machine->times != machine->quick)
		machine->tsc += 2000;
	ns = pvclock_line_ns(&machine->raw, machine->tsc) + (clock == CLOCK_REALTIME ? machine->realtime_ns : 0);
	*ts = (struct timespec){ .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };
	return 0;
}

static void cpuid(void *ctx, uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	const struct made_up *machine = ctx;

	(void)subleaf;
	memset(regs, 0, 4 * sizeof(regs[0]));
	if (leaf == 1 && machine->hypervisor)
		regs[2] = 1u << 31;
	for (unsigned int i = 0; i < machine->leaf_count; i++)
		if (machine->leaves[i].leaf == leaf)
			memcpy(regs, &machine->leaves[i].eax, 4 * sizeof(regs[0]));
}

static const void *clock_page(void *ctx, enum pvclock_clock_page page)
{
	struct made_up *machine = ctx;

	machine->page_calls[page]++;
	return machine->pages[page];
}

static const struct pvclock_os_ops ops = {
	.read_tsc = read_tsc, .clock_gettime = get_time, .cpuid = cpuid, .clock_page = clock_page,
};

void made_up_init(struct made_up *machine)
{
	*machine = (struct made_up){ .os = { .ops = &ops, .ctx = machine }, .tsc = 9000000000, .step = 30,
				     .raw = { 1000, 1000, 1u << 31, 0 } }; /* 2 GHz */
}

void made_up_offer(struct made_up *machine, uint32_t base, const char *signature, uint32_t last)
{
	struct pvclock_cpuid *leaf = &machine->leaves[machine->leaf_count++];

	machine->hypervisor = true;
	*leaf = (struct pvclock_cpuid){ .leaf = base, .eax = last };
	memcpy(&leaf->ebx, signature, 4);
	memcpy(&leaf->ecx, signature + 4, 4);
	memcpy(&leaf->edx, signature + 8, 4);
}

void made_up_leaf(struct made_up *machine, uint32_t leaf, uint32_t eax, uint32_t edx)
{
	machine->leaves[machine->leaf_count++] = (struct pvclock_cpuid){ .leaf = leaf, .eax = eax, .edx = edx };
}

void made_up_parent(struct made_up *machine, uint32_t base, uint32_t features, uint32_t depth)
{
	pvclock_interface_cpuid(base, features, depth, &machine->leaves[machine->leaf_count]);
	machine->leaf_count += PVCLOCK_CPUID_LEAVES;
	machine->hypervisor = true;
}

const char *printed(void (*print)(const void *of), const void *of)
{
	static char *text;
	FILE *terminal = stdout;
	size_t size;

	free(text);
	stdout = open_memstream(&text, &size);
	print(of);
	fclose(stdout);
	stdout = terminal;
	return text;
}

bool printed_shows(const char *text, const char *part)
{
	char *flat = strdup(text), *to = flat;
	bool found;

	for (const char *from = text; *from; from++) {
		bool blank = *from == ' ' || *from == '\n';

		if (!blank || (to > flat && to[-1] != ' '))
			*to++ = blank ? ' ' : *from;
	}
	*to = '\0';
	found = strstr(flat, part) != NULL;
	free(flat);
	return found;
}
