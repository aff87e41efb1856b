/* SPDX-License-Identifier: MIT */
/*
 * steal_test.c - stolen time that userspace owns: what the vCPU's thread was delayed while it could have run, to the
 * ns, from the guest's registration on; never less than before, through other threads, blackouts, records and other
 * owners.
 */
#include "machine.h"

#include <pvclock/record.h>

#include <stdio.h>

#define PAGE 0x200u
#define THREAD 100
#define SEEDS 300
#define STEPS 400

static void begin(struct machine *m, enum pvclock_mode mode, bool own)
{
	struct pvclock_kvm_config config = { .os = &m->fake.os, .vm_fd = 3, .mode = mode };
	struct pvclock_slope host;

	memset(m, 0, sizeof(*m));
	fake_kvm_init(&m->fake, 5);
	m->fake.schedstat = true;
	assert_int_equal(pvclock_vm_create(&m->fake.os, &m->vm), 0);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, sizeof(m->memory), m->memory, 0), 0);
	assert_int_equal(pvclock_vcpu_create(m->vm, 0, &m->vcpu), 0);
	pvclock_vm_own_steal(m->vm, own);
	config.vm = m->vm;
	assert_int_equal(pvclock_kvm_attach(&config, &m->kvm, NULL), 0);
	assert_int_equal(pvclock_kvm_add_vcpu(m->kvm, m->vcpu, FAKE_VCPU_FD), 0);
	pvclock_slope_from_khz(m->fake.khz, &host);
	assert_int_equal(pvclock_kvm_start(m->kvm, &host), 0);
}

static struct pvclock_steal_page *page(struct machine *m)
{
	return (struct pvclock_steal_page *)(m->memory + PAGE);
}

static uint64_t stolen(struct machine *m)
{
	uint64_t ns;

	assert_int_equal(pvclock_steal_read(page(m), &ns), PVCLOCK_READ_OK);
	return ns;
}

static int write_msr(struct machine *m, uint64_t value)
{
	return pvclock_vcpu_write_msr(m->vcpu, PVCLOCK_MSR_STEAL_TIME, value);
}

static void p10_the_msr_takes_what_it_may(void **state)
{
	struct machine m;
	uint64_t value = 77;

	(void)state;
	begin(&m, PVCLOCK_MODE_OWN, true);
	memset(m.memory, 0xa5, sizeof(m.memory));
	for (unsigned int bit = 1; bit <= 5; bit++) {
		assert_int_equal(write_msr(&m, PAGE | 1u << bit | 1), -EINVAL);
		assert_int_equal(write_msr(&m, PAGE | 1u << bit), -EINVAL);
	}
	assert_int_equal(write_msr(&m, sizeof(m.memory) | 1), -EINVAL);
	assert_int_equal(write_msr(&m, UINT64_MAX - 62), -EINVAL);
	for (size_t i = 0; i < sizeof(m.memory); i++)
		assert_int_equal(m.memory[i], 0xa5); /* a #GP, and nothing else */
	assert_int_equal(pvclock_vcpu_read_msr(m.vcpu, PVCLOCK_MSR_STEAL_TIME, &value), 0);
	assert_int_equal(value, 0);
	assert_int_equal(write_msr(&m, (sizeof(m.memory) - 64) | 1), 0); /* the last place there is */
	assert_int_equal(write_msr(&m, UINT64_MAX << 6), 0); /* off, whatever the address */
	assert_int_equal(write_msr(&m, PAGE | 1), 0);
	assert_int_equal(pvclock_vcpu_read_msr(m.vcpu, PVCLOCK_MSR_STEAL_TIME, &value), 0);
	assert_int_equal(value, PAGE | 1);
	for (size_t i = 0; i < sizeof(m.memory); i++)
		if ((i < PAGE || i >= PAGE + 64) && i < sizeof(m.memory) - 64)
			assert_int_equal(m.memory[i], 0xa5);
	machine_clear(&m);
}

/* A page that the guest did not clear: its version comes out even, nobody is preempted, and the sum goes on from what was there. */
static void steal_begins_with_what_is_registered(void **state)
{
	static const uint32_t versions[] = { 0, 1, 7, 0xfffffffe, UINT32_MAX };
	struct machine m;

	(void)state;
	begin(&m, PVCLOCK_MODE_OWN, true);
	m.fake.run_delay[0] = 5000; /* before there was a registration */
	assert_int_equal(pvclock_vcpu_set_thread(m.vcpu, THREAD), 0);
	for (size_t i = 0; i < sizeof(versions) / sizeof(*versions); i++) {
		memset(page(&m), 0xff, sizeof(*page(&m)));
		page(&m)->steal = 1234567890123;
		page(&m)->version = versions[i];
		page(&m)->flags = 0x11;
		m.fake.run_delay[0] += 17;
		assert_int_equal(write_msr(&m, PAGE | 1), 0);
		assert_int_equal(page(&m)->version % 2, 0);
		assert_int_equal(page(&m)->preempted, 0);
		assert_int_equal(page(&m)->flags, 0x11);
		assert_int_equal(stolen(&m), 1234567890123);
		m.fake.run_delay[0] += 4;
		assert_int_equal(pvclock_vm_update_steal(m.vm), 0);
		assert_int_equal(stolen(&m), 1234567890123 + 4);
	}
	machine_clear(&m);
}

static void steal_is_written_only_where_it_grew(void **state)
{
	struct machine m;
	uint32_t version;

	(void)state;
	begin(&m, PVCLOCK_MODE_OWN, true);
	assert_int_equal(pvclock_vcpu_set_thread(m.vcpu, THREAD), 0);
	assert_int_equal(write_msr(&m, PAGE | 1), 0);
	pvclock_vm_take_dirty(m.vm, (struct pvclock_gpa){ 0 }, sizeof(m.memory), NULL);
	version = page(&m)->version;
	assert_int_equal(pvclock_vm_update_steal(m.vm), 0);
	assert_int_equal(page(&m)->version, version);
	assert_int_equal(pvclock_vm_take_dirty(m.vm, (struct pvclock_gpa){ 0 }, sizeof(m.memory), NULL), 0);
	m.fake.run_delay[0] += 1;
	assert_int_equal(pvclock_vm_update_steal(m.vm), 0);
	assert_int_equal(page(&m)->version, version + 2);
	assert_int_equal(pvclock_vm_take_dirty(m.vm, (struct pvclock_gpa){ 0 }, sizeof(m.memory), NULL), 1);
	assert_int_equal(write_msr(&m, 0), 0);
	m.fake.run_delay[0] += 1;
	assert_int_equal(pvclock_vm_update_steal(m.vm), 0);
	assert_int_equal(page(&m)->version, version + 2); /* given back: not ours */
	machine_clear(&m);
}

/* A blackout is not stolen time, with whichever policy; nor is what was delayed before it lost. */
static void steal_leaves_blackouts_out(void **state)
{
	(void)state;
	for (int freeze = 0; freeze < 2; freeze++) {
		struct pvclock_policy policy = pvclock_policy_default();
		struct machine m;

		begin(&m, PVCLOCK_MODE_OWN, true);
		policy.on[PVCLOCK_BLACKOUT_PAUSE] = freeze ? PVCLOCK_FREEZE : PVCLOCK_ADVANCE;
		pvclock_vm_set_policy(m.vm, &policy);
		assert_int_equal(pvclock_vcpu_set_thread(m.vcpu, THREAD), 0);
		assert_int_equal(write_msr(&m, PAGE | 1), 0);
		m.fake.run_delay[0] += 1000;
		assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
		assert_int_equal(stolen(&m), 1000); /* up to the pause, without being asked */
		m.fake.run_delay[0] += 50000;
		m.fake.tsc += 1000000000;
		assert_int_equal(pvclock_vm_update_steal(m.vm), 0);
		assert_int_equal(pvclock_kvm_resume(m.kvm, NULL, NULL), 0);
		assert_int_equal(stolen(&m), 1000);
		m.fake.run_delay[0] += 3;
		assert_int_equal(pvclock_vm_update_steal(m.vm), 0);
		assert_int_equal(stolen(&m), 1003);
		machine_clear(&m);
	}
}

static void steal_without_a_thread_or_its_delay(void **state)
{
	struct machine m;

	(void)state;
	begin(&m, PVCLOCK_MODE_OWN, true);
	assert_int_equal(write_msr(&m, PAGE | 1), 0);
	assert_int_equal(pvclock_vm_update_steal(m.vm), 0); /* nobody said which */
	assert_int_equal(pvclock_vcpu_set_thread(m.vcpu, 5), -ENOENT);
	assert_int_equal(pvclock_vm_update_steal(m.vm), -ENOENT);
	m.fake.schedstat = false;
	assert_int_equal(pvclock_vcpu_set_thread(m.vcpu, THREAD), -ENOENT);
	m.fake.run_delay[0] = 1000;
	m.fake.schedstat = true;
	assert_int_equal(pvclock_vm_update_steal(m.vm), 0); /* begins here */
	assert_int_equal(stolen(&m), 0);
	m.fake.run_delay[0] = 900; /* another thread with that number */
	assert_int_equal(pvclock_vm_update_steal(m.vm), 0);
	m.fake.run_delay[0] = 950;
	assert_int_equal(pvclock_vm_update_steal(m.vm), 0);
	assert_int_equal(stolen(&m), 50);
	m.fake.schedstat = false;
	assert_int_equal(pvclock_vcpu_set_thread(m.vcpu, THREAD + 1), -ENOENT);
	m.fake.schedstat = true;
	m.fake.run_delay[1] = 10000; /* which is not to be held against what the one before had */
	assert_int_equal(pvclock_vm_update_steal(m.vm), 0);
	assert_int_equal(stolen(&m), 50);
	machine_clear(&m);
}

static bool is_filtered(const struct machine *m)
{
	return m->fake.filter_calls != 0 && !pvclock_kvm_filter_allows(&m->fake.filter, PVCLOCK_MSR_STEAL_TIME, KVM_MSR_FILTER_WRITE) &&
	       !pvclock_kvm_filter_allows(&m->fake.filter, PVCLOCK_MSR_STEAL_TIME, KVM_MSR_FILTER_READ);
}

static void steal_is_owned_in_own_mode_only(void **state)
{
	static const enum pvclock_mode modes[] = { PVCLOCK_MODE_OWN, PVCLOCK_MODE_STEER, PVCLOCK_MODE_STOCK };
	struct kvm_run run = { .exit_reason = KVM_EXIT_X86_WRMSR,
			       .msr = { .reason = KVM_MSR_EXIT_REASON_FILTER, .index = PVCLOCK_MSR_STEAL_TIME, .data = PAGE | 1 } };

	(void)state;
	for (unsigned int i = 0; i < 6; i++) {
		enum pvclock_mode mode = modes[i / 2];
		bool owned = mode == PVCLOCK_MODE_OWN && i % 2;
		struct machine m;

		begin(&m, mode, i % 2);
		assert_int_equal(pvclock_vm_owns_steal(m.vm), owned);
		assert_int_equal(is_filtered(&m), owned);
		assert_int_equal(write_msr(&m, PAGE | 1), owned ? 0 : -ENOENT);
		if (owned) {
			run.msr.data = PAGE | 9;
			assert_int_equal(pvclock_kvm_handle_exit(m.kvm, m.vcpu, &run), 1);
			assert_int_equal(run.msr.error, 1);
			run.msr.data = PAGE | 1;
			assert_int_equal(pvclock_kvm_handle_exit(m.kvm, m.vcpu, &run), 1);
			assert_int_equal(run.msr.error, 0);
		}
		machine_clear(&m);
	}
}

/* An INIT drops the registration in the kernel, and so it does here. */
static void steal_ends_with_an_init(void **state)
{
	struct kvm_run run = { .exit_reason = KVM_EXIT_X86_WRMSR,
			       .msr = { .reason = KVM_MSR_EXIT_REASON_FILTER, .index = PVCLOCK_MSR_STEAL_TIME, .data = PAGE | 1 } };
	struct machine m;
	uint64_t value;

	(void)state;
	begin(&m, PVCLOCK_MODE_OWN, true);
	assert_int_equal(pvclock_kvm_handle_exit(m.kvm, m.vcpu, &run), 1);
	assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
	assert_int_equal(pvclock_kvm_resume(m.kvm, NULL, NULL), 0);
	assert_int_equal(pvclock_vcpu_read_msr(m.vcpu, PVCLOCK_MSR_STEAL_TIME, &value), 0);
	assert_int_equal(value, PAGE | 1);
	m.fake.system_time_msr = 0;
	assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
	assert_int_equal(pvclock_vcpu_read_msr(m.vcpu, PVCLOCK_MSR_STEAL_TIME, &value), 0);
	assert_int_equal(value, 0);
	machine_clear(&m);
}

/* From one owner to another, by a record, with guest memory beside it. */
static void p6_steal_goes_with_the_record(void **state)
{
	uint8_t bytes[512];
	ssize_t length;

	(void)state;
	for (int from_kernel = 0; from_kernel < 2; from_kernel++) {
		for (int to_kernel = 0; to_kernel < 2; to_kernel++) {
			struct pvclock_record record;
			struct machine m, n;
			uint64_t value = 0;

			begin(&m, PVCLOCK_MODE_OWN, !from_kernel);
			pvclock_vcpu_set_thread(m.vcpu, THREAD);
			page(&m)->steal = 100;
			if (!from_kernel)
				assert_int_equal(write_msr(&m, PAGE | 1), 0);
			m.fake.run_delay[0] = 23;
			assert_int_equal(pvclock_kvm_pause(m.kvm), 0);
			assert_int_equal(pvclock_kvm_save(m.kvm, &record), 0);
			assert_int_equal(record.vcpus[0].steal_msr, from_kernel ? 0 : PAGE | 1);
			assert_int_equal(record.vcpus[0].steal_ns, from_kernel ? 0 : 123);
			length = pvclock_record_encode(&record, bytes, sizeof(bytes), NULL);
			assert_true(length > 0);
			pvclock_record_clear(&record);
			assert_int_equal(pvclock_record_decode(bytes, (size_t)length, &record, NULL), 0);

			begin(&n, PVCLOCK_MODE_OWN, !to_kernel);
			memcpy(n.memory, m.memory, sizeof(n.memory));
			n.fake.tsc = m.fake.tsc + 1000000; /* the same host, a while later */
			n.fake.steal_msr[0] = from_kernel ? PAGE | 1 : 0; /* the VMM's own state */
			n.fake.run_delay[1] = 7000;
			assert_int_equal(pvclock_vcpu_set_thread(n.vcpu, THREAD + 1), 0);
			assert_int_equal(pvclock_kvm_restore(n.kvm, &record, PVCLOCK_BLACKOUT_LIVE_UPDATE, NULL, NULL, NULL), 0);
			n.fake.run_delay[1] += 50000; /* still in the blackout */
			assert_int_equal(pvclock_kvm_resume(n.kvm, NULL, NULL), 0);
			n.fake.run_delay[1] += 11;
			assert_int_equal(pvclock_vm_update_steal(n.vm), 0);
			assert_int_equal(n.fake.steal_msr[0], to_kernel ? PAGE | 1 : 0); /* one owner, and not two */
			assert_int_equal(stolen(&n), (from_kernel ? 100 : 123) + (to_kernel ? 0 : 11));
			if (!to_kernel) {
				assert_int_equal(pvclock_vcpu_read_msr(n.vcpu, PVCLOCK_MSR_STEAL_TIME, &value), 0);
				assert_int_equal(value, PAGE | 1);
			}
			pvclock_record_clear(&record);
			machine_clear(&m);
			machine_clear(&n);
		}
	}
}

/* pvclock_record_apply, with the number in the record and no other. */
static void p6_steal_is_the_records(void **state)
{
	struct pvclock_record record;
	struct machine m;

	(void)state;
	begin(&m, PVCLOCK_MODE_OWN, true);
	assert_int_equal(pvclock_vcpu_set_thread(m.vcpu, THREAD), 0);
	assert_int_equal(write_msr(&m, PAGE | 1), 0);
	assert_int_equal(pvclock_vm_pause(m.vm), 0);
	assert_int_equal(pvclock_record_capture(m.vm, &record), 0);
	record.vcpus[0].steal_ns = 5555;
	page(&m)->steal = 9; /* the guest's memory is the guest's */
	m.fake.run_delay[0] += 100;
	assert_int_equal(pvclock_record_apply(&record, m.vm, NULL, NULL), 0);
	assert_int_equal(pvclock_vm_resume(m.vm), 0);
	m.fake.run_delay[0] += 1;
	assert_int_equal(pvclock_vm_update_steal(m.vm), 0);
	assert_int_equal(stolen(&m), 5556);
	record.vcpus[0].steal_msr = PAGE | 0x20;
	assert_int_equal(pvclock_record_encode(&record, m.memory, sizeof(m.memory), NULL), -EINVAL);
	pvclock_record_clear(&record);
	machine_clear(&m);
}

/* Anything in any order, against a sum that is kept beside it. */
static void steal_is_the_sum_of_delays(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= SEEDS; seed++) {
		uint64_t expected = 0, seen[4] = { 0 }, last = 0;
		bool paused = false, on = false;
		unsigned int thread = 0;
		struct machine m;

		begin(&m, PVCLOCK_MODE_OWN, true);
		m.fake.random = seed;
		assert_int_equal(pvclock_vcpu_set_thread(m.vcpu, THREAD), 0);
		for (unsigned int step = 0; step < STEPS; step++) {
			uint64_t delay = m.fake.run_delay[thread] - seen[thread];

			switch (fake_random(&m.fake) % 8) {
			case 0:
			case 1:
			case 2:
				m.fake.run_delay[fake_random(&m.fake) % 4] += fake_random(&m.fake) % 3 ? fake_random(&m.fake) >> 40 : 1;
				break;
			case 3:
				assert_int_equal(pvclock_vm_update_steal(m.vm), 0);
				if (!paused && on) {
					expected += delay;
					seen[thread] = m.fake.run_delay[thread];
				}
				break;
			case 4:
				if (paused ? pvclock_vm_resume(m.vm) : pvclock_vm_pause(m.vm))
					fail();
				expected += paused || !on ? 0 : delay;
				seen[thread] = m.fake.run_delay[thread];
				paused = !paused;
				break;
			case 5:
				expected += paused || !on ? 0 : delay;
				thread = fake_random(&m.fake) % 4;
				assert_int_equal(pvclock_vcpu_set_thread(m.vcpu, THREAD + (int)thread), 0);
				seen[thread] = m.fake.run_delay[thread];
				break;
			case 6:
				if (fake_random(&m.fake) % 4)
					break;
				on = !on;
				if (!on) /* what was not told is not told any more */
					assert_int_equal(write_msr(&m, 0), 0);
				else
					assert_int_equal(write_msr(&m, PAGE | 1), 0);
				seen[thread] = m.fake.run_delay[thread];
				expected = stolen(&m);
				break;
			default:
				m.fake.tsc += 12345;
			}
			if (on && stolen(&m) > expected)
				fail_msg("seed %llu step %u: %llu ns are stolen, of %llu", (unsigned long long)seed, step,
					 (unsigned long long)stolen(&m), (unsigned long long)expected);
			if (stolen(&m) < last)
				fail_msg("seed %llu step %u: back from %llu to %llu", (unsigned long long)seed, step,
					 (unsigned long long)last, (unsigned long long)stolen(&m));
			last = stolen(&m);
		}
		if (paused)
			assert_int_equal(pvclock_vm_resume(m.vm), 0);
		if (on && !paused)
			expected += m.fake.run_delay[thread] - seen[thread];
		assert_int_equal(pvclock_vm_update_steal(m.vm), 0);
		if (stolen(&m) != expected)
			fail_msg("seed %llu: %llu ns are stolen, and %llu were", (unsigned long long)seed, (unsigned long long)stolen(&m),
				 (unsigned long long)expected);
		machine_clear(&m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p10_the_msr_takes_what_it_may),
		cmocka_unit_test(steal_begins_with_what_is_registered),
		cmocka_unit_test(steal_is_written_only_where_it_grew),
		cmocka_unit_test(steal_leaves_blackouts_out),
		cmocka_unit_test(steal_without_a_thread_or_its_delay),
		cmocka_unit_test(steal_is_owned_in_own_mode_only),
		cmocka_unit_test(steal_ends_with_an_init),
		cmocka_unit_test(p6_steal_goes_with_the_record),
		cmocka_unit_test(p6_steal_is_the_records),
		cmocka_unit_test(steal_is_the_sum_of_delays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
