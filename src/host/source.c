/* SPDX-License-Identifier: MIT */
/* source.c - opens the kind of source that the host's clocksource calls for, and keeps an eye on the clocksource. */
#define _GNU_SOURCE
#include "source.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLOCKSOURCE_FOLDER "/sys/devices/system/clocksource/clocksource0/"
#define CLOCKSOURCE_CURRENT CLOCKSOURCE_FOLDER "current_clocksource"
#define CLOCKSOURCE_AVAILABLE CLOCKSOURCE_FOLDER "available_clocksource"

/* Reading the clocksource costs more than a sample: once in so long, and before anything is called proven. */
#define CLOCKSOURCE_INTERVAL_NS 100000000u
/* How often learn() samples: the proof waits for time to pass, not for the number of samples. */
#define LEARN_INTERVAL_NS 10000000u

static const struct pvclock_source_kind *const kinds[] = {
	&pvclock_source_tsc,
};

/* A word of the clocksource files, which are one line of words. */
static bool has_word(const char *text, const char *word)
{
	size_t length = strlen(word);

	while (*text != '\0') {
		size_t here = strcspn(text, " \n");

		if (here == length && strncmp(text, word, length) == 0)
			return true;
		text += here;
		text += strspn(text, " \n");
	}
	return false;
}

static int read_clocksource(const struct pvclock_os *os, char name[32], struct pvclock_reason *reason)
{
	char text[64];
	ssize_t length = os->ops->read_file(os->ctx, CLOCKSOURCE_CURRENT, text, sizeof(text));

	if (length < 0) {
		pvclock_reason_set(reason, PVCLOCK_REASON_OS,
				   "Reading " CLOCKSOURCE_CURRENT " failed with error %d: is /sys mounted?",
				   (int)-length);
		return (int)length;
	}
	text[strcspn(text, "\n")] = '\0';
	snprintf(name, 32, "%.31s", text);
	return 0;
}

/* Why a clocksource gives no line, and the way out. */
static void explain_clocksource(const struct pvclock_os *os, const char *name, struct pvclock_reason *reason)
{
	char available[256];
	const char *is, *way_out;

	if (os->ops->read_file(os->ctx, CLOCKSOURCE_AVAILABLE, available, sizeof(available)) < 0)
		available[0] = '\0';
	if (strcmp(name, "tsc-early") == 0) {
		pvclock_reason_set(reason, PVCLOCK_REASON_CLOCKSOURCE,
				   "The host kernel keeps time by tsc-early, a TSC rate that it is still refining; "
				   "it takes tsc within seconds of its boot: try again.");
		return;
	}
	if (strcmp(name, "kvm-clock") == 0 || strncmp(name, "hyperv_clocksource", 18) == 0 || strcmp(name, "xen") == 0)
		is = "whose line pvclock cannot learn yet";
	else
		is = "which is no function of the TSC";
	if (has_word(available, "tsc"))
		way_out = "switch it with: echo tsc > " CLOCKSOURCE_CURRENT;
	else
		way_out = "the kernel has given up the TSC or was told to (see: dmesg | grep -i tsc), and offers no "
			  "tsc to switch to";
	pvclock_reason_set(reason, PVCLOCK_REASON_CLOCKSOURCE, "The host kernel keeps time by %s, %s; %s.",
			   name, is, way_out);
}

int pvclock_source_lose(struct pvclock_source *source, int error, struct pvclock_reason *reason,
			enum pvclock_reason_code code, const char *format, ...)
{
	va_list arguments;

	source->error = error;
	source->proven = false;
	source->candidates = 0;
	source->reason.code = code;
	va_start(arguments, format);
	if (vsnprintf(source->reason.text, sizeof(source->reason.text), format, arguments) < 0)
		source->reason.text[0] = '\0';
	va_end(arguments);
	if (reason != NULL)
		*reason = source->reason;
	return error;
}

int pvclock_source_check_clocksource(struct pvclock_source *source, struct pvclock_reason *reason)
{
	char name[32];
	int error = read_clocksource(source->os, name, reason);

	if (error < 0)
		return error;
	source->clocksource_checked_ns = source->last.ns;
	if (strcmp(name, source->kind->clocksource) == 0)
		return 0;
	/* the old name is what the caller wants to hear of first; the new one is what it can be switched back from */
	memcpy(source->clocksource, name, sizeof(name));
	return pvclock_source_lose(source, -ENOTSUP, reason, PVCLOCK_REASON_CLOCKSOURCE,
				   "The host kernel switched its clocksource from %s to %s, and so to another line; "
				   "switch back with: echo %s > " CLOCKSOURCE_CURRENT " and open the source again.",
				   source->kind->clocksource, name, source->kind->clocksource);
}

int pvclock_source_open(const struct pvclock_os *os, struct pvclock_source **out, struct pvclock_reason *reason)
{
	struct pvclock_source *source;
	int error;

	pvclock_reason_clear(reason);
	source = calloc(1, sizeof(*source));
	if (source == NULL)
		return -ENOMEM;
	source->os = os;
	source->bracket_ticks = UINT64_MAX / 2;
	source->candidates = UINT64_MAX;
	pvclock_prover_init(&source->prover);

	error = read_clocksource(os, source->clocksource, reason);
	if (error < 0)
		goto fail;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strcmp(kinds[i]->clocksource, source->clocksource) == 0)
			source->kind = kinds[i];
	if (source->kind == NULL) {
		explain_clocksource(os, source->clocksource, reason);
		error = -ENOTSUP;
		goto fail;
	}
	error = source->kind->check(source, reason);
	if (error < 0)
		goto fail;
	error = pvclock_source_sample(source, reason);
	if (error < 0 && error != -EAGAIN)
		goto fail;
	pvclock_reason_clear(reason);
	*out = source;
	return 0;

fail:
	free(source);
	return error;
}

void pvclock_source_close(struct pvclock_source *source)
{
	free(source);
}

int pvclock_source_sample(struct pvclock_source *source, struct pvclock_reason *reason)
{
	int result, error;

	pvclock_reason_clear(reason);
	if (source->error < 0) {
		if (reason != NULL)
			*reason = source->reason;
		return source->error;
	}
	result = source->kind->sample(source, reason);
	if (result < 0 && result != -EAGAIN) {
		/* a switched clocksource is first seen as a slope that fits no longer: name the cause */
		if (source->error < 0)
			(void)pvclock_source_check_clocksource(source, reason);
		return result;
	}
	if (source->last.ns - source->clocksource_checked_ns >= CLOCKSOURCE_INTERVAL_NS) {
		error = pvclock_source_check_clocksource(source, reason);
		if (error < 0)
			return error;
	}
	return result;
}

int pvclock_source_learn(struct pvclock_source *source, uint64_t timeout_ns, struct pvclock_reason *reason)
{
	uint64_t start_ns = source->last.ns;

	for (;;) {
		int error = pvclock_source_sample(source, reason);
		uint64_t passed_ns, left_ns;

		if (error != -EAGAIN)
			return error;
		passed_ns = source->last.ns - start_ns;
		if (passed_ns >= timeout_ns)
			return -ETIMEDOUT;
		left_ns = timeout_ns - passed_ns;
		if (left_ns > LEARN_INTERVAL_NS)
			left_ns = LEARN_INTERVAL_NS;
		error = source->os->ops->sleep(source->os->ctx, left_ns);
		/* an interrupted sleep only means a sample sooner */
		if (error < 0 && error != -EINTR) {
			pvclock_reason_set(reason, PVCLOCK_REASON_OS, "Sleeping failed with error %d.", -error);
			return error;
		}
	}
}

/* mult / 2^shift of a slope that has such a form, as Linux would have it. */
static bool slope_to_kernel(const struct pvclock_slope *slope, uint32_t *mult, unsigned int *shift)
{
	struct pvclock_slope same;
	int power = -(slope->exponent + 32);

	*mult = (uint32_t)(slope->mantissa >> 32);
	for (; power > 32 && !(*mult & 1) && *mult; power--)
		*mult >>= 1;
	if (power < 0 || power > 32)
		return false;
	*shift = (unsigned int)power;
	if (!pvclock_slope_from_kernel(*mult, *shift, &same) || pvclock_slope_difference(&same, slope) != 0)
		return false;
	(void)pvclock_kernel_reduce(mult, shift);
	return true;
}

int pvclock_source_assume(struct pvclock_source *source, const struct pvclock_slope *assumed,
			  struct pvclock_reason *reason)
{
	struct pvclock_intercept intercept;
	unsigned int shift;
	uint64_t count;
	uint32_t mult, first;

	pvclock_reason_clear(reason);
	if (source->error < 0) {
		if (reason != NULL)
			*reason = source->reason;
		return source->error;
	}
	if (!slope_to_kernel(assumed, &mult, &shift)) {
		pvclock_reason_set(reason, PVCLOCK_REASON_SLOPE_MISFIT,
				   "%" PRIu64 " x 2^%d ns a tick is no slope of a Linux clock; pass what a proven source "
				   "reported.", assumed->mantissa, assumed->exponent);
		return -ENOTSUP;
	}
	if (source->proven) {
		if (mult == source->mult && shift == source->shift)
			return 0;
		pvclock_reason_set(reason, PVCLOCK_REASON_SLOPE_MISFIT,
				   "The host's slope was proven to be %u / 2^%u and is not %u / 2^%u: the record is of "
				   "another host or another boot.",
				   source->mult, source->shift, mult, shift);
		return -ENOTSUP;
	}
	count = pvclock_prover_candidates(&source->prover, shift, &first);
	pvclock_intercept_from_prover(&intercept, mult, shift, &source->prover);
	if ((count != UINT64_MAX && (mult < first || mult - first >= count)) ||
	    !pvclock_intercept_possible(&intercept)) {
		pvclock_reason_set(reason, PVCLOCK_REASON_SLOPE_MISFIT,
				   "The host's clock does not run with the slope %u / 2^%u: it was proven on another "
				   "host or another boot.", mult, shift);
		return -ENOTSUP;
	}
	source->intercept = intercept;
	source->mult = mult;
	source->shift = shift;
	source->candidates = 1;
	source->proven = true;
	return 0;
}

/*
 * The line through the middle of what the samples leave possible, anchored where its ns begins, so that it loses less
 * than a tick.
 */
static void make_line(const struct pvclock_source *source, struct pvclock_source_state *state)
{
	uint64_t ticks = source->last.before;
	uint32_t mult = source->mult;
	pvclock_s128 constant, value, one = (pvclock_s128)1 << source->shift;

	constant = source->intercept.low + (source->intercept.high - source->intercept.low) / 2;
	/* the clock at `ticks`, times 2^shift: near last.ns, so not negative */
	value = constant + (pvclock_s128)mult * ticks;
	ticks += (uint64_t)(((one - value % one) % one + mult - 1) / mult);
	value = constant + (pvclock_s128)mult * ticks;
	(void)pvclock_line_make(&state->line, ticks, (uint64_t)(value / one), &state->slope, NULL);
}

void pvclock_source_get(const struct pvclock_source *source, struct pvclock_source_state *state)
{
	const struct pvclock_fit *fit = &source->fit;
	uint32_t first;

	*state = (struct pvclock_source_state){
		.proven = source->proven,
		.candidates = source->candidates,
		.samples = source->samples,
		.elapsed_ns = source->last.ns - source->first_ns,
		.bracket_ticks = source->bracket_ticks,
	};
	memcpy(state->clocksource, source->clocksource, sizeof(state->clocksource));
	if (source->proven) {
		state->mult = source->mult;
		state->shift = source->shift;
	} else if (pvclock_prover_shift(&source->prover, &state->shift) &&
		   pvclock_prover_candidates(&source->prover, state->shift, &first) != UINT64_MAX) {
		/* for whoever watches the proof: not proven */
		state->mult = first;
	}
	if (fit->variance > 0 && state->shift != 0) {
		state->estimate = fit->covariance / fit->variance * (double)((uint64_t)1 << state->shift);
		state->residual = source->proven ? state->estimate - state->mult : 0;
	}
	if (source->proven) {
		(void)pvclock_slope_from_kernel(source->mult, source->shift, &state->slope);
		make_line(source, state);
	}
}
