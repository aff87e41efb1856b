/* SPDX-License-Identifier: MIT */
/*
 * A VM that is stopped and goes on (QEMU's stop and cont): what the VMM is told is one instant of one line, and what it
 * says back leaves the guest's function as it was.
 */
#include "qemu_like.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define STOPS 5
#define PAUSE_US 20000
#define SECOND 1000000000ll

/* The clock as told against the guest's own page at the counter as told: exact in own mode. */
static bool clock_is_line(struct like *like, const struct plain *plain, const struct plain_stop *stop)
{
	struct pvclock_snapshot page = plain_page(plain, 0);
	int64_t apart = (int64_t)(stop->clock.clock - pvclock_line_ns(&page.line, stop->tsc[0]));

	if (page.line.mul != 0 && apart <= !like->own && apart >= -!like->own)
		return true;
	live_note("the clock was told %lld ns from the page's line", (long long)apart);
	return false;
}

void a_stop_holds_the_clock(struct like *like)
{
	struct pvclock_snapshot first, after;
	struct plain_stop stop, again;
	struct plain plain;
	int64_t residual;
	uint64_t tsc;

	plain_start(&plain, 2);
	like_register(like, &plain, 2);
	first = plain_page(&plain, 0);
	check(like, first.line.mul != 0 && first.flags == PVCLOCK_TSC_STABLE, "the guest has a stable clock: flags %u", first.flags);
	for (unsigned int i = 0; i < STOPS; i++) {
		bool alike, held;

		tsc = plain_rdtsc(&plain, 1);
		plain_stop(&plain, &stop);
		alike = stop.tsc[0] == stop.tsc[1];
		check(like, alike && stop.tsc[0] > tsc, "stop %u: the counters are told as of one instant, after what the guest read", i);
		check(like, clock_is_line(like, &plain, &stop), "stop %u: the clock told is the line at the counter told", i);
		check(like, (stop.clock.flags & (1u << 1)) && (stop.clock.flags & (1u << 3)) && stop.clock.host_tsc != 0,
		      "stop %u: with its flags: %#x", i, stop.clock.flags);
		usleep(PAUSE_US);
		plain_stop(&plain, &again);
		held = again.tsc[0] == stop.tsc[0] && again.tsc[1] == stop.tsc[1] && again.clock.clock == stop.clock.clock;
		check(like, held, "stop %u: told again later, it is the same", i);
		like_forget_log(like);
		plain_go_on(&plain, stop.clock.clock);
		check(like, like_event(like, "resume", "residual_ns", &residual) == 1 && residual >= 0 && residual <= !like->own,
		      "stop %u: one resume, %lld ns off", i, (long long)residual);
		plain_rdtsc(&plain, 0);
		tsc = plain_rdtsc(&plain, 1);
		after = plain_page(&plain, 0);
		check(like, like_same_line(like, &first.line, &after.line, stop.tsc[0]), "stop %u: the page's function stays", i);
		check(like, after.flags & PVCLOCK_GUEST_STOPPED, "stop %u: and says that the guest was stopped", i);
		check(like, (after.version & 1) == 0 && after.version != first.version, "stop %u: in a new version", i);
		after = plain_page(&plain, 1);
		check(like, like_same_line(like, &first.line, &after.line, stop.tsc[0]), "stop %u: the other vCPU's page too", i);
		check(like, tsc > stop.tsc[1], "stop %u: the counter went on", i);
	}
	check(like, plain_ioctl(plain.vcpus[0].fd, KVM_KVMCLOCK_CTRL, NULL) == 0, "KVM_KVMCLOCK_CTRL is taken");
	/* A stop that the VMM ends without a word. */
	plain_stop(&plain, &stop);
	tsc = plain_rdtsc(&plain, 0);
	after = plain_page(&plain, 0);
	check(like, tsc > stop.tsc[0] && like_same_line(like, &first.line, &after.line, tsc), "a guest that just runs on has its clock");
	plain_stop(&plain, &again);
	check(like, again.tsc[0] > tsc && again.clock.clock > stop.clock.clock, "and the next stop is another instant");
	plain_destroy(&plain);
}

void another_time_is_set(struct like *like)
{
	struct pvclock_snapshot first, after;
	struct plain_stop stop;
	struct plain plain;
	struct timespec real;
	struct kvm_clock_data data = { .flags = 1u << 2 };
	uint64_t before, tsc;
	int64_t moved;

	plain_start(&plain, 1);
	like_register(like, &plain, 1);
	first = plain_page(&plain, 0);
	plain_stop(&plain, &stop);
	before = plain_get_msr(&plain, 0, 0x10);
	plain_go_on(&plain, stop.clock.clock + 5 * SECOND);
	tsc = plain_rdtsc(&plain, 0);
	after = plain_page(&plain, 0);
	moved = (int64_t)(pvclock_line_ns(&after.line, tsc) - pvclock_line_ns(&first.line, tsc));
	/* "From now on": the time between the stop and the call is what the guest is short of. */
	check(like, moved <= 5 * SECOND && moved > 5 * SECOND - (int64_t)(pvclock_line_ns(&first.line, tsc) -
	      pvclock_line_ns(&first.line, before)) - 10, "another time is set: the clock moved by %lld ns", (long long)moved);

	plain_stop(&plain, &stop);
	clock_gettime(CLOCK_REALTIME, &real);
	data.clock = stop.clock.clock;
	data.realtime = (uint64_t)real.tv_sec * SECOND + (uint64_t)real.tv_nsec - 3 * SECOND;
	first = after;
	check(like, plain_ioctl(plain.vm_fd, KVM_SET_CLOCK, &data) == 0, "a clock with the time of day at which it held is taken");
	tsc = plain_rdtsc(&plain, 0);
	after = plain_page(&plain, 0);
	moved = (int64_t)(pvclock_line_ns(&after.line, tsc) - pvclock_line_ns(&first.line, tsc));
	check(like, moved > 2 * SECOND && moved < 4 * SECOND, "and brought up to now: moved by %lld ns", (long long)moved);

	data.flags = 0xf0;
	check(like, plain_ioctl(plain.vm_fd, KVM_SET_CLOCK, &data) == -1 && errno == EINVAL, "flags of no kind are refused");
	plain_destroy(&plain);
}

/* QEMU keeps requests in an int, and KVM_GET_CLOCK has bit 31 set; everything above came that way. And so it does without. */
void requests_are_32_bits(struct like *like)
{
	struct kvm_clock_data plain_way = { 0 }, sign_extended = { 0 };
	struct plain_stop stop;
	struct plain plain;

	plain_start(&plain, 1);
	like_register(like, &plain, 1);
	plain_stop(&plain, &stop);
	check(like, ioctl(plain.vm_fd, (unsigned long)KVM_GET_CLOCK, &plain_way) == 0 && plain_way.clock == stop.clock.clock,
	      "KVM_GET_CLOCK as the header has it");
	check(like, (long)(int)KVM_GET_CLOCK < 0 && ioctl(plain.vm_fd, (unsigned long)(long)(int)KVM_GET_CLOCK, &sign_extended) == 0 &&
	      sign_extended.clock == stop.clock.clock, "KVM_GET_CLOCK with its sign extended");
	plain_destroy(&plain);
}

static bool write_policy(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	return file && fputs(text, file) >= 0 && fclose(file) == 0;
}

/* A stop under the policy that the file has by then: what the clock counted of PAUSE_US. */
static int64_t stop_under(struct like *like, struct plain *plain, const char *path, const char *text)
{
	struct plain_stop stop;
	int64_t counted = -1;

	check(like, write_policy(path, text), "a policy file: %s", text);
	plain_stop(plain, &stop);
	usleep(PAUSE_US);
	like_forget_log(like);
	plain_go_on(plain, stop.clock.clock);
	plain_rdtsc(plain, 0);
	like_event(like, "resume", "counted_ns", &counted);
	return counted;
}

/* The operator changes its mind while the VM runs; a file that says nonsense changes nothing. */
void a_policy_file_is_read_at_each_stop(struct like *like)
{
	char path[] = "/tmp/pvclock-policy-XXXXXX", words[64];
	int fd = mkstemp(path);
	struct plain plain;
	int64_t counted;

	if (fd < 0 || close(fd) != 0 || !write_policy(path, "pause=freeze"))
		return (void)check(like, false, "a file for a policy");
	snprintf(words, sizeof(words), "@%s", path);
	setenv("PVCLOCK_POLICY", words, 1);
	plain_start(&plain, 1);
	like_register(like, &plain, 1);
	counted = stop_under(like, &plain, path, "pause=freeze\n");
	check(like, counted == 0, "freeze: %lld ns are counted", (long long)counted);
	counted = stop_under(like, &plain, path, "# from now on\npause=advance\n");
	check(like, counted >= PAUSE_US * 1000ll, "advance: %lld ns are counted", (long long)counted);
	counted = stop_under(like, &plain, path, "pause=sometimes\n");
	check(like, counted >= PAUSE_US * 1000ll, "nonsense: as before, %lld ns are counted", (long long)counted);
	counted = stop_under(like, &plain, path, "pause=freeze");
	check(like, counted == 0, "freeze again: %lld ns are counted", (long long)counted);
	plain_destroy(&plain);
	unsetenv("PVCLOCK_POLICY");
	unlink(path);
}
