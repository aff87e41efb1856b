/* SPDX-License-Identifier: MIT */
/*
 * arrive_test.c - pvclock_kvm_arrive as a property: VMs of any state, on hosts of any rate, against arithmetic in 128 bits. Two
 * vCPUs, whose counters differ, each with an armed deadline. A failure prints its seed; ARRIVE_SEED=n runs that one alone.
 */
#include "../fake/kvm.h"

#include "../../src/kvm/kvm.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SEEDS 2000
#define HOUR 3600000000000ull
#define PAGE_GPA 256u

/* --- the oracle ------------------------------------------------------------------------------ */

static uint64_t oracle(const struct pvclock_line *line, uint64_t tick)
{
	unsigned __int128 d = tick > line->tsc ? tick - line->tsc : 0, ns;

	d = line->shift < 0 ? d >> -line->shift : d << line->shift;
	ns = line->ns + (d * line->mul >> 32);
	return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

/*
 * What a line has come to at a tick, before a reader drops bits of its ticks (shift below 0): less than a ns more than what he
 * reads, and so 0 or 1 ns.
 */
static uint64_t oracle_exact(const struct pvclock_line *line, uint64_t tick)
{
	unsigned __int128 d = tick > line->tsc ? tick - line->tsc : 0;

	return line->ns + (uint64_t)(d * line->mul >> (32 - line->shift));
}

static bool same_line(const struct pvclock_line *a, const struct pvclock_line *b)
{
	return a->tsc == b->tsc && a->ns == b->ns && a->mul == b->mul && a->shift == b->shift;
}

/* --- a machine that something arrives on ------------------------------------------------------- */

struct machine {
	struct fake_kvm fake;
	struct pvclock_vm *vm;
	struct pvclock_vcpu *vcpus[2];
	struct pvclock_kvm *kvm;
	struct pvclock_slope host;
	struct pvclock_arrival_tsc tscs[2];
	struct pvclock_arrival arrival;
	uint64_t deadlines[2];
	/* what arrive() found */
	struct pvclock_arrived arrived;
	struct pvclock_reason reason;
	uint64_t wanted[2];
	_Alignas(64) uint8_t memory[4096];
};

static uint64_t seed_now; /* for the sentence of a failure */

static uint64_t pick(struct machine *m, uint64_t least, uint64_t most)
{
	return least + fake_random(&m->fake) % (most - least + 1);
}

static void new_machine(struct machine *m, uint64_t seed, enum pvclock_mode mode)
{
	struct pvclock_kvm_config config = { .os = &m->fake.os, .vm_fd = 3, .mode = mode };

	memset(m, 0, sizeof(*m));
	seed_now = seed;
	fake_kvm_init(&m->fake, seed);
	m->fake.khz = (uint32_t)pick(m, 1000000, 4000000);
	m->fake.tsc = pick(m, 1ull << 30, 1ull << 55);
	m->fake.offset = m->fake.second_offset = -m->fake.tsc; /* a new VM's counters start at 0 */
	if (seed % 2) /* more bits than a line's mul has */
		assert_true(pvclock_slope_from_khz(m->fake.khz, &m->host));
	else
		assert_true(pvclock_slope_from_kernel((uint32_t)((1000000ull << 24) / m->fake.khz), 24, &m->host));
	assert_int_equal(pvclock_vm_create(&m->fake.os, &m->vm), 0);
	assert_int_equal(pvclock_vm_add_memory(m->vm, (struct pvclock_gpa){ 0 }, sizeof(m->memory), m->memory, 0), 0);
	config.vm = m->vm;
	assert_int_equal(pvclock_kvm_attach(&config, &m->kvm, NULL), 0);
	for (uint32_t i = 0; i < 2; i++) {
		assert_int_equal(pvclock_vcpu_create(m->vm, i, &m->vcpus[i]), 0);
		assert_int_equal(pvclock_kvm_add_vcpu(m->kvm, m->vcpus[i], FAKE_VCPU_FD + (int)i), 0);
	}
}

static void end_machine(struct machine *m)
{
	for (unsigned int i = 0; i < 2; i++) {
		pvclock_kvm_remove_vcpu(m->kvm, m->vcpus[i]);
		pvclock_vcpu_destroy(m->vcpus[i]);
	}
	pvclock_kvm_detach(m->kvm);
	pvclock_vm_destroy(m->vm);
}

/*
 * A guest's state: counters anywhere, `apart` from each other; a line that began up to some hours before, with this
 * slope; deadlines around the switch. No account of the VMM's.
 */
static void new_state(struct machine *m, const struct pvclock_slope *slope, uint64_t apart)
{
	uint64_t tsc = pick(m, 1ull << 50, 1ull << 60);

	m->tscs[0] = (struct pvclock_arrival_tsc){ .vcpu = m->vcpus[0], .tsc = tsc };
	m->tscs[1] = (struct pvclock_arrival_tsc){ .vcpu = m->vcpus[1], .tsc = tsc + apart };
	m->arrival = (struct pvclock_arrival){ .host = &m->host, .tscs = m->tscs, .tsc_count = 2, .ns = UINT64_MAX, .kvm_has_deadlines = true };
	assert_true(pvclock_line_make(&m->arrival.line, tsc - pick(m, 0, 1ull << 46), pick(m, 0, 1ull << 60), slope, NULL));
	for (unsigned int i = 0; i < 2; i++) {
		m->deadlines[i] = m->tscs[i].tsc - (1ull << 33) + pick(m, 0, 1ull << 42);
		m->fake.deadline[i] = m->deadlines[i];
	}
}

static uint64_t real_offset(const struct machine *m, unsigned int vcpu)
{
	return vcpu ? m->fake.second_offset : m->fake.offset;
}

#define require(holds)                                                                                        \
	do {                                                                                                  \
		if (!(holds))                                                                                 \
			fail_msg("ARRIVE_SEED=%llu repeats it: %s", (unsigned long long)seed_now, #holds);     \
	} while (0)

/* Arrives, and resumes. The counters' offsets as they were wanted come back: those that hold, but for what the line moved. */
static void arrive(struct machine *m)
{
	struct pvclock_correction correction;
	uint64_t before = m->fake.tsc, after;

	for (unsigned int i = 0; i < 2; i++)
		pvclock_vcpu_restore_msr(m->vcpus[i], PVCLOCK_MSR_SYSTEM_TIME, (PAGE_GPA + 64 * i) | PVCLOCK_MSR_ENABLE);
	require(pvclock_kvm_arrive(m->kvm, &m->arrival, &m->arrived, &m->reason) == 0);
	after = m->fake.tsc;
	require(pvclock_kvm_resume(m->kvm, &correction, NULL) == 0);
	m->wanted[0] = m->fake.offset - (uint64_t)correction.moved_ticks;
	m->wanted[1] = m->wanted[0] + (m->tscs[1].tsc - m->tscs[0].tsc);
	/* the first counter reads what it was saved as at an instant within the call */
	require(m->tscs[0].tsc - m->wanted[0] >= before && m->tscs[0].tsc - m->wanted[0] <= after);
	require(m->fake.offset_ignored || correction.moved_ticks == 0);
}

/*
 * At any instant from the switch on, each vCPU reads the time that `line` has for the counter that was asked for; from
 * its own page too. As far apart as the counters that KVM runs are the lines.
 */
static void clock_is(struct machine *m, const struct pvclock_line *line)
{
	uint64_t from = m->tscs[0].tsc - m->wanted[0];

	for (unsigned int i = 0; i < 2; i++) {
		/* a guest that is older than a host whose counter it has to use: its anchor would lie before tick 0 (line.h) */
		bool before_0 = line->tsc - m->wanted[0] + real_offset(m, i) > from + real_offset(m, i);
		struct pvclock_snapshot page;
		struct pvclock_line mine;

		require(pvclock_vcpu_get_line(m->vcpus[i], &mine) == 0);
		require(pvclock_page_read(m->memory + PAGE_GPA + 64 * i, &page) == PVCLOCK_READ_OK);
		require(same_line(&page.line, &mine));
		require(page.flags == (PVCLOCK_GUEST_STOPPED | (m->fake.offset == m->fake.second_offset ? PVCLOCK_TSC_STABLE : 0)));
		for (unsigned int n = 0; n < 50; n++) {
			uint64_t at = from + (n ? pick(m, 0, 1ull << (n + 5)) : 0);

			int64_t less = (int64_t)(oracle(line, at + m->wanted[0]) - oracle(&mine, at + real_offset(m, i)));

			require(before_0 ? less >= -1 && less <= 2 : less == 0);
		}
	}
}

/*
 * Each deadline fires at the first tick of its vCPU's counter at which the clock has reached what it was for: never
 * early, never late.
 */
static void deadlines_are(struct machine *m, const struct pvclock_line *old, bool same_rate)
{
	for (unsigned int i = 0; i < 2; i++) {
		uint64_t ahead = m->tscs[i].tsc - m->tscs[0].tsc, ns = oracle(old, m->deadlines[i] - ahead);
		uint64_t moved = real_offset(m, i) - m->wanted[i];
		struct pvclock_line mine;

		require(m->fake.armed_with[i] == real_offset(m, i)); /* after the offset, or KVM's timer is where it was */
		if (same_rate) {
			require(m->fake.deadline[i] == m->deadlines[i] + moved);
			continue;
		}
		require(pvclock_vcpu_get_line(m->vcpus[i], &mine) == 0);
		if (m->deadlines[i] <= m->tscs[i].tsc) { /* it has passed, and fires */
			require(m->fake.deadline[i] != 0 && m->fake.deadline[i] <= m->tscs[i].tsc + moved);
			continue;
		}
		require(oracle(&mine, m->fake.deadline[i]) >= ns);
		/* or at the switch, before which there is none */
		require(oracle(&mine, m->fake.deadline[i] - 1) < ns || m->fake.deadline[i] == m->tscs[i].tsc + moved);
	}
}

/* Runs a property for every seed, or for the one that is asked for. */
static void for_seeds(void (*property)(uint64_t seed))
{
	const char *one = getenv("ARRIVE_SEED");

	for (uint64_t seed = 1; one == NULL && seed <= SEEDS; seed++)
		property(seed);
	if (one)
		property(strtoull(one, NULL, 10));
}

/* --- P1: the same rate ------------------------------------------------------------------------------ */

/* Own mode: the kernel's clock, which other interfaces are computed from, reads about what the guest's does. */
static void kernel_follows(struct machine *m)
{
	uint64_t ns;

	require(pvclock_vm_now(m->vm, &ns) == 0);
	require(fake_kvm_clock(&m->fake, m->fake.tsc) + 100000 - ns < 200000);
}

/* A record of it names this host's own slope, to all its bits. */
static void knows_its_host(struct machine *m)
{
	struct pvclock_record record;

	require(pvclock_kvm_pause(m->kvm) == 0);
	require(pvclock_kvm_save(m->kvm, &record) == 0);
	require(pvclock_slope_difference(&record.host, &m->host) == 0);
	require(record.host.mantissa == m->host.mantissa);
	pvclock_record_clear(&record);
	require(pvclock_kvm_resume(m->kvm, NULL, NULL) == 0);
}

static void same_rate(uint64_t seed)
{
	struct pvclock_line mine;
	struct machine m;

	new_machine(&m, seed, PVCLOCK_MODE_OWN);
	new_state(&m, &m.host, seed % 2 ? 0 : pick(&m, 1, 1ull << 40) - (1ull << 39));
	if (seed % 3 == 0) /* the VMM's own account, which is less exact */
		m.arrival.ns = oracle(&m.arrival.line, m.tscs[0].tsc) + pick(&m, 0, 2 * HOUR) - HOUR;
	if (seed % 5 == 0) { /* a VM that has a clock already: a reset, or a snapshot loaded into it */
		require(pvclock_kvm_start(m.kvm, &m.host) == 0);
		m.fake.tsc += pick(&m, 0, 1ull << 40);
		if (seed % 2)
			require(pvclock_kvm_pause(m.kvm) == 0);
	}
	arrive(&m);
	require(m.arrived.exact && m.arrived.line_used && m.arrived.rate_difference == 0 && m.reason.code == PVCLOCK_REASON_NONE);
	require(m.arrived.apart_ns ==
		(m.arrival.ns == UINT64_MAX ? 0 : (int64_t)(m.arrival.ns - oracle(&m.arrival.line, m.tscs[0].tsc))));
	pvclock_vcpu_get_line(m.vcpus[0], &mine);
	require(same_line(&mine, &m.arrival.line));
	require(m.fake.second_offset - m.fake.offset == m.tscs[1].tsc - m.tscs[0].tsc);
	clock_is(&m, &m.arrival.line);
	kernel_follows(&m);
	knows_its_host(&m);
	deadlines_are(&m, &m.arrival.line, true);
	end_machine(&m);
}

static void p1_same_rate_is_the_same_line(void **state)
{
	(void)state;
	for_seeds(same_rate);
}

/* --- P2, P3, P5: another rate ------------------------------------------------------------------------- */

static void other_slope(struct machine *m, uint64_t seed, struct pvclock_slope *slope)
{
	struct pvclock_slope exact = m->host;

	switch (seed % 5) {
	case 0: /* 1 GHz there */
		assert_true(pvclock_slope_from_khz(1000000, slope));
		break;
	case 1: /* 1 ppm off, either way */
		exact.mantissa = seed % 8 < 4 ? exact.mantissa - exact.mantissa / 1000000 : exact.mantissa / 1000000 + exact.mantissa;
		*slope = exact;
		break;
	case 2:
		assert_true(pvclock_slope_from_khz(2600000, slope));
		break;
	case 3: /* twice as fast: the same mul */
		exact.exponent++;
		*slope = exact;
		break;
	default: /* from a counter of 62 MHz, whose shift is positive, to one of 8 GHz */
		assert_true(pvclock_slope_from_khz(pick(m, 62000, 8000000), slope));
	}
}

/* At the switch the new line is where the old one was, to the ns and never behind it. */
static void continuous(const struct machine *m, const struct pvclock_line *mine)
{
	uint64_t at = m->tscs[0].tsc, now = oracle(mine, at);

	require(now == oracle_exact(&m->arrival.line, at) || same_line(mine, &m->arrival.line));
	require(now - oracle(&m->arrival.line, at) <= 1);
	require(m->arrival.line.shift < 0 || now == oracle(&m->arrival.line, at));
}

static void other_rate(uint64_t seed)
{
	struct pvclock_slope there, old;
	struct pvclock_line mine, unit;
	struct machine m;

	new_machine(&m, seed, PVCLOCK_MODE_OWN);
	other_slope(&m, seed, &there);
	m.fake.offset_ignored = seed % 7 == 0;
	new_state(&m, &there, seed % 2 ? 0 : pick(&m, 1, 1ull << 40) - (1ull << 39));
	arrive(&m);
	pvclock_vcpu_get_line(m.vcpus[0], &mine);
	pvclock_line_make(&unit, 0, 0, &m.host, NULL);
	pvclock_slope_from_line(&m.arrival.line, &old);
	require(mine.mul == unit.mul && mine.shift == unit.shift);
	require(m.arrived.line_used && !m.arrived.exact && m.arrived.rate_difference == pvclock_slope_difference(&m.host, &old));
	mine.tsc -= m.fake.offset - m.wanted[0];
	continuous(&m, &mine);
	clock_is(&m, &mine);
	deadlines_are(&m, &m.arrival.line, false);
	end_machine(&m);
}

static void p2_other_rate_is_continuous(void **state)
{
	(void)state;
	for_seeds(other_rate);
}

/* --- counters that cannot be set ------------------------------------------------------------------------- */

static void offset_ignored(uint64_t seed)
{
	struct machine m;

	new_machine(&m, seed, PVCLOCK_MODE_OWN);
	m.fake.offset_ignored = true;
	m.fake.offset = m.fake.second_offset = seed % 2 ? 0 : pick(&m, 0, 1ull << 40);
	if (seed % 3 == 0)
		m.fake.second_offset += pick(&m, 0, 1ull << 30);
	new_state(&m, &m.host, seed % 5 < 2 ? 0 : pick(&m, 1, 1ull << 30));
	arrive(&m);
	require(m.reason.code == PVCLOCK_REASON_OFFSET_IGNORED && m.arrived.line_used && m.arrived.exact);
	require(m.fake.offset != m.wanted[0]); /* told by the resume, and used above */
	clock_is(&m, &m.arrival.line);
	deadlines_are(&m, &m.arrival.line, true);
	end_machine(&m);
}

static void an_ignored_offset_moves_the_line(void **state)
{
	(void)state;
	for_seeds(offset_ignored);
}

/* --- what is not believed ----------------------------------------------------------------------------------- */

/* `apart` of the VMM's account from the page's: within an hour the page is right, beyond it the VMM is. */
static void believe(uint64_t seed, int64_t apart, bool believed)
{
	struct pvclock_line mine;
	uint64_t ns;
	struct machine m;

	new_machine(&m, seed, PVCLOCK_MODE_OWN);
	new_state(&m, &m.host, 0);
	m.arrival.line.ns += 1ull << 45; /* so that there is an hour to go back */
	m.arrival.ns = oracle(&m.arrival.line, m.tscs[0].tsc) + (uint64_t)apart;
	arrive(&m);
	pvclock_vcpu_get_line(m.vcpus[0], &mine);
	ns = believed ? m.arrival.ns - (uint64_t)apart : m.arrival.ns;
	require(m.arrived.line_used == believed && m.arrived.exact == believed && m.arrived.apart_ns == apart);
	require(oracle(&mine, m.tscs[0].tsc) == ns);
	require((m.reason.code == PVCLOCK_REASON_NONE) == believed);
	if (!believed) {
		require(m.reason.code == PVCLOCK_REASON_RECORD_FIELD && strstr(m.reason.text, "not believed"));
		require(m.arrived.rate_difference == 0);
	}
	clock_is(&m, &mine);
	end_machine(&m);
}

static void p10_a_page_is_believed_for_an_hour(void **state)
{
	struct machine m;
	uint64_t apart;

	(void)state;
	believe(1, (int64_t)HOUR, true);
	believe(2, -(int64_t)HOUR, true);
	believe(3, (int64_t)HOUR + 1, false);
	believe(4, -(int64_t)HOUR - 1, false);
	believe(5, 0, true);
	for (uint64_t seed = 10; seed < 500; seed++) {
		memset(&m, 0, sizeof(m));
		m.fake.random = seed;
		apart = fake_random(&m.fake) % (1ull << (1 + seed % 58));
		believe(seed, seed % 2 && apart < 1ull << 45 ? -(int64_t)apart : (int64_t)apart, apart <= HOUR);
	}
}

/* A guest that has no page: the clock goes on from what the VMM says. */
static void a_clock_without_a_page_goes_on(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed < 200; seed++) {
		struct pvclock_line mine, unit;
		struct machine m;

		new_machine(&m, seed, PVCLOCK_MODE_OWN);
		if (seed % 4 == 0) { /* the slope that is taken where none is known */
			m.fake.khz = 2000000;
			assert_true(pvclock_slope_from_khz(m.fake.khz, &m.host));
		}
		new_state(&m, &m.host, 0);
		m.arrival.line = (struct pvclock_line){ .shift = (int8_t)(seed % 2 ? 0 : -128) };
		m.arrival.ns = pick(&m, 0, 1ull << 60);
		m.fake.deadline[0] = 0; /* not armed */
		arrive(&m);
		require(!m.arrived.exact && !m.arrived.line_used && m.arrived.apart_ns == 0);
		require(m.reason.code == PVCLOCK_REASON_NONE);
		pvclock_vcpu_get_line(m.vcpus[0], &mine);
		pvclock_line_make(&unit, 0, 0, &m.host, NULL);
		require(mine.mul == unit.mul && mine.shift == unit.shift && oracle(&mine, m.tscs[0].tsc) == m.arrival.ns);
		require(m.fake.deadline[0] == 0 && m.fake.armed_with[0] == 0);
		clock_is(&m, &mine);
		end_machine(&m);
	}
}

/* Every tick of a counter can be the deadline that 0 would be, were it not what disarms the timer. */
static void a_deadline_is_never_lost(void **state)
{
	uint64_t at = 5; /* long passed; then the one that would become 0 */

	(void)state;
	for (unsigned int round = 0; round < 2; round++) {
		struct machine m;

		new_machine(&m, 77, PVCLOCK_MODE_OWN);
		m.fake.offset_ignored = true;
		m.fake.offset = m.fake.second_offset = 0;
		new_state(&m, &m.host, 0);
		m.fake.deadline[0] = at;
		arrive(&m);
		require(m.fake.deadline[0] == 1);
		at = m.wanted[0];
		end_machine(&m);
	}
}

/* A rate that this host does not run, and imitates: the arrival says so. */
static void p4_catchup_is_seen(void **state)
{
	struct pvclock_arrived arrived;
	struct pvclock_reason reason;
	struct machine m;

	(void)state;
	new_machine(&m, 3, PVCLOCK_MODE_OWN);
	new_state(&m, &m.host, 0);
	m.fake.khz *= 2;
	require(pvclock_kvm_arrive(m.kvm, &m.arrival, &arrived, &reason) == 0);
	require(!pvclock_vm_stable(m.vm, &reason) && reason.code == PVCLOCK_REASON_TSC_CATCHUP);
	end_machine(&m);
}

/* Refused, and as it was: it can be paused, which a VM that is paused cannot. */
static void unchanged(struct machine *m, const struct pvclock_line *line, int expected, int error)
{
	struct pvclock_line mine;

	require(error == expected);
	require(m->fake.offset_writes == 0 && m->fake.armed_with[0] == 0);
	require(pvclock_vcpu_get_line(m->vcpus[0], &mine) == 0 && same_line(&mine, line));
	require(pvclock_kvm_pause(m->kvm) == 0);
	require(pvclock_kvm_resume(m->kvm, NULL, NULL) == 0);
}

static void what_says_nothing_is_refused(void **state)
{
	const struct pvclock_slope none = { 0 }, impossible = { 1ull << 63, -120 };
	struct pvclock_arrived arrived;
	struct pvclock_reason reason;
	struct pvclock_arrival empty;
	struct pvclock_line before;
	struct machine m;

	(void)state;
	new_machine(&m, 1, PVCLOCK_MODE_OWN);
	new_state(&m, &m.host, 0);
	require(pvclock_kvm_start(m.kvm, &m.host) == 0);
	pvclock_vcpu_get_line(m.vcpus[0], &before);
	empty = m.arrival;
	empty.line.mul = 0;
	unchanged(&m, &before, -EINVAL, pvclock_kvm_arrive(m.kvm, &empty, &arrived, &reason));
	empty = m.arrival;
	empty.line.shift = 32;
	unchanged(&m, &before, -EINVAL, pvclock_kvm_arrive(m.kvm, &empty, NULL, NULL));
	empty = m.arrival;
	empty.tsc_count = 0;
	unchanged(&m, &before, -EINVAL, pvclock_kvm_arrive(m.kvm, &empty, &arrived, &reason));
	empty = m.arrival;
	empty.host = &none;
	unchanged(&m, &before, -EINVAL, pvclock_kvm_arrive(m.kvm, &empty, &arrived, &reason));
	empty.host = &impossible;
	unchanged(&m, &before, -EINVAL, pvclock_kvm_arrive(m.kvm, &empty, &arrived, &reason));
	end_machine(&m);

	new_machine(&m, 2, PVCLOCK_MODE_STOCK);
	new_state(&m, &m.host, 0);
	assert_int_equal(pvclock_kvm_arrive(m.kvm, &m.arrival, &arrived, &reason), -ENOTSUP);
	assert_int_equal(m.fake.offset_writes, 0);
	end_machine(&m);
}

/* --- steer mode: the kernel publishes --------------------------------------------------------------------------- */

static void steered(uint64_t seed)
{
	struct pvclock_correction correction;
	struct pvclock_slope there;
	struct pvclock_arrived arrived;
	struct pvclock_reason reason;
	struct pvclock_line line, mine;
	struct machine m;

	new_machine(&m, seed, PVCLOCK_MODE_STEER);
	pvclock_line_make_kvm(&line, 0, 0, m.fake.khz);
	pvclock_slope_from_line(&line, &there);
	if (seed % 2)
		other_slope(&m, seed / 2, &there);
	new_state(&m, &there, 0);
	if (seed % 3 == 0) /* the VMM brought its kHz along: near enough for KVM to take them, and nothing comes of it */
		m.fake.vcpu_khz[0] = m.fake.khz + 1 + (uint32_t)pick(&m, 0, m.fake.khz / 5000 - 1);
	m.fake.anchor_tsc = m.fake.tsc;
	m.fake.snapshot_pending = true;
	require(pvclock_kvm_arrive(m.kvm, &m.arrival, &arrived, &reason) == 0);
	require(arrived.line_used && reason.code == PVCLOCK_REASON_NONE && m.fake.offset == m.fake.second_offset);
	require(pvclock_kvm_settle(m.kvm, m.vcpus[0]) == 0 && pvclock_kvm_settle(m.kvm, m.vcpus[1]) == 0);
	require(!m.fake.snapshot_pending);
	require(pvclock_kvm_resume(m.kvm, &correction, &reason) == 0); /* nor is the slope another than the kernel's */
	require(correction.residual_ns >= 0 && correction.residual_ns <= 1);
	pvclock_vcpu_get_line(m.vcpus[0], &mine);
	if (seed % 2 == 0)
		require(arrived.exact && same_line(&mine, &m.arrival.line));
	continuous(&m, &mine);
	/* what the kernel publishes, against the line that it was aimed at */
	for (unsigned int i = 0; i < 50; i++) {
		uint64_t at = m.fake.tsc + pick(&m, 0, 1ull << (i % 40));
		int64_t apart = (int64_t)(fake_kvm_clock(&m.fake, at) - oracle(&mine, at + m.fake.offset));

		require(apart >= 0 && apart <= 1);
	}
	m.wanted[0] = m.fake.offset;
	m.wanted[1] = m.fake.second_offset;
	deadlines_are(&m, &m.arrival.line, seed % 2 == 0);
	end_machine(&m);
}

static void p1_steer_arrives_within_1_ns(void **state)
{
	(void)state;
	for_seeds(steered);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(p1_same_rate_is_the_same_line),
		cmocka_unit_test(p2_other_rate_is_continuous),
		cmocka_unit_test(an_ignored_offset_moves_the_line),
		cmocka_unit_test(p10_a_page_is_believed_for_an_hour),
		cmocka_unit_test(a_clock_without_a_page_goes_on),
		cmocka_unit_test(a_deadline_is_never_lost),
		cmocka_unit_test(p4_catchup_is_seen),
		cmocka_unit_test(what_says_nothing_is_refused),
		cmocka_unit_test(p1_steer_arrives_within_1_ns),
	};

	return cmocka_run_group_tests_name("arrive", tests, NULL, NULL);
}
