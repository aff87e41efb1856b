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

#define CLOCKSOURCE_AVAILABLE "/sys/devices/system/clocksource/clocksource0/available_clocksource"

/* Reading the clocksource costs more than a sample: once in so long, and before anything is called proven. */
#define CLOCKSOURCE_INTERVAL_NS 100000000u
/* How often learn() samples: the proof waits for time to pass, not for the number of samples. */
#define LEARN_INTERVAL_NS 10000000u

static const struct pvclock_source_kind *const kinds[] = {
	&pvclock_source_tsc,
	&pvclock_source_kvm_page,
	&pvclock_source_hyperv_page,
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
	ssize_t length = os->ops->read_file(os->ctx, PVCLOCK_SOURCE_CLOCKSOURCE, text, sizeof(text));

	if (length < 0) {
		pvclock_reason_set(reason, PVCLOCK_REASON_OS,
				   length == -EACCES ? "This process may not read " PVCLOCK_SOURCE_CLOCKSOURCE
						       " (error %d): let its confinement (AppArmor, SELinux) allow it."
						     : "Reading " PVCLOCK_SOURCE_CLOCKSOURCE " failed with error %d: is /sys mounted?",
				   (int)-length);
		return (int)length;
	}
	text[strcspn(text, "\n")] = '\0';
	snprintf(name, 32, "%.31s", text);
	return 0;
}

bool pvclock_source_offers_tsc(const struct pvclock_os *os)
{
	char available[256];

	return os->ops->read_file(os->ctx, CLOCKSOURCE_AVAILABLE, available, sizeof(available)) > 0 &&
	       has_word(available, "tsc");
}

/* Why a clocksource gives no line, and the way out. */
static void explain_clocksource(const struct pvclock_os *os, const char *name, struct pvclock_reason *reason)
{
	const char *is = "which is no function of the TSC", *way_out;

	if (strcmp(name, "tsc-early") == 0) {
		pvclock_reason_set(reason, PVCLOCK_REASON_CLOCKSOURCE,
				   "The host kernel keeps time by tsc-early, a TSC rate that it is still refining; "
				   "it takes tsc within seconds of its boot: try again.");
		return;
	}
	if (strcmp(name, "xen") == 0)
		is = "whose line pvclock cannot learn yet";
	if (pvclock_source_offers_tsc(os))
		way_out = "switch it with: echo tsc > " PVCLOCK_SOURCE_CLOCKSOURCE;
	else
		way_out = "the kernel has given up the TSC or was told to (see: dmesg | grep -i tsc), and offers no "
			  "tsc to switch to";
	pvclock_reason_set(reason, PVCLOCK_REASON_CLOCKSOURCE, "The host kernel keeps time by %s, %s; %s.", name, is,
			   way_out);
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
	source->clocksource_checked_ns = source->elapsed_ns;
	if (strcmp(name, source->kind->clocksource) == 0)
		return 0;
	/* the old name is what the caller wants to hear of first; the new one is what it can be switched back from */
	memcpy(source->clocksource, name, sizeof(name));
	return pvclock_source_lose(source, -ENOTSUP, reason, PVCLOCK_REASON_CLOCKSOURCE,
				   "The clocksource was switched from %s to %s; switch back with: echo %s > "
				   PVCLOCK_SOURCE_CLOCKSOURCE " and open the source again.",
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
	if (source->elapsed_ns - source->clocksource_checked_ns >= CLOCKSOURCE_INTERVAL_NS) {
		error = pvclock_source_check_clocksource(source, reason);
		if (error < 0)
			return error;
	}
	return result;
}

int pvclock_source_learn(struct pvclock_source *source, uint64_t timeout_ns, struct pvclock_reason *reason)
{
	uint64_t start_ns = source->elapsed_ns, slept_ns = 0;

	for (;;) {
		int error = pvclock_source_sample(source, reason);
		uint64_t passed_ns, left_ns;

		if (error != -EAGAIN)
			return error;
		passed_ns = source->elapsed_ns - start_ns;
		if (passed_ns < slept_ns)
			passed_ns = slept_ns; /* no sample was to be had all the while */
		if (passed_ns >= timeout_ns)
			return -ETIMEDOUT;
		left_ns = timeout_ns - passed_ns;
		if (left_ns > LEARN_INTERVAL_NS)
			left_ns = LEARN_INTERVAL_NS;
		error = source->os->ops->sleep(source->os->ctx, left_ns);
		if (error == 0)
			slept_ns += left_ns;
		/* an interrupted sleep only means a sample sooner */
		if (error < 0 && error != -EINTR) {
			pvclock_reason_set(reason, PVCLOCK_REASON_OS, "Sleeping failed with error %d.", -error);
			return error;
		}
	}
}

int pvclock_source_assume(struct pvclock_source *source, const struct pvclock_slope *assumed,
			  struct pvclock_reason *reason)
{
	pvclock_reason_clear(reason);
	if (source->error < 0) {
		if (reason != NULL)
			*reason = source->reason;
		return source->error;
	}
	return source->kind->assume(source, assumed, reason);
}

void pvclock_source_get(const struct pvclock_source *source, struct pvclock_source_state *state)
{
	const struct pvclock_fit *fit = &source->fit;

	*state = (struct pvclock_source_state){
		.from = source->kind->from,
		.proven = source->proven,
		.candidates = source->candidates,
		.samples = source->samples,
		.elapsed_ns = source->elapsed_ns,
		.bracket_ticks = source->bracket_ticks,
	};
	memcpy(state->clocksource, source->clocksource, sizeof(state->clocksource));
	source->kind->get(source, state);
	if (fit->variance > 0 && state->shift != 0) {
		state->estimate = fit->covariance / fit->variance * (double)((uint64_t)1 << state->shift);
		state->residual = source->proven ? state->estimate - state->mult : 0;
	}
}
