/* SPDX-License-Identifier: MIT */
/* cpus.h - which CPUs the kernel has, and bringing a new one online. */
#ifndef PROBE_CPUS_H
#define PROBE_CPUS_H

#include <sched.h>
#include <stdbool.h>

/* A kernel's list ("0-2,5"). False: it is none. */
bool cpus_parse(const char *text, cpu_set_t *cpus);

/* CPUs that are plugged in, or that run. Empty if the kernel does not tell. */
void cpus_present(cpu_set_t *cpus);
void cpus_online(cpu_set_t *cpus);

/* Asks the kernel to start a CPU. Needs root; says nothing if it fails, for the caller sees whether it runs. */
void cpus_bring_online(unsigned int cpu);

#endif
