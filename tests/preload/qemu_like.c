/* SPDX-License-Identifier: MIT */
/*
 * What QEMU does to its VMs, done with bare ioctls to small guests, in a process that runs under the preload: the
 * guest's clock as its memory holds it, and what the VMM is told, have to be what they would be of a KVM whose clock is
 * a function of the guest's TSC.
 *
 * pvclock run --mode own|steer -- qemu_like [CASE]... Exit: 0 passed, 1 failed, 77 not here (with the reason).
 */
#include "qemu_like.h"

#include <errno.h>
#include <fcntl.h>
#include <pvclock/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct {
	const char *name;
	void (*run)(struct like *like);
} cases[] = {
	{ "filters", filters_keep_their_exits },
	{ "lists", lists_are_split },
	{ "stop", a_stop_holds_the_clock },
	{ "set", another_time_is_set },
	{ "policy-file", a_policy_file_is_read_at_each_stop },
	{ "requests", requests_are_32_bits },
	{ "slots", slots_come_and_go },
	{ "dirty", dirty_pages_are_told_once },
	{ "arrive", state_arrives },
	{ "arrive-again", state_is_saved_again },
	{ "arrive-back", state_comes_back },
	{ "arrive-fewer", state_of_fewer_vcpus_comes_back },
	{ "arrive-stock", state_of_a_stock_host_arrives },
	{ "arrive-process", state_arrives_in_another_process },
	{ "records", records_tell_the_blackout },
	{ "offer", an_offer_is_taken },
	{ "reenlighten", a_guest_is_reenlightened },
	{ "records-units", a_record_is_found_by_units },
	{ "hotplug", a_vcpu_is_plugged_in },
	{ "attribute", a_counter_is_set_by_attribute },
	{ "reset", a_reset_registers_anew },
	{ "close", descriptors_close_in_any_order },
	{ "many", many_vms_leave_nothing },
	{ "threads", two_threads_have_a_vm_each },
	{ "children", children_leave_the_parent_alone },
	{ "running", a_running_vcpu_is_got_out },
};

/* --- this KVM, past the preload --------------------------------------------------------------------------- */

static int past_ioctl(void *ctx, int fd, unsigned long request, void *arg)
{
	int result = kernel_only(fd, request, arg);

	(void)ctx;
	return result < 0 ? -errno : result;
}

static void learn_kvm(struct like *like)
{
	struct pvclock_os_ops ops = *pvclock_os_linux()->ops;
	struct pvclock_os os = { &ops, NULL };
	struct pvclock_kvm_capabilities can = { 0 };
	int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	ops.ioctl = past_ioctl;
	if (pvclock_kvm_probe(&os, kvm_fd, &can) == 0) {
		like->honoured = can.tsc_offset_honoured;
		like->rates = can.tsc_offset_attribute;
	}
	close(kvm_fd);
	live_note("TSC offsets are %s here", like->honoured ? "honoured" : "not honoured: lines follow the counters that KVM runs");
}

/* That the preload is there, and in the mode that the test is for. Else the test is none. */
static void learn_mode(struct like *like)
{
	const char *mode = getenv("PVCLOCK_MODE");
	struct plain plain;
	int64_t unused;

	if (mode == NULL || (strcmp(mode, "own") && strcmp(mode, "steer"))) {
		printf("Run this as: pvclock run --mode own (or steer) -- qemu_like\n");
		exit(1);
	}
	like->own = strcmp(mode, "own") == 0;
	plain_start(&plain, 1);
	plain_destroy(&plain);
	if (like_event(like, "aside", NULL, &unused)) {
		printf("1..0 # SKIP %s mode is not to be had on this KVM\n", mode);
		exit(77);
	}
	check(like, like_event(like, "start", NULL, &unused) == 1, "the preload is in this process and gives a VM its clock");
}

int main(int argc, char **argv)
{
	struct like like = { .log = "/tmp/pvclock-like-XXXXXX", .random = 4711, .self = argv[0] };
	int fd;

	if (argc == 3 && strcmp(argv[1], "--peer") == 0) {
		snprintf(like.log, sizeof(like.log), "%s", getenv("PVCLOCK_LOG"));
		setvbuf(stdout, NULL, _IOLBF, 0);
		like.own = strcmp(getenv("PVCLOCK_MODE"), "own") == 0;
		learn_kvm(&like);
		return arrive_as_peer(&like, atoi(argv[2]));
	}
	live_begin(&like.live);
	fd = mkstemp(like.log);
	if (fd < 0)
		return 1;
	close(fd);
	setenv("PVCLOCK_LOG", like.log, 1);
	learn_kvm(&like);
	learn_mode(&like);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		bool chosen = argc == 1;
		int64_t begun = harness_now_ms();

		for (int a = 1; a < argc; a++)
			chosen |= strcmp(argv[a], cases[i].name) == 0;
		if (!chosen)
			continue;
		like_forget_log(&like);
		cases[i].run(&like);
		live_note("%s: %lld ms", cases[i].name, (long long)(harness_now_ms() - begun));
	}
	unlink(like.log);
	return live_end(&like.live);
}
