/* SPDX-License-Identifier: MIT */
/*
 * deadline_test.c - deadlines in ns of system time, in virtual time: none before its time by the guest's own reading,
 * none lost, whatever happens to the VM meanwhile; and how often a VMM's timer has to look, whatever the guest does.
 */
#include "../random.h"
#include "machine.h"

#include <pvclock/interface.h>

#define VECTOR 0x41u
#define NEVER UINT64_MAX
#define LATENCY_NS 1000u /* of the VMM's; an ioctl takes 0.3 us here */

/* One VM of two vCPUs whose VMM has a timer that wakes when it was told, or later by its own latency. */
struct vmm {
	struct machine m;
	struct pvclock_vcpu *vcpus[2];
	struct kvm_run *run;
	uint64_t wake;      /* host TSC; NEVER */
	uint64_t random;
	unsigned int asked, told;
	/* what the guest sees */
	uint64_t armed[2];  /* 0: nothing */
	unsigned int taken[2], stale;
	uint64_t latest_ns;
};

static uint64_t ns_to_ticks(const struct vmm *v, uint64_t ns)
{
	return (uint64_t)((unsigned __int128)ns * v->m.fake.khz / 1000000);
}

/* What a guest reads now. */
static uint64_t clock_of(struct vmm *v, unsigned int vcpu)
{
	struct pvclock_tsc_transform tsc;
	struct pvclock_line line;

	pvclock_vcpu_get_tsc(v->vcpus[vcpu], &tsc);
	assert_int_equal(pvclock_vcpu_get_line(v->vcpus[vcpu], &line), 0);
	return pvclock_line_ns(&line, pvclock_tsc_to_guest(&tsc, (struct pvclock_host_tsc){ v->m.fake.tsc }).ticks);
}

static int interrupt(void *ctx, uint32_t apic, uint8_t vector)
{
	struct vmm *v = ctx;
	uint64_t now = clock_of(v, apic);

	assert_in_range(apic, 0, 1);
	assert_int_equal(vector, VECTOR + apic);
	assert_true(v->armed[apic] != 0); /* once, and not when it was taken back */
	assert_true(now >= v->armed[apic]);
	if (now - v->armed[apic] > v->latest_ns)
		v->latest_ns = now - v->armed[apic];
	v->armed[apic] = 0;
	v->taken[apic]++;
	return 0;
}

static void wait_for(struct vmm *v, uint64_t wait_ns)
{
	v->wake = wait_ns == NEVER ? NEVER : v->m.fake.tsc + ns_to_ticks(v, wait_ns) + 1;
}

static void sooner(void *ctx, uint64_t wait_ns)
{
	struct vmm *v = ctx;

	v->told++;
	if (v->m.fake.tsc + ns_to_ticks(v, wait_ns) + 1 < v->wake)
		wait_for(v, wait_ns);
}

static void ask(struct vmm *v)
{
	uint64_t wait_ns;

	v->asked++;
	assert_int_equal(pvclock_kvm_fire_deadlines(v->m.kvm, &wait_ns), 0);
	wait_for(v, wait_ns);
}

/* Time passes, and the VMM's timer with it. */
static void pass(struct vmm *v, uint64_t ns)
{
	uint64_t end = v->m.fake.tsc + ns_to_ticks(v, ns);

	while (v->wake <= end) {
		if (v->m.fake.tsc < v->wake)
			v->m.fake.tsc = v->wake;
		ask(v);
	}
	if (v->m.fake.tsc < end)
		v->m.fake.tsc = end;
}

static void begin(struct vmm *v, uint64_t seed, bool own_apics)
{
	struct pvclock_kvm_config config = { .os = &v->m.fake.os, .vm_fd = 3, .mode = PVCLOCK_MODE_OWN, .sooner = sooner, .sooner_ctx = v };

	memset(v, 0, sizeof(*v));
	v->run = calloc(1, sizeof(*v->run));
	v->wake = NEVER;
	v->random = seed;
	fake_kvm_init(&v->m.fake, seed);
	assert_int_equal(pvclock_vm_create(&v->m.fake.os, &v->m.vm), 0);
	pvclock_vm_offer(v->m.vm, PVCLOCK_FEATURE_DEADLINE);
	if (own_apics) {
		config.interrupt = interrupt;
		config.interrupt_ctx = v;
	}
	config.vm = v->m.vm;
	assert_int_equal(pvclock_kvm_attach(&config, &v->m.kvm, NULL), 0);
	for (unsigned int i = 0; i < 2; i++) {
		assert_int_equal(pvclock_vcpu_create(v->m.vm, i, &v->vcpus[i]), 0);
		assert_int_equal(pvclock_kvm_add_vcpu(v->m.kvm, v->vcpus[i], FAKE_VCPU_FD + (int)i), 0);
	}
}

static void start(struct vmm *v)
{
	struct pvclock_slope host;

	assert_true(pvclock_slope_from_khz(v->m.fake.khz, &host));
	assert_int_equal(pvclock_kvm_start(v->m.kvm, &host), 0);
}

static void end(struct vmm *v)
{
	for (unsigned int i = 0; i < 2; i++) {
		pvclock_kvm_remove_vcpu(v->m.kvm, v->vcpus[i]);
		pvclock_vcpu_destroy(v->vcpus[i]);
	}
	pvclock_kvm_detach(v->m.kvm);
	pvclock_vm_destroy(v->m.vm);
	free(v->run);
}

/* A guest's WRMSR. True: no #GP. */
static bool write_msr(struct vmm *v, unsigned int vcpu, uint32_t msr, uint64_t value)
{
	v->run->exit_reason = KVM_EXIT_X86_WRMSR;
	v->run->msr.index = msr;
	v->run->msr.data = value;
	v->run->msr.reason = KVM_MSR_EXIT_REASON_FILTER;
	v->run->msr.error = 9;
	assert_int_equal(pvclock_kvm_handle_exit(v->m.kvm, v->vcpus[vcpu], v->run), 1);
	return v->run->msr.error == 0;
}

static uint64_t read_msr(struct vmm *v, unsigned int vcpu, uint32_t msr)
{
	v->run->exit_reason = KVM_EXIT_X86_RDMSR;
	v->run->msr.index = msr;
	assert_int_equal(pvclock_kvm_handle_exit(v->m.kvm, v->vcpus[vcpu], v->run), 1);
	assert_int_equal(v->run->msr.error, 0);
	return v->run->msr.data;
}

static void enable(struct vmm *v)
{
	for (unsigned int i = 0; i < 2; i++)
		assert_true(write_msr(v, i, PVCLOCK_MSR_DEADLINE_CONTROL, PVCLOCK_CONTROL_ENABLE | (VECTOR + i)));
}

static void arm(struct vmm *v, unsigned int vcpu, uint64_t ns)
{
	v->armed[vcpu] = ns;
	assert_true(write_msr(v, vcpu, PVCLOCK_MSR_DEADLINE, ns));
}

static uint64_t random_below(struct vmm *v, uint64_t limit)
{
	return splitmix64(&v->random) % limit;
}

/* Due is what the guest's own reading has reached, on any TSC; and until then, how long. */
static void p5_due_when_the_guest_reads_it(void **state)
{
	unsigned int due = 0, waits = 0;
	struct vmm *v = calloc(1, sizeof(*v));

	(void)state;
	begin(v, 1, true);
	start(v);
	enable(v);
	for (unsigned int round = 0; round < 200000; round++) {
		struct pvclock_tsc_transform tsc = { .offset = random_below(v, 2) ? random_below(v, 1ull << 50) : 0 };
		struct pvclock_deadline deadline;
		struct pvclock_line line;
		uint64_t ns, before, after;

		if (round % 3) {
			tsc.frac_bits = round % 3 == 1 ? PVCLOCK_FRAC_BITS_VMX : PVCLOCK_FRAC_BITS_SVM;
			tsc.ratio = (1ull << tsc.frac_bits) / 1000 * (300 + random_below(v, 2000));
		}
		v->m.fake.tsc = (1ull << 40) + random_below(v, 1ull << 50);
		assert_int_equal(pvclock_vcpu_set_tsc(v->vcpus[1], &tsc, false), 0);
		pvclock_vcpu_get_line(v->vcpus[1], &line);
		ns = clock_of(v, 1) + random_below(v, 200) - 100 + (round % 7 == 0 ? random_below(v, 1ull << 40) : 0);
		assert_int_equal(pvclock_vcpu_restore_msr(v->vcpus[1], PVCLOCK_MSR_DEADLINE, ns), 0);
		before = v->m.fake.tsc;
		if (pvclock_vcpu_take_deadline(v->vcpus[1], (struct pvclock_host_tsc){ v->m.fake.tsc }, &deadline)) {
			assert_true(clock_of(v, 1) >= ns);
			assert_int_equal(read_msr(v, 1, PVCLOCK_MSR_DEADLINE), 0);
			assert_int_equal(deadline.vector, VECTOR + 1);
			due++;
			continue;
		}
		assert_true(clock_of(v, 1) < ns);
		assert_int_equal(read_msr(v, 1, PVCLOCK_MSR_DEADLINE), ns);
		/*
		 * .at is the first host tick that reads it, if the TSC is not scaled; within a guest tick of it, which
		 * is up to 4 host ticks here, if it is
		 */
		after = v->m.fake.tsc;
		v->m.fake.tsc = deadline.at.ticks + (tsc.frac_bits ? 5 : 0);
		assert_true(clock_of(v, 1) >= ns);
		v->m.fake.tsc = deadline.at.ticks - (tsc.frac_bits ? 5 : 1);
		assert_true(clock_of(v, 1) < ns || v->m.fake.tsc < after);
		/* a wait is as long as that, or less, by 1 in 1024 at most */
		uint64_t left = (uint64_t)((unsigned __int128)(deadline.at.ticks - before) * 1000000 / v->m.fake.khz);
		assert_in_range(deadline.wait_ns, left - left / 1000 > 30 ? left - left / 1000 - 30 : 0, left + 3);
		waits++;
	}
	assert_true(due > 50000 && waits > 50000);
	end(v);
	free(v);
}

/* Each one fires once, never early, late only by the VMM's latency; through pauses of either policy, on two vCPUs. */
static void p5_armed_through_everything(void **state)
{
	struct vmm *v = calloc(1, sizeof(*v));
	unsigned int armed = 0;

	(void)state;
	for (uint64_t seed = 0; seed < 60; seed++) {
		struct pvclock_policy policy = pvclock_policy_default();

		begin(v, seed, true);
		v->m.fake.offset_ignored = seed % 3 == 2;
		start(v);
		pass(v, 1000000);
		enable(v);
		policy.on[PVCLOCK_BLACKOUT_PAUSE] = seed % 2 ? PVCLOCK_FREEZE : PVCLOCK_ADVANCE;
		pvclock_vm_set_policy(v->m.vm, &policy);
		for (unsigned int step = 0; step < 400; step++) {
			unsigned int vcpu = (unsigned int)random_below(v, 2);

			switch (random_below(v, 10)) {
			case 0:
				assert_int_equal(pvclock_kvm_pause(v->m.kvm), 0);
				unsigned int taken = v->taken[0] + v->taken[1];
				pass(v, random_below(v, 2000000));
				ask(v);
				assert_int_equal(v->taken[0] + v->taken[1], taken); /* nothing fires */
				assert_true(v->latest_ns < LATENCY_NS);
				assert_int_equal(pvclock_kvm_resume(v->m.kvm, NULL, NULL), 0);
				for (unsigned int i = 0; i < 2; i++) /* what came due fires before a vCPU runs */
					assert_true(!v->armed[i] || clock_of(v, i) < v->armed[i] + LATENCY_NS);
				v->latest_ns = 0; /* which was the blackout's */
				break;
			case 1:
				v->armed[vcpu] = 0;
				if (random_below(v, 2)) {
					assert_true(write_msr(v, vcpu, PVCLOCK_MSR_DEADLINE, 0));
				} else {
					assert_true(write_msr(v, vcpu, PVCLOCK_MSR_DEADLINE_CONTROL, 0));
					assert_true(!write_msr(v, vcpu, PVCLOCK_MSR_DEADLINE, 1)); /* #GP */
					enable(v);
				}
				break;
			case 2:
			case 3:
				pass(v, random_below(v, 1000000));
				break;
			case 4:
				arm(v, vcpu, clock_of(v, vcpu) - random_below(v, 500)); /* past: at once */
				assert_true(!v->armed[vcpu]);
				armed++;
				break;
			default:
				if (v->armed[vcpu] && random_below(v, 2))
					break;
				arm(v, vcpu, clock_of(v, vcpu) + random_below(v, 1000000));
				armed++;
			}
			/* a vCPU reads what is armed, and 0 if nothing is */
			assert_int_equal(read_msr(v, vcpu, PVCLOCK_MSR_DEADLINE), v->armed[vcpu]);
		}
		pass(v, 10000000);
		assert_true(!v->armed[0] && !v->armed[1]);
		assert_true(v->latest_ns < LATENCY_NS);
		assert_true(v->asked < 1200);
		end(v);
	}
	assert_true(armed > 5000);
	free(v);
}

/* A far one costs a second look, and a timer that is slewed makes it no later. */
static void p5_far_ones_are_not_late(void **state)
{
	struct vmm *v = calloc(1, sizeof(*v));

	(void)state;
	for (int slow = -1; slow <= 1; slow++) {
		uint64_t ns, wait_ns = 0;
		unsigned int asked = 0;

		begin(v, 3, true);
		start(v);
		enable(v);
		ns = clock_of(v, 0) + 3600000000000;
		arm(v, 0, ns);
		while (v->armed[0]) {
			assert_int_equal(pvclock_kvm_fire_deadlines(v->m.kvm, &wait_ns), 0);
			if (wait_ns == NEVER)
				break;
			/* this timer's second is 500 ppm longer or shorter */
			v->m.fake.tsc += ns_to_ticks(v, (uint64_t)((int64_t)wait_ns + (int64_t)(wait_ns / 2000) * slow)) + 1;
			asked++;
		}
		assert_true(asked < 10);
		assert_true(v->latest_ns < LATENCY_NS);
		end(v);
	}
	free(v);
}

/* What is armed travels, and fires there when the clock says so. */
static void p5_armed_where_it_goes(void **state)
{
	struct vmm *here = calloc(1, sizeof(*here)), *there = calloc(1, sizeof(*there));

	(void)state;
	for (unsigned int round = 0; round < 40; round++) {
		struct pvclock_record record = { 0 };
		struct pvclock_slope host;
		uint64_t ns, gap_ns = round % 4 * 300000;
		bool freeze = round % 2;

		begin(here, round, true);
		start(here);
		enable(here);
		struct pvclock_policy policy = pvclock_policy_default();
		policy.on[PVCLOCK_BLACKOUT_LIVE_UPDATE] = freeze ? PVCLOCK_FREEZE : PVCLOCK_ADVANCE;
		pvclock_vm_set_policy(here->m.vm, &policy);
		pass(here, 5000000);
		ns = clock_of(here, 1) + 400000;
		arm(here, 1, ns);
		assert_int_equal(pvclock_kvm_pause(here->m.kvm), 0);
		pvclock_kvm_blackout(here->m.kvm, PVCLOCK_BLACKOUT_LIVE_UPDATE);
		assert_int_equal(pvclock_kvm_save(here->m.kvm, &record), 0);
		begin(there, round + 100, true);
		there->m.fake.tsc = here->m.fake.tsc + ns_to_ticks(here, gap_ns);
		there->armed[1] = ns;
		assert_true(pvclock_slope_from_khz(there->m.fake.khz, &host));
		assert_int_equal(pvclock_kvm_restore(there->m.kvm, &record, PVCLOCK_BLACKOUT_LIVE_UPDATE, NULL, NULL, NULL), 0);
		ask(there);
		assert_true(there->armed[1] && there->wake == NEVER);
		assert_int_equal(pvclock_kvm_resume(there->m.kvm, NULL, NULL), 0);
		assert_int_equal(there->armed[1] == 0, !freeze && gap_ns > 400000);
		pass(there, 500000);
		assert_int_equal(there->taken[1], 1);
		pass(there, 5000000);
		assert_int_equal(there->taken[0] + there->taken[1], 1);
		/* and the one that it left, if it goes on after all */
		assert_int_equal(pvclock_kvm_resume(here->m.kvm, NULL, NULL), 0);
		pass(here, 5000000);
		assert_int_equal(here->taken[1], 1);
		pvclock_record_clear(&record);
		end(here);
		end(there);
	}
	free(here);
	free(there);
}

/* Whatever a guest arms: its own thread pays for what is past, and nobody is woken oftener than it leaves guest mode. */
static void p10_no_storm(void **state)
{
	struct vmm *v = calloc(1, sizeof(*v));
	uint64_t begun;

	(void)state;
	begin(v, 4, true);
	start(v);
	enable(v);
	for (unsigned int i = 0; i < 100000; i++)
		arm(v, i % 2, 1 + random_below(v, clock_of(v, 0) + 1)); /* past */
	assert_int_equal(v->taken[0] + v->taken[1], 100000);
	assert_true(v->asked == 0 && v->told == 0);
	arm(v, 0, clock_of(v, 0) + 1000000);
	for (unsigned int i = 0; i < 100000; i++)
		arm(v, 1, clock_of(v, 1) + 1000000000 + random_below(v, 1000000000)); /* later than what is waited for */
	assert_true(v->asked <= 100 && v->told == 1);
	for (unsigned int i = 0; i < 1000; i++)
		arm(v, 1, NEVER - i); /* past the end of the clock */
	v->armed[1] = 0;
	write_msr(v, 1, PVCLOCK_MSR_DEADLINE, 0);

	/* A clock that stands still before its line's anchor, a ns before the deadline. */
	struct pvclock_line line;
	struct pvclock_tsc_transform tsc;
	pvclock_vcpu_get_tsc(v->vcpus[1], &tsc);
	pvclock_vcpu_get_line(v->vcpus[1], &line);
	line.tsc = pvclock_tsc_to_guest(&tsc, (struct pvclock_host_tsc){ v->m.fake.tsc }).ticks + 100 * (uint64_t)v->m.fake.khz * 1000;
	line.ns = clock_of(v, 1);
	pvclock_vcpu_set_line(v->vcpus[1], &line);
	arm(v, 1, line.ns); /* that it says already */
	assert_true(!v->armed[1]);
	arm(v, 1, line.ns + 1);
	v->asked = 0;
	begun = v->m.fake.tsc;
	pass(v, 99000000000);
	assert_true(v->armed[1] && v->asked < 10);
	pass(v, 2000000000);
	assert_true(!v->armed[1] && v->m.fake.tsc - begun >= 100 * (uint64_t)v->m.fake.khz * 1000);
	end(v);
	free(v);
}

/*
 * The host has slept, and its TSC ran on: by the line as it stands all is due, and a freeze will say that it is not. Nobody fires
 * before that is done, by whichever thread.
 */
static void p9_nothing_fires_between_a_sleep_and_its_correction(void **state)
{
	struct vmm *v = calloc(1, sizeof(*v));

	(void)state;
	for (int freeze = 0; freeze < 2; freeze++) {
		struct pvclock_policy policy = pvclock_policy_default();
		uint64_t ns, slept_ns = 5000000000;

		begin(v, 8, true);
		start(v);
		policy.on[PVCLOCK_BLACKOUT_SUSPEND] = freeze ? PVCLOCK_FREEZE : PVCLOCK_ADVANCE;
		pvclock_vm_set_policy(v->m.vm, &policy);
		pass(v, 3000000);
		enable(v);
		ns = clock_of(v, 0) + 1000000;
		arm(v, 0, ns);
		v->m.fake.tsc += ns_to_ticks(v, slept_ns);
		v->m.fake.unheard_ticks += ns_to_ticks(v, slept_ns);
		v->m.fake.slept_ns += slept_ns;
		assert_true(pvclock_kvm_slept(v->m.kvm));
		ask(v);
		arm(v, 1, ns);
		assert_true(v->armed[0] && v->armed[1] && v->wake == NEVER);
		assert_int_equal(pvclock_kvm_pause(v->m.kvm), 0);
		ask(v);
		assert_int_equal(pvclock_kvm_resume(v->m.kvm, NULL, NULL), 0);
		assert_int_equal(v->armed[0] != 0, freeze);
		assert_int_equal(v->armed[1] != 0, freeze);
		pass(v, 2000000);
		assert_true(!v->armed[0] && !v->armed[1] && v->taken[0] + v->taken[1] == 2);
		end(v);
	}
	free(v);
}

/* By KVM_SIGNAL_MSI, to the vCPU's APIC; one that KVM does not find there is the guest's affair. */
static void interrupts_are_msis(void **state)
{
	struct vmm *v = calloc(1, sizeof(*v));
	struct pvclock_vcpu *far;
	uint64_t wait_ns;

	(void)state;
	begin(v, 5, false);
	start(v);
	enable(v);
	arm(v, 1, 1);
	assert_int_equal(v->m.fake.signals, 1);
	assert_int_equal(v->m.fake.signal.address_lo, 0xfee01000);
	assert_int_equal(v->m.fake.signal.address_hi, 0);
	assert_int_equal(v->m.fake.signal.data, VECTOR + 1);
	v->m.fake.signal_error = -EPERM;
	arm(v, 0, 1);
	assert_int_equal(v->m.fake.signals, 2);
	arm(v, 0, clock_of(v, 0) + 50000);
	v->m.fake.tsc += ns_to_ticks(v, 60000);
	assert_int_equal(pvclock_kvm_fire_deadlines(v->m.kvm, &wait_ns), -EPERM);
	assert_true(wait_ns == NEVER);
	v->m.fake.signal_error = 0;

	assert_int_equal(pvclock_vcpu_create(v->m.vm, 0x1234, &far), 0);
	assert_int_equal(pvclock_kvm_add_vcpu(v->m.kvm, far, FAKE_VCPU_FD), 0);
	assert_int_equal(pvclock_vcpu_write_msr(far, PVCLOCK_MSR_DEADLINE_CONTROL, PVCLOCK_CONTROL_ENABLE | 0x99), 0);
	assert_int_equal(pvclock_vcpu_write_msr(far, PVCLOCK_MSR_DEADLINE, 1), 0);
	assert_int_equal(pvclock_kvm_fire_deadlines(v->m.kvm, &wait_ns), 0);
	assert_int_equal(v->m.fake.signal.address_lo, 0xfee34000);
	assert_int_equal(v->m.fake.signal.address_hi, 0x1200);
	assert_int_equal(v->m.fake.signal.data, 0x99);
	/* one that is unplugged gets none */
	assert_int_equal(pvclock_vcpu_write_msr(far, PVCLOCK_MSR_DEADLINE, 1), 0);
	v->m.fake.signals = 0;
	pvclock_kvm_remove_vcpu(v->m.kvm, far);
	pvclock_vcpu_destroy(far);
	assert_int_equal(pvclock_kvm_fire_deadlines(v->m.kvm, &wait_ns), 0);
	assert_int_equal(v->m.fake.signals, 0);
	end(v);
	free(v);
}

/* Whoever a vCPU's INIT has brought there did not ask; and what was never offered is no MSR. */
static void p10_nobody_gets_what_he_did_not_ask_for(void **state)
{
	struct vmm *v = calloc(1, sizeof(*v));

	(void)state;
	begin(v, 6, true);
	start(v);
	assert_int_equal(pvclock_vm_add_memory(v->m.vm, (struct pvclock_gpa){ 0 }, sizeof(v->m.memory), v->m.memory, 0), 0);
	enable(v);
	assert_true(write_msr(v, 0, PVCLOCK_MSR_SYSTEM_TIME, 64 + 1));
	arm(v, 0, clock_of(v, 0) + 1000000);
	v->m.fake.system_time_msr = 0; /* an INIT */
	v->armed[0] = 0;
	pvclock_kvm_pause(v->m.kvm);
	pvclock_kvm_resume(v->m.kvm, NULL, NULL);
	assert_int_equal(read_msr(v, 0, PVCLOCK_MSR_DEADLINE), 0);
	assert_int_equal(read_msr(v, 0, PVCLOCK_MSR_DEADLINE_CONTROL), 0);
	pass(v, 5000000);
	pvclock_vm_offer(v->m.vm, 0);
	assert_false(write_msr(v, 1, PVCLOCK_MSR_DEADLINE, 1));
	end(v);
	free(v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p5_due_when_the_guest_reads_it),
		cmocka_unit_test(p5_armed_through_everything),
		cmocka_unit_test(p5_far_ones_are_not_late),
		cmocka_unit_test(p5_armed_where_it_goes),
		cmocka_unit_test(p10_no_storm),
		cmocka_unit_test(p9_nothing_fires_between_a_sleep_and_its_correction),
		cmocka_unit_test(interrupts_are_msis),
		cmocka_unit_test(p10_nobody_gets_what_he_did_not_ask_for),
	};

	return cmocka_run_group_tests_name("deadline", tests, NULL, NULL);
}
