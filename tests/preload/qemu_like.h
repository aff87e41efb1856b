/* SPDX-License-Identifier: MIT */
/* qemu_like.h - the cases of qemu_like.c, and what they share. */
#ifndef TESTS_PRELOAD_QEMU_LIKE_H
#define TESTS_PRELOAD_QEMU_LIKE_H

#include "live.h"
#include "plain.h"

struct like {
	struct live live;
	bool own;           /* else steer */
	bool honoured;      /* this KVM runs a vCPU with the TSC offset that it was given */
	bool rates;         /* ... and has the attribute at all */
	char log[64];       /* of the preload, a line of JSON an event */
	const char *self;
	uint64_t random;
};

#define check(like, ...) live_check(&(like)->live, __VA_ARGS__)

uint64_t like_random(struct like *like); /* seeded */
/* Forgets the log so far. */
void like_forget_log(struct like *like);
/* How often an event is in the log; `member` (may be NULL) of the last one is read as a number, or true and false as 1 and 0. */
unsigned int like_event(const struct like *like, const char *event, const char *member, int64_t *value);
/* The guest's clock as a function: bit for bit in own mode, at any tick from `from` on within 1 ns in steer mode. */
bool like_same_line(struct like *like, const struct pvclock_line *before, const struct pvclock_line *after, uint64_t from);
/* All vCPUs register their pages, and KVM has done what it does some time after that. */
void like_register(struct like *like, struct plain *plain, unsigned int vcpus);

/* One file each. */
void filters_keep_their_exits(struct like *like);   /* filters.c */
void lists_are_split(struct like *like);            /* lists.c */
void a_stop_holds_the_clock(struct like *like);     /* stops.c */
void another_time_is_set(struct like *like);
void a_policy_file_is_read_at_each_stop(struct like *like);
void requests_are_32_bits(struct like *like);
void slots_come_and_go(struct like *like);          /* slots.c */
void dirty_pages_are_told_once(struct like *like);
void state_arrives(struct like *like);              /* arrivals.c */
void state_is_saved_again(struct like *like);
void state_comes_back(struct like *like);
void state_of_fewer_vcpus_comes_back(struct like *like);
void state_of_a_stock_host_arrives(struct like *like);
void state_arrives_in_another_process(struct like *like);
void records_tell_the_blackout(struct like *like);
void an_offer_is_taken(struct like *like);            /* offers.c */
void a_guest_is_reenlightened(struct like *like);      /* hyperv.c */
void a_record_is_found_by_units(struct like *like);
int arrive_as_peer(struct like *like, int state_fd); /* the other process */
void a_vcpu_is_plugged_in(struct like *like);       /* lives.c */
void a_counter_is_set_by_attribute(struct like *like);
void a_reset_registers_anew(struct like *like);
void descriptors_close_in_any_order(struct like *like);
void many_vms_leave_nothing(struct like *like);
void two_threads_have_a_vm_each(struct like *like);
void children_leave_the_parent_alone(struct like *like);
void a_running_vcpu_is_got_out(struct like *like);

#endif
