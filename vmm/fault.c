// SPDX-License-Identifier: MIT
/*
 * fault.c - the steps of a live update and of a snapshot as points at which a test kills or stops one side.
 */
#include "vmm.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct step {
	const char *point;
	const char *what;
	const char *after_a_crash;
} steps[] = {
	{ "new:prepared", "VM and vCPUs made, PREPARED said", "old one resumes" },
	{ "old:paused", "no vCPU runs, nothing is saved", "nobody: the state ends with its VMM, as at any other time" },
	{ "old:saved", "state complete in the shared memfd", "new one takes over" },
	{ "old:sent", "STATE sent", "new one takes over" },
	{ "new:state-received", "STATE received", "old one resumes" },
	{ "new:restored", "everything restored, nothing run", "old one resumes" },
	{ "new:ready-said", "READY said", "old one resumes" },
	{ "old:ready-received", "READY received", "new one takes over" },
	{ "old:go-sent", "GO sent", "new one runs" },
	{ "new:go-received", "GO received", "old one resumes" },
	{ "new:clock-published", "clock published, only the commit is left", "old one resumes" },
	{ "new:committed", "end of the hand-over, on the way to KVM_RUN", "nobody: it is the new one's own guest, which ends with its VMM" },
	{ "old:running-received", "RUNNING received", "new one runs" },
	/* nobody has the guest then; what is left is the file */
	{ "snapshot:paused", "no vCPU runs, nothing is saved", "file: the old one" },
	{ "snapshot:state-written", "state under a temporary name", "file: the old one" },
	{ "snapshot:written", "all of it under a temporary name", "file: the old one" },
	{ "snapshot:resumed", "the guest runs on", "file: the old one" },
	{ "snapshot:synced", "all of it on the disk", "file: the old one" },
	{ "snapshot:renamed", "it has its name", "file: the new one" },
	{ "restore:checked", "file read and believed", "file: as it was" },
	{ "restore:loaded", "guest memory filled", "file: as it was" },
	{ "restore:restored", "everything restored, nothing run", "file: as it was" },
	{ "restore:published", "clock published", "file: as it was" },
	{ "restore:running", "the guest runs", "file: as it was" },
};

bool fault_known(const char *point)
{
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		if (strcmp(steps[i].point, point) == 0)
			return true;
	return false;
}

void fault_list(void)
{
	printf("%-24s %-44s %s\n", "step", "what has happened", "who has the guest, or what the file is, if that side is killed here");
	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		printf("%-24s %-44s %s\n", steps[i].point, steps[i].what, steps[i].after_a_crash);
}

void fault_reached(const struct fault_plan *plan, const char *point)
{
	if (plan->crash_at != NULL && strcmp(plan->crash_at, point) == 0)
		raise(SIGKILL);
	while (plan->hang_at != NULL && strcmp(plan->hang_at, point) == 0)
		pause();
}
