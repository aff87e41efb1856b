/* SPDX-License-Identifier: MIT */
/*
 * parent_machine.c - this machine's own host, where that is a pvclock host which tells its guests of their line
 * (docs/spec/nested.md): what a Linux process needs to register a nested page there. All of it is opened at the first VM, while
 * the VMM still has its privileges. The page stays until the process ends, and its guard then takes it away.
 */
#define _GNU_SOURCE
#include "parent.h"
#include "preload.h"

#include <errno.h>
#include <pvclock/interface.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int write_msr(void *ctx, uint32_t msr, uint64_t value)
{
	const struct machine_parent *machine = ctx;
	ssize_t length = pwrite(machine->msr, &value, sizeof(value), msr);

	return length == (ssize_t)sizeof(value) ? 0 : length < 0 ? -errno : -EIO;
}

static int locate(void *ctx, const void *host, uint64_t size, uint64_t *gpa)
{
	struct machine_parent *machine = ctx;
	struct pvclock_reason reason;
	int error;

	if (machine->told && host != machine->page)
		return -ENOTSUP;
	error = pins_locate(machine->pins, host, size, gpa, &reason);
	if (error && !atomic_exchange(&machine->said, true))
		say("a guest's clock page stays wrong until it is followed, when this machine is moved: %s", reason.text);
	return error;
}

static const struct pvclock_parent_ops parent_ops = { .write_msr = write_msr, .locate = locate };

static int register_page(struct machine_parent *machine, struct pvclock_reason *reason)
{
	int error = pvclock_parent_open(&parent_ops, machine, machine->page, 0, &machine->parent);

	if (error == -EPERM)
		return lacks(reason, error, "the kernel lets nobody write MSRs; see msr.allow_writes, and lockdown(7).");
	if (error)
		return lacks(reason, error, "the host offers that, and does not take the page (%s).", strerror(-error));
	return 0;
}

int machine_parent_open(struct machine_parent *machine, const char *msr, struct pvclock_nested_page *page, bool told,
			struct pvclock_reason *reason)
{
	uint64_t gpa;
	int error;

	machine->page = page;
	machine->told = told;
	machine->msr = guard_open_msr(msr, reason);
	if (machine->msr < 0)
		return machine->msr;
	error = pins_open(&machine->pins, reason);
	if (error == 0)
		error = pins_locate(machine->pins, page, sizeof(*page), &gpa, reason);
	if (error == 0)
		error = guard_start(machine->msr, pins_ring(machine->pins), reason);
	if (error == 0) /* from here on there is somebody who takes it away again */
		error = register_page(machine, reason);
	if (error == 0)
		return 0;
	pins_close(machine->pins);
	machine->pins = NULL;
	passing++;
	close(machine->msr);
	passing--;
	return error;
}

/* --- of this process --------------------------------------------------------------------------------- */

static pthread_mutex_t once_lock = PTHREAD_MUTEX_INITIALIZER;
static struct machine_parent own;
static bool looked;

static void look(void)
{
	const char *wanted = getenv("PVCLOCK_PARENT");
	struct pvclock_reason reason = { 0 };
	void *page;

	if ((wanted != NULL && strcmp(wanted, "off") == 0) || !(pvclock_interface_find() & PVCLOCK_FEATURE_NESTED))
		return;
	page = mmap(NULL, sizeof(struct pvclock_nested_page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (page != MAP_FAILED && machine_parent_open(&own, MACHINE_MSR, page, wanted != NULL && strcmp(wanted, "told") == 0, &reason) == 0)
		return;
	own.parent = NULL;
	say("this machine's host is not asked to keep the VM's clock right when it moves the machine, which is noticed afterwards: %s",
	    reason.text);
}

/* A child's VMs are its own, and the page is not. */
static void begin_anew(void)
{
	pthread_mutex_init(&once_lock, NULL);
	memset(&own, 0, sizeof(own));
	looked = false;
}

static void watch_forks(void)
{
	pthread_atfork(NULL, NULL, begin_anew);
}

const struct machine_parent *machine_parent(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, watch_forks);
	pthread_mutex_lock(&once_lock);
	if (!looked)
		look();
	looked = true;
	pthread_mutex_unlock(&once_lock);
	return own.parent != NULL ? &own : NULL;
}
