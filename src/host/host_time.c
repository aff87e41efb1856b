/* SPDX-License-Identifier: MIT */
/*
 * host_time.c - one instant by all of a host's clocks, and the time between two such instants, of one host or of two.
 * TAI is what both count alike: no leap second is in it, no time zone, and no policy.
 */
#include <pvclock/policy.h>

#include <errno.h>
#include <string.h>
#include <sys/timex.h>

#define NS_PER_SEC 1000000000ull
#define NS_PER_US 1000u
#define TRIES 5 /* the narrowest bracket wins; and the TAI offset may be changed under us */
#define NARROW_NS 1000u
#define LEAP_NS NS_PER_SEC /* what UTC may be off by where nobody tells TAI ... */
#define LEAPS_APART_NS (181 * 86400 * NS_PER_SEC) /* ... and again from one end of June or December to the next */

static int read_clock(const struct pvclock_os *os, clockid_t clock, uint64_t *ns)
{
	struct timespec ts;
	int error = os->ops->clock_gettime(os->ctx, clock, &ts);

	if (error == 0)
		*ns = (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
	return error;
}

static void read_status(const struct pvclock_os *os, struct pvclock_host_time *time)
{
	struct timex status = { .modes = 0 };
	int state = os->ops->adjtimex ? os->ops->adjtimex(os->ctx, &status) : -ENOSYS;

	time->max_error_ns = time->estimated_error_ns = PVCLOCK_ERROR_UNKNOWN;
	time->tai_offset = 0;
	time->state = TIME_ERROR;
	if (state < 0)
		return;
	time->max_error_ns = (uint64_t)status.maxerror * NS_PER_US;
	time->estimated_error_ns = (uint64_t)status.esterror * NS_PER_US;
	time->tai_offset = status.tai;
	time->state = (uint32_t)state;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static void read_boot_id(const struct pvclock_os *os, uint8_t id[PVCLOCK_BOOT_ID_SIZE])
{
	char text[64];
	size_t digits = 0;

	memset(id, 0, PVCLOCK_BOOT_ID_SIZE);
	if (!os->ops->read_file || os->ops->read_file(os->ctx, "/proc/sys/kernel/random/boot_id", text, sizeof(text)) < 0)
		return;
	for (const char *c = text; *c && digits < 2 * PVCLOCK_BOOT_ID_SIZE; c++) {
		int digit = hex_digit(*c);

		if (digit < 0)
			continue;
		id[digits / 2] = (uint8_t)(id[digits / 2] << 4 | digit);
		digits++;
	}
	if (digits < 2 * PVCLOCK_BOOT_ID_SIZE)
		memset(id, 0, PVCLOCK_BOOT_ID_SIZE);
}

/* All clocks between two reads of the TSC, and these between two of a clock that nobody steps. */
static int read_once(const struct pvclock_os *os, struct pvclock_host_time *time)
{
	uint64_t begin, end, first;
	int error;

	read_status(os, time);
	error = read_clock(os, CLOCK_MONOTONIC_RAW, &begin);
	first = os->ops->read_tsc(os->ctx).ticks;
	if (error == 0)
		error = read_clock(os, CLOCK_TAI, &time->tai_ns);
	if (error == 0)
		error = read_clock(os, CLOCK_REALTIME, &time->realtime_ns);
	if (error == 0)
		error = read_clock(os, CLOCK_BOOTTIME, &time->boottime_ns);
	time->at = (struct pvclock_host_tsc){ first + (os->ops->read_tsc(os->ctx).ticks - first) / 2 };
	if (error == 0)
		error = read_clock(os, CLOCK_MONOTONIC_RAW, &end);
	if (error == 0)
		time->bracket_ns = end - begin < UINT32_MAX ? (uint32_t)(end - begin) : UINT32_MAX;
	return error;
}

int pvclock_host_time_refresh(const struct pvclock_os *os, struct pvclock_host_time *time)
{
	struct pvclock_host_time best = *time, next = *time;
	int found = 0, error;

	for (int i = 0; i < TRIES && (found == 0 || best.bracket_ns > NARROW_NS); i++) {
		error = read_once(os, &next);
		if (error)
			return error;
		/* the offset may have changed between the reads: CLOCK_TAI and CLOCK_REALTIME then tell of two of them */
		int64_t apart = (int64_t)(next.tai_ns - next.realtime_ns - (uint64_t)(next.tai_offset * (int64_t)NS_PER_SEC));
		bool agree = apart > -(int64_t)NS_PER_SEC / 2 && apart < (int64_t)NS_PER_SEC / 2;

		if (found == 0 || (agree && next.bracket_ns < best.bracket_ns))
			best = next;
		found += agree;
	}
	if (found == 0) /* no TAI to go by */
		best.tai_offset = 0;
	*time = best;
	return 0;
}

int pvclock_host_time_read(const struct pvclock_os *os, struct pvclock_host_time *time)
{
	read_boot_id(os, time->boot_id);
	return pvclock_host_time_refresh(os, time);
}

bool pvclock_host_time_same_boot(const struct pvclock_host_time *a, const struct pvclock_host_time *b)
{
	static const uint8_t unknown[PVCLOCK_BOOT_ID_SIZE];

	return memcmp(a->boot_id, b->boot_id, sizeof(unknown)) == 0 && memcmp(a->boot_id, unknown, sizeof(unknown)) != 0;
}

static uint64_t add(uint64_t a, uint64_t b)
{
	uint64_t sum;

	return __builtin_add_overflow(a, b, &sum) ? PVCLOCK_ERROR_UNKNOWN : sum;
}

/* now - then, as far as 64 bits tell it. */
static int64_t difference(uint64_t now, uint64_t then)
{
	if (now >= then)
		return now - then > INT64_MAX ? INT64_MAX : (int64_t)(now - then);
	return then - now > INT64_MAX ? -INT64_MAX : -(int64_t)(then - now);
}

static uint64_t magnitude(int64_t ns)
{
	return ns < 0 ? -(uint64_t)ns : (uint64_t)ns;
}

/* A clock that nothing disciplines has no bound: what the kernel then says (16 s) is only as far as it counts. */
static uint64_t bound_of(const struct pvclock_host_time *time)
{
	return time->state == TIME_ERROR ? PVCLOCK_ERROR_UNKNOWN : time->max_error_ns;
}

/* A host that was never told its offset has CLOCK_TAI equal to CLOCK_REALTIME. */
static bool knows_tai(const struct pvclock_host_time *time)
{
	return time->tai_offset != 0;
}

void pvclock_elapsed_measure(const struct pvclock_host_time *then, const struct pvclock_host_time *now,
			     struct pvclock_elapsed *elapsed)
{
	uint64_t brackets = (uint64_t)then->bracket_ns + now->bracket_ns;

	if (pvclock_host_time_same_boot(then, now)) {
		elapsed->by = PVCLOCK_BY_BOOTTIME;
		elapsed->measured_ns = difference(now->boottime_ns, then->boottime_ns);
		elapsed->bound_ns = brackets;
	} else {
		elapsed->by = knows_tai(then) && knows_tai(now) ? PVCLOCK_BY_TAI : PVCLOCK_BY_REALTIME;
		elapsed->measured_ns = elapsed->by == PVCLOCK_BY_TAI ? difference(now->tai_ns, then->tai_ns) :
								       difference(now->realtime_ns, then->realtime_ns);
		elapsed->bound_ns = add(add(bound_of(then), bound_of(now)), brackets);
		if (elapsed->by == PVCLOCK_BY_REALTIME)
			elapsed->bound_ns = add(elapsed->bound_ns, LEAP_NS * (1 + magnitude(elapsed->measured_ns) / LEAPS_APART_NS));
	}
	elapsed->ns = elapsed->measured_ns > 0 ? (uint64_t)elapsed->measured_ns : 0;
}
