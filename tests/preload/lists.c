/* SPDX-License-Identifier: MIT */
/*
 * KVM_GET_MSRS and KVM_SET_MSRS with long lists, the clock's MSRs among them under their old numbers as QEMU has them:
 * they come back, and the result is the kernel's: how many entries were done up to the first that failed, wherever that
 * stands.
 */
#include "qemu_like.h"

#include <errno.h>
#include <string.h>

#define MSR_OF_NOBODY 0xdeadbeefu
#define LIST 40u /* entries of a list, clock's included */

/* MSRs that this KVM both gives and takes, with the values it gave. */
static void learn_msrs(struct plain *plain, struct plain_msrs *known)
{
	static struct {
		struct kvm_msr_list head;
		uint32_t indices[4096];
	} list;

	list.head.nmsrs = 4096;
	memset(known, 0, sizeof(*known));
	if (plain_ioctl(plain->kvm_fd, KVM_GET_MSR_INDEX_LIST, &list) < 0)
		return;
	for (uint32_t i = 0; i < list.head.nmsrs && known->head.nmsrs < LIST - 4; i++) {
		struct plain_msrs one = { .head.nmsrs = 1, .entries = { { .index = list.indices[i] } } };

		/* not the counter, nor what the kernel has of a clock */
		if (list.indices[i] == 0x10 || list.indices[i] == 0x11 || list.indices[i] == 0x12 || list.indices[i] >> 8 == 0x4b564d ||
		    kernel_only(plain->vcpus[0].fd, KVM_GET_MSRS, &one) != 1 || kernel_only(plain->vcpus[0].fd, KVM_SET_MSRS, &one) != 1)
			continue;
		known->entries[known->head.nmsrs++] = one.entries[0];
	}
}

/* The clock's old numbers and the counter somewhere in a list of others. */
static void mix(struct like *like, const struct plain_msrs *known, struct plain_msrs *list, uint64_t system_time, uint64_t wall_clock)
{
	const struct kvm_msr_entry ours[] = { { .index = PVCLOCK_MSR_SYSTEM_TIME_OLD, .data = system_time },
					      { .index = PVCLOCK_MSR_WALL_CLOCK_OLD, .data = wall_clock } };

	*list = *known;
	for (size_t i = 0; i < 2; i++) {
		uint64_t at = like_random(like) % (list->head.nmsrs + 1);

		memmove(&list->entries[at + 1], &list->entries[at], (list->head.nmsrs - at) * sizeof(list->entries[0]));
		list->entries[at] = ours[i];
		list->head.nmsrs++;
	}
}

static uint32_t find(const struct plain_msrs *list, uint32_t msr)
{
	uint32_t i = 0;

	while (i < list->head.nmsrs && list->entries[i].index != msr)
		i++;
	return i;
}

/* Puts an MSR that does not exist at `at`. */
static void break_at(struct plain_msrs *list, uint32_t at)
{
	memmove(&list->entries[at + 1], &list->entries[at], (list->head.nmsrs - at) * sizeof(list->entries[0]));
	list->entries[at] = (struct kvm_msr_entry){ .index = MSR_OF_NOBODY };
	list->head.nmsrs++;
}

/* A broken list is carried out up to where it breaks. False: it was not. */
static bool set_broken(struct like *like, struct plain *plain, const struct plain_msrs *known, uint32_t at)
{
	struct plain_msrs list;
	uint64_t page = PLAIN_PAGE(1) | PVCLOCK_MSR_ENABLE, expected;
	int count;

	plain_set_msr(plain, 0, PVCLOCK_MSR_SYSTEM_TIME_OLD, 0);
	mix(like, known, &list, page, 0);
	expected = find(&list, PVCLOCK_MSR_SYSTEM_TIME_OLD) < at ? page : 0;
	break_at(&list, at);
	count = plain_ioctl(plain->vcpus[0].fd, KVM_SET_MSRS, &list);
	if (count == (int)at && plain_get_msr(plain, 0, PVCLOCK_MSR_SYSTEM_TIME_OLD) == expected)
		return true;
	live_note("KVM_SET_MSRS, broken at %u: %d, and 0x12 is %#llx", at, count,
		  (unsigned long long)plain_get_msr(plain, 0, PVCLOCK_MSR_SYSTEM_TIME_OLD));
	return false;
}

static bool get_broken(struct like *like, struct plain *plain, const struct plain_msrs *known, uint32_t at)
{
	const uint64_t untouched = 0x5555555555555555ull, page = PLAIN_PAGE(2) | PVCLOCK_MSR_ENABLE;
	struct plain_msrs list;
	bool good;
	int count;

	plain_set_msr(plain, 0, PVCLOCK_MSR_SYSTEM_TIME_OLD, page);
	mix(like, known, &list, untouched, untouched);
	for (uint32_t i = 0; i < list.head.nmsrs; i++)
		list.entries[i].data = untouched;
	break_at(&list, at);
	list.entries[at].data = untouched;
	count = plain_ioctl(plain->vcpus[0].fd, KVM_GET_MSRS, &list);
	good = count == (int)at;
	for (uint32_t i = 0; good && i < list.head.nmsrs; i++) {
		struct plain_msrs one = { .head.nmsrs = 1, .entries = { { .index = list.entries[i].index } } };

		if (i >= at)
			good = list.entries[i].data == untouched;
		else if (list.entries[i].index == PVCLOCK_MSR_SYSTEM_TIME_OLD)
			good = list.entries[i].data == page;
		else if (list.entries[i].index == PVCLOCK_MSR_WALL_CLOCK_OLD)
			good = list.entries[i].data == 0;
		else
			good = kernel_only(plain->vcpus[0].fd, KVM_GET_MSRS, &one) == 1 && list.entries[i].data == one.entries[0].data;
		if (!good)
			live_note("KVM_GET_MSRS, broken at %u: MSR %#x is %#llx", at, list.entries[i].index,
				  (unsigned long long)list.entries[i].data);
	}
	if (count != (int)at)
		live_note("KVM_GET_MSRS, broken at %u: %d", at, count);
	return good;
}

void lists_are_split(struct like *like)
{
	uint32_t right_set = 0, right_get = 0, positions;
	struct plain_msrs known, list, back;
	struct plain plain;
	int count;

	plain_start(&plain, 1);
	learn_msrs(&plain, &known);
	if (!check(like, known.head.nmsrs >= 8, "this KVM has %u MSRs to make lists of", known.head.nmsrs)) {
		plain_destroy(&plain);
		return;
	}
	mix(like, &known, &list, PLAIN_PAGE(1) | PVCLOCK_MSR_ENABLE, PLAIN_PAGE(2));
	check(like, plain_ioctl(plain.vcpus[0].fd, KVM_SET_MSRS, &list) == (int)list.head.nmsrs, "a list of %u is taken whole",
	      list.head.nmsrs);
	back = list;
	for (uint32_t i = 0; i < back.head.nmsrs; i++)
		back.entries[i].data = 0x5555555555555555ull;
	count = plain_ioctl(plain.vcpus[0].fd, KVM_GET_MSRS, &back);
	check(like, count == (int)list.head.nmsrs && memcmp(&back, &list, sizeof(list)) == 0, "and comes back as it was");
	plain_set_msr(&plain, 0, PVCLOCK_MSR_WALL_CLOCK_OLD, 0);
	positions = known.head.nmsrs + 3;
	for (uint32_t at = 0; at < positions; at++) {
		right_set += set_broken(like, &plain, &known, at);
		right_get += get_broken(like, &plain, &known, at);
	}
	check(like, right_set == positions, "KVM_SET_MSRS of a list that breaks does what is before the break: at %u of %u places",
	      right_set, positions);
	check(like, right_get == positions, "KVM_GET_MSRS of a list that breaks gives what is before the break: at %u of %u places",
	      right_get, positions);

	memset(&list, 0, sizeof(list));
	check(like, plain_ioctl(plain.vcpus[0].fd, KVM_GET_MSRS, &list) == 0 && plain_ioctl(plain.vcpus[0].fd, KVM_SET_MSRS, &list) == 0,
	      "an empty list is nothing to do");
	list.head.nmsrs = 1;
	list.entries[0].index = PVCLOCK_MSR_SYSTEM_TIME_OLD;
	check(like, plain_ioctl(plain.vcpus[0].fd, KVM_GET_MSRS, &list) == 1 && list.entries[0].data == (PLAIN_PAGE(2) | 1),
	      "a list of the clock's alone needs no kernel");
	list.head.nmsrs = UINT32_MAX;
	errno = 0;
	count = plain_ioctl(plain.vcpus[0].fd, KVM_GET_MSRS, &list);
	check(like, count == -1 && errno == E2BIG, "a list beyond KVM's limit is refused as KVM does: %d, %s", count, strerror(errno));
	list.head.nmsrs = PLAIN_MSRS + 1;
	for (uint32_t i = 0; i < PLAIN_MSRS + 1; i++)
		list.entries[i].index = known.entries[0].index;
	count = plain_ioctl(plain.vcpus[0].fd, KVM_SET_MSRS, &list);
	check(like, count == -1, "and one of %u entries: %d", list.head.nmsrs, count);
	plain_destroy(&plain);
}
