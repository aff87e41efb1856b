/* SPDX-License-Identifier: MIT */
/* What the harness asks of the machine around it: is there a KVM, which, where are our programs, who has the guest's memory. */
#include "harness.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

bool harness_kvm_usable(char *why)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm;

	if (kvm < 0) {
		if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
			snprintf(why, HARNESS_ERROR,
				 "/dev/kvm is missing, so no guest can run here: load kvm_intel or kvm_amd, enable virtualization "
				 "in the firmware (or nested virtualization in the machine around this one), or use another machine.");
		else if (errno == EACCES || errno == EPERM)
			snprintf(why, HARNESS_ERROR,
				 "/dev/kvm may not be opened by this user: join the group kvm (usermod -aG kvm $USER, then log in "
				 "again), or run this as root.");
		else
			snprintf(why, HARNESS_ERROR,
				 "/dev/kvm cannot be opened (%s): load kvm_intel or kvm_amd, or use another machine.",
				 strerror(errno));
		return false;
	}
	vm = ioctl(kvm, KVM_GET_API_VERSION, 0) == KVM_API_VERSION ? ioctl(kvm, KVM_CREATE_VM, 0) : -1;
	if (vm < 0)
		snprintf(why, HARNESS_ERROR,
			 "/dev/kvm is there but gives no virtual machine (%s): enable virtualization in the firmware, end other "
			 "hypervisors, or use another machine.",
			 strerror(errno));
	else
		close(vm);
	close(kvm);
	return vm >= 0;
}

const char *harness_where(void)
{
	if (access("/sys/module/kvm_pvm", F_OK) == 0 && access("/sys/module/kvm_intel", F_OK) &&
	    access("/sys/module/kvm_amd", F_OK))
		return "kvm-pvm";
	return "kvm";
}

char *harness_path(const char *below)
{
	const char *folder = getenv("PVCLOCK_VMM_DIR");
	char self[4096], *path = NULL;

	if (folder && *folder)
		return asprintf(&path, "%s/%s", folder, below) < 0 ? NULL : path;
	/* build/demo/pvclock-demo, build/tests/kvm/...: up, until there is a vmm folder with it in it */
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (length < 0)
		length = 0;
	self[length] = '\0';
	for (char *slash = strrchr(self, '/'); slash; slash = strrchr(self, '/')) {
		*slash = '\0';
		if (asprintf(&path, "%s/vmm/%s", self, below) < 0)
			return NULL;
		if (access(path, F_OK) == 0)
			return path;
		free(path);
	}
	return asprintf(&path, "vmm/%s", below) < 0 ? NULL : path;
}

/* Zombies have no files open, so they do not count. */
static bool has_open(const char *process, const char *target)
{
	char path[512], link[256];
	struct dirent *entry;
	bool found = false;
	DIR *folder;

	snprintf(path, sizeof(path), "/proc/%s/fd", process);
	folder = opendir(path);
	if (!folder)
		return false;
	while (!found && (entry = readdir(folder))) {
		ssize_t length = readlinkat(dirfd(folder), entry->d_name, link, sizeof(link) - 1);

		if (length <= 0)
			continue;
		link[length] = '\0';
		found = strncmp(link, target, strlen(target)) == 0;
	}
	closedir(folder);
	return found;
}

unsigned int harness_processes(const struct harness *harness)
{
	DIR *processes = harness->name[0] ? opendir("/proc") : NULL;
	struct dirent *entry;
	unsigned int count = 0;
	char target[64], self[16];

	if (!processes)
		return 0;
	snprintf(target, sizeof(target), "/memfd:%s", harness->name);
	snprintf(self, sizeof(self), "%d", (int)getpid());
	while ((entry = readdir(processes)))
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && strcmp(entry->d_name, self) &&
		    has_open(entry->d_name, target))
			count++;
	closedir(processes);
	return count;
}
