/* SPDX-License-Identifier: MIT */
/* nested_kvm_test.c - P5, P8: the binding: which modes offer it, and a KVM in L1 whose own guests' deadlines follow. */
#include "nested_world.h"

static void steer_mode_offers_none(void **state)
{
	struct pvclock_kvm_config config = { .vm_fd = 3, .mode = PVCLOCK_MODE_STEER };
	struct fake_kvm fake;
	struct pvclock_kvm *kvm;
	struct pvclock_vm *vm;

	(void)state;
	fake_kvm_init(&fake, 1);
	config.os = &fake.os;
	assert_int_equal(pvclock_vm_create(&fake.os, &vm), 0);
	config.vm = vm;
	pvclock_vm_offer(vm, PVCLOCK_FEATURES);
	assert_int_equal(pvclock_kvm_attach(&config, &kvm, NULL), 0);
	assert_int_equal(pvclock_vm_offered(vm), PVCLOCK_FEATURES & ~PVCLOCK_FEATURE_NESTED);
	pvclock_kvm_detach(kvm);
	pvclock_vm_destroy(vm);
}

/*
 * A KVM in L1: what it measures by its TSC, and the deadlines that its guests have armed, mean what they meant. Another
 * KVM in virtual time stands for it, whose TSC jumps and runs at another rate as L1's does.
 */
static void p5_deadlines_follow(void **state)
{
	struct pvclock_tsc_transform l2 = pvclock_tsc_unscaled(0);
	struct world *w = new_world(&l2, NULL);
	struct machine *m = aligned_alloc(64, (sizeof(*m) + 63) / 64 * 64);
	struct pvclock_slope slope, slope_now;
	struct pvclock_line was, is;
	uint64_t armed, generation, then;

	(void)state;
	machine_init(m, 5, PVCLOCK_MODE_OWN);
	m->fake.tsc = tsc_of(&w->level[1]);
	pvclock_slope_from_khz(KHZ, &slope);
	generation = pvclock_parent_generation(w->level[1].parent);
	assert_int_equal(pvclock_kvm_start(m->kvm, &slope), 0);
	w->level[1].lost = true; /* its memory is no part of L1's here */
	assert_int_equal(pvclock_parent_add(w->level[1].parent, m->vm, generation), 0);
	armed = m->fake.tsc + 1000000000;
	m->fake.deadline[0] = armed;
	assert_int_equal(pvclock_vcpu_get_line(m->vcpu, &was), 0);
	assert_int_equal(pvclock_kvm_pause(m->kvm), 0);
	assert_false(pvclock_kvm_slept(m->kvm));
	then = m->kvm->last.ticks;
	w->next_move = moves[2];
	move_host(w);
	m->fake.khz = w->next_move.khz;
	m->fake.tsc = tsc_of(&w->level[1]);
	assert_true(pvclock_kvm_slept(m->kvm));
	assert_int_equal(pvclock_kvm_follow_host(m->kvm), 0);
	assert_false(pvclock_kvm_slept(m->kvm));
	pvclock_slope_from_khz(w->next_move.khz, &slope_now);
	assert_in_range(pvclock_slope_difference(&m->kvm->host, &slope_now) + INT32_MAX + 18446744074ll, 0, 2 * (INT32_MAX + 18446744074ll));
	assert_int_equal(pvclock_vcpu_get_line(m->vcpu, &is), 0);
	assert_in_range(pvclock_line_ns(&is, m->fake.deadline[0]) - pvclock_line_ns(&was, armed), 0, 1);
	assert_true(pvclock_line_ns(&is, m->fake.deadline[0] - 1) < pvclock_line_ns(&was, armed));
	assert_in_range(pvclock_line_ns(&is, m->kvm->last.ticks) - pvclock_line_ns(&was, then) + 1, 0, 2);
	assert_int_equal(pvclock_kvm_resume(m->kvm, NULL, NULL), 0);
	pvclock_parent_remove(m->vm);
	machine_clear(m);
	free(m);
	free_world(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(steer_mode_offers_none),
		cmocka_unit_test(p5_deadlines_follow),
	};

	return cmocka_run_group_tests_name("nested kvm", tests, NULL, NULL);
}
