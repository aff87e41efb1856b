// SPDX-License-Identifier: MIT
/*
 * control.c - the control socket: a command a packet in, a JSON object a packet out.
 *
 *   status         {"ok":true, "pid", "mode", "state":"running"|"paused"|"asleep", "vcpus", "stable", "reason", "reason_text",
 *                   "line":{"tsc","ns","mul","shift"} of vCPU 0 or null, "tsc_offset" of vCPU 0 (signed),
 *                   "steal":"own"|"kernel" (who tells stolen time), "threads":[that of each vCPU],
 *                   "policy":{a member for each kind of blackout, "advance_max_ns" or null: no bound, "fall_back"},
 *                   "restored": null, or of the restore that brought the guest here {"after", "precision", "by", "measured_ns",
 *                   "bound_ns" or null: unknown, and resume's members}}
 *   pause          {"ok":true}   all vCPUs are out of guest mode
 *   resume         {"ok":true, "residual_ns", "moved_ticks", "tries", "elapsed_ns", "counted_ns", "uncounted_ns", "blackout_ns"}
 *   update [PATH]  {"ok":true, "pid" (the new one's), "mode", "blackout_ns", "stop_ns", "save_ns", "restore_ns", "clock_ns",
 *                   \"residual_ns\", \"moved_ticks\", \"tries\", \"elapsed_ns\", \"counted_ns\", \"uncounted_ns\", \"predecessor_died\"}, from
 *                   the new process
 *   snapshot PATH  {\"ok\":true, \"bytes\", \"save_ns\", \"clock_ns\"}, and of a guest that ran, which goes on, resume's members, too
 *   quit           {"ok":true}   and the process ends
 *
 * Any of them may be answered {"ok":false, "error":"one sentence"}, and nothing has changed: the guest runs on in the process that
 * answers. The one exception: after an update whose new side died when the guest was already its own, the error says so, and the
 * old process ends too.
 *
 * blackout_ns: from the first vCPU that left guest mode to the first that entered it again, by CLOCK_MONOTONIC; 0 if
 * the guest ended in between. Its parts: stop_ns until the last had left, save_ns in the old process and restore_ns in
 * the new one; clock_ns is the clock's share of all. When the guest ends, the process ends with its code, and the
 * socket closes; a harness that wants the code of an updated process makes itself the subreaper (prctl(2)).
 */
#include "vmm.h"

#include "sleep_watch.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define COMMAND_MAX 4096
#define REPLY_MAX 4096
#define STEAL_MS 20 /* what a guest's scheduler has of it is this old at most */
#define SELF "/proc/self/exe"

struct reply {
	char text[REPLY_MAX];
	size_t length;
};

__attribute__((format(printf, 2, 3))) static void add(struct reply *reply, const char *format, ...)
{
	va_list arguments;
	size_t left = sizeof(reply->text) - reply->length;

	va_start(arguments, format);
	int length = vsnprintf(reply->text + reply->length, left, format, arguments);
	va_end(arguments);
	if (length > 0)
		reply->length += (size_t)length < left ? (size_t)length : left - 1;
}

/* A JSON string (RFC 8259, 7), from bytes that may come from anywhere. */
static void add_string(struct reply *reply, const char *text)
{
	add(reply, "\"");
	for (; *text != '\0'; text++) {
		unsigned char c = (unsigned char)*text;
		if (c == '"' || c == '\\')
			add(reply, "\\%c", c);
		else if (c < 0x20 || c > 0x7e)
			add(reply, "\\u%04x", c);
		else
			add(reply, "%c", c);
	}
	add(reply, "\"");
}

static void send_reply(const struct options *options, const struct reply *reply)
{
	ssize_t sent;

	do
		sent = send(options->control_fd, reply->text, reply->length, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
}

static void refuse(const struct options *options, const char *text)
{
	struct reply reply = { .length = 0 };

	add(&reply, "{\"ok\":false,\"error\":");
	add_string(&reply, text);
	add(&reply, "}");
	send_reply(options, &reply);
}

static void add_correction(struct reply *reply, const struct pvclock_correction *correction)
{
	add(reply, ",\"residual_ns\":%lld,\"moved_ticks\":%lld,\"tries\":%u,\"elapsed_ns\":%llu,\"counted_ns\":%llu,"
	    "\"uncounted_ns\":%llu",
	    (long long)correction->residual_ns, (long long)correction->moved_ticks, correction->tries,
	    (unsigned long long)correction->elapsed_ns, (unsigned long long)correction->counted_ns,
	    (unsigned long long)correction->uncounted_ns);
}

static uint64_t blackout_of(uint64_t stopped_ns, uint64_t entered_ns)
{
	return entered_ns > stopped_ns ? entered_ns - stopped_ns : 0;
}

void control_say_updated(const struct machine *machine, const struct options *options, const struct blackout *blackout,
			 uint64_t entered_ns, const struct pvclock_correction *correction, bool predecessor_died)
{
	struct reply reply = { .length = 0 };

	if (options->control_fd < 0)
		return;
	add(&reply, "{\"ok\":true,\"pid\":%d,\"mode\":\"%s\",\"blackout_ns\":%llu,\"stop_ns\":%llu,\"save_ns\":%llu,"
	    "\"restore_ns\":%llu,\"clock_ns\":%llu", (int)getpid(),
	    pvclock_mode_name(pvclock_kvm_mode(machine->clock.kvm)),
	    (unsigned long long)blackout_of(blackout->stopped_ns, entered_ns), (unsigned long long)blackout->stop_ns,
	    (unsigned long long)blackout->save_ns, (unsigned long long)blackout->restore_ns,
	    (unsigned long long)blackout->clock_ns);
	add_correction(&reply, correction);
	add(&reply, ",\"predecessor_died\":%s}", predecessor_died ? "true" : "false");
	send_reply(options, &reply);
}

static void add_policy(struct reply *reply, const struct machine *machine)
{
	struct pvclock_policy policy;

	pvclock_vm_get_policy(machine->clock.vm, &policy);
	add(reply, ",\"policy\":{");
	for (int i = 0; i < PVCLOCK_BLACKOUT_COUNT; i++)
		add(reply, "\"%s\":\"%s\",", pvclock_blackout_name((enum pvclock_blackout)i), pvclock_passing_name(policy.on[i]));
	add(reply, "\"advance_max_ns\":");
	if (policy.advance_max_ns == UINT64_MAX)
		add(reply, "null");
	else
		add(reply, "%llu", (unsigned long long)policy.advance_max_ns);
	add(reply, ",\"fall_back\":%s}", policy.fall_back ? "true" : "false");
}

static void add_restored(struct reply *reply, const struct vmm_clock *clock)
{
	const struct pvclock_plan *plan = &clock->plan;

	if (!clock->restored) {
		add(reply, ",\"restored\":null");
		return;
	}
	add(reply, ",\"restored\":{\"after\":\"%s\",\"precision\":\"%s\",\"by\":\"%s\",\"measured_ns\":%lld,\"bound_ns\":",
	    pvclock_blackout_name(plan->blackout), pvclock_precision_name(plan->precision),
	    pvclock_timescale_name(plan->elapsed.by), (long long)plan->elapsed.measured_ns);
	if (plan->elapsed.bound_ns == PVCLOCK_ERROR_UNKNOWN)
		add(reply, "null");
	else
		add(reply, "%llu", (unsigned long long)plan->elapsed.bound_ns);
	add_correction(reply, &clock->correction);
	add(reply, "}");
}

static void say_status(const struct machine *machine, const struct options *options, const char *state)
{
	const struct pvclock_vcpu *first = machine->vcpus[0].clock;
	struct pvclock_tsc_transform tsc = { 0 };
	struct pvclock_reason reason = { 0 };
	struct pvclock_line line;
	struct reply reply = { .length = 0 };

	bool stable = pvclock_vm_stable(machine->clock.vm, &reason);
	pvclock_vcpu_get_tsc(first, &tsc);
	add(&reply, "{\"ok\":true,\"pid\":%d,\"mode\":\"%s\",\"state\":\"%s\",\"vcpus\":%u,\"stable\":%s,"
	    "\"reason\":\"%s\",\"reason_text\":", (int)getpid(),
	    pvclock_mode_name(pvclock_kvm_mode(machine->clock.kvm)), state,
	    machine->vcpu_count, stable ? "true" : "false", pvclock_reason_name(reason.code));
	add_string(&reply, reason.text);
	/* Where the kernel publishes and was never asked, the engine has no line yet. */
	if (pvclock_vcpu_get_line(first, &line) == 0)
		add(&reply, ",\"line\":{\"tsc\":%llu,\"ns\":%llu,\"mul\":%u,\"shift\":%d}", (unsigned long long)line.tsc,
		    (unsigned long long)line.ns, line.mul, line.shift);
	else
		add(&reply, ",\"line\":null");
	add(&reply, ",\"tsc_offset\":%lld,\"steal\":\"%s\",\"threads\":[", (long long)tsc.offset, machine->own_steal ? "own" : "kernel");
	for (uint32_t i = 0; i < machine->vcpu_count; i++)
		add(&reply, "%s%d", i ? "," : "", (int)machine->vcpus[i].tid);
	add(&reply, "]");
	add_policy(&reply, machine);
	add_restored(&reply, &machine->clock);
	add(&reply, "}");
	send_reply(options, &reply);
}

struct session {
	struct machine *machine;
	struct options *options;
	struct sleep_watch *watch; /* NULL: nobody tells of the host's sleep */
	bool paused;               /* by the user */
	bool asleep;               /* stopped for the host's sleep; both at once: it stays paused after that */
	uint64_t stopped_ns;
	uint64_t vmclock_ns;       /* CLOCK_MONOTONIC: VMClock's page is to be brought up to date */
};

/* How long the loop may sleep, in ms: until something is to be told to a guest that runs. -1: nothing is. */
static int next_telling(struct session *session)
{
	uint64_t wait_ns, now = monotonic_ns();
	int steal_ms = session->machine->own_steal ? STEAL_MS : -1;

	if (session->paused || session->asleep)
		return -1;
	if (session->machine->vmclock && now >= session->vmclock_ns)
		session->vmclock_ns = now + clock_update_vmclock(session->machine);
	if (!session->machine->vmclock)
		return steal_ms;
	wait_ns = session->vmclock_ns - now;
	return steal_ms >= 0 && wait_ns / 1000000u > STEAL_MS ? steal_ms : (int)(wait_ns / 1000000u) + 1;
}

/* --- the host's sleep, told by logind -------------------------------------------------------- */

static bool before_sleep(void *ctx)
{
	struct session *session = ctx;
	struct problem problem;

	if (session->paused)
		return true;
	session->stopped_ns = vcpus_pause(session->machine);
	session->asleep = clock_pause(session->machine, PVCLOCK_BLACKOUT_SUSPEND, &problem) == 0;
	if (!session->asleep) {
		fprintf(stderr, "pvclock-vmm: before the host's sleep: %s\n", problem.text);
		vcpus_resume(session->machine);
	}
	return true;
}

static void after_sleep(void *ctx)
{
	struct session *session = ctx;
	struct pvclock_correction correction;
	struct problem problem;

	if (!session->asleep)
		return;
	session->asleep = false;
	if (session->paused) { /* meanwhile: from here on it is the user's; what was slept is measured by itself */
		clock_blackout(session->machine, PVCLOCK_BLACKOUT_PAUSE);
	} else if (clock_resume(session->machine, &correction, &problem) < 0) {
		fprintf(stderr, "pvclock-vmm: after the host's sleep: %s; the guest stays paused\n", problem.text);
		session->paused = true; /* `resume` tries again */
	} else {
		vcpus_resume(session->machine);
	}
}

static void say_of_sleep(void *ctx, const char *sentence)
{
	(void)ctx;
	fprintf(stderr, "pvclock-vmm: %s\n", sentence);
}

static struct sleep_watch *watch_sleep(struct session *session)
{
	const struct sleep_watch_client client = {
		.why = "stops the guest's clock",
		.ctx = session,
		.sleeping = before_sleep,
		.awake = after_sleep,
		.say = say_of_sleep,
	};

	return session->options->logind ? sleep_watch_open(&client) : NULL;
}

/* --- commands -------------------------------------------------------------------------------- */

static void do_pause(struct session *session)
{
	struct reply reply = { .length = 0 };
	struct problem problem;

	if (session->paused) {
		refuse(session->options, "pause: already paused");
		return;
	}
	if (!session->asleep) {
		session->stopped_ns = vcpus_pause(session->machine);
		if (clock_pause(session->machine, PVCLOCK_BLACKOUT_PAUSE, &problem) < 0) {
			vcpus_resume(session->machine);
			refuse(session->options, problem.text);
			return;
		}
	}
	session->paused = true;
	add(&reply, "{\"ok\":true}");
	send_reply(session->options, &reply);
}

static void do_resume(struct session *session)
{
	struct pvclock_correction correction;
	struct reply reply = { .length = 0 };
	struct problem problem;

	if (!session->paused) {
		refuse(session->options, "resume: not paused");
		return;
	}
	if (clock_resume(session->machine, &correction, &problem) < 0) {
		refuse(session->options, problem.text);
		return;
	}
	uint64_t entered_ns = vcpus_resume(session->machine);
	session->paused = session->asleep = false; /* the user has the last word, also shortly before a sleep */
	add(&reply, "{\"ok\":true");
	add_correction(&reply, &correction);
	add(&reply, ",\"blackout_ns\":%llu}", (unsigned long long)blackout_of(session->stopped_ns, entered_ns));
	send_reply(session->options, &reply);
}

/* The host has slept, and vCPUs wait. In a pause of the user's none does: its resume finds out. */
static void wake_up(struct session *session)
{
	struct machine *machine = session->machine;
	struct pvclock_correction correction;
	struct problem problem;
	uint64_t count;

	bool runs = !session->paused && !session->asleep;

	if (runs)
		vcpus_pause(machine);
	/* only now: until it is parked another vCPU may find out, too */
	pthread_mutex_lock(&machine->lock);
	(void)!read(machine->event_fd, &count, sizeof(count));
	machine->slept = false;
	count = 1;
	if (machine->ended)
		(void)!write(machine->event_fd, &count, sizeof(count));
	pthread_mutex_unlock(&machine->lock);
	if (!runs)
		return;
	bool fine = clock_pause(machine, PVCLOCK_BLACKOUT_PAUSE, &problem) == 0;

	vcpus_settle(machine);
	if (!fine || clock_resume(machine, &correction, &problem) < 0) {
		fprintf(stderr, "pvclock-vmm: after the host's sleep: %s; the guest stays paused\n", problem.text);
		session->paused = true; /* `resume` tries again */
		return;
	}
	vcpus_settle(machine); /* once more: each page as it was aimed, before a vCPU reads another's */
	vcpus_resume(machine);
}

/* What fails leaves the file that was there, and the guest as it was: running, or paused. */
static void do_snapshot(struct session *session, const char *path)
{
	struct machine *machine = session->machine;
	struct pvclock_correction correction;
	struct snapshot_cost cost = { 0 };
	struct reply reply = { .length = 0 };
	struct problem problem, resume;
	uint64_t stopped_ns = 0, entered_ns = 0;
	const bool runs = !session->paused && !session->asleep;

	if (runs) {
		stopped_ns = vcpus_pause(machine);
		if (clock_pause(machine, PVCLOCK_BLACKOUT_PAUSE, &problem) < 0) {
			vcpus_resume(machine);
			refuse(session->options, problem.text);
			return;
		}
	}
	fault_reached(&session->options->fault, "snapshot:paused");
	struct snapshot_saver *saver = snapshot_write(machine, session->options, path, &cost, &problem);
	if (runs) {
		if (clock_resume(machine, &correction, &resume) < 0) {
			session->paused = true; /* `resume` tries again */
			session->stopped_ns = stopped_ns;
			fprintf(stderr, "pvclock-vmm: %s\n", resume.text);
		} else {
			entered_ns = vcpus_resume(machine);
			fault_reached(&session->options->fault, "snapshot:resumed");
		}
	}
	if (saver == NULL || snapshot_commit(saver, session->options, &problem) < 0) {
		refuse(session->options, problem.text);
		return;
	}
	add(&reply, "{\"ok\":true,\"bytes\":%llu,\"save_ns\":%llu,\"clock_ns\":%llu", (unsigned long long)cost.bytes,
	    (unsigned long long)cost.save_ns, (unsigned long long)cost.clock_ns);
	if (entered_ns != 0) {
		add_correction(&reply, &correction);
		add(&reply, ",\"blackout_ns\":%llu", (unsigned long long)blackout_of(stopped_ns, entered_ns));
	}
	add(&reply, "}");
	send_reply(session->options, &reply);
}

static void do_update(struct session *session, const char *path)
{
	struct problem problem = { "" };

	if (session->paused) {
		refuse(session->options, "update: the guest is paused: resume it first");
		return;
	}
	if (session->asleep) {
		refuse(session->options, "update: the host is about to sleep: say it again afterwards");
		return;
	}
	enum handover_end end = handover_to(session->machine, session->options, path, &problem);
	if (end == HANDOVER_DONE)
		_exit(0);
	fprintf(stderr, "pvclock-vmm: %s\n", problem.text);
	refuse(session->options, problem.text);
	/* Not through main: nothing of the guest is ours to stop or free. */
	if (end == HANDOVER_LOST)
		_exit(1);
}

/* False: quit. */
static bool obey(struct session *session, char *command)
{
	if (strcmp(command, "status") == 0) {
		say_status(session->machine, session->options, session->paused ? "paused" : session->asleep ? "asleep" : "running");
	} else if (strcmp(command, "pause") == 0) {
		do_pause(session);
	} else if (strcmp(command, "resume") == 0) {
		do_resume(session);
	} else if (strcmp(command, "update") == 0) {
		do_update(session, SELF);
	} else if (strncmp(command, "update ", 7) == 0) {
		do_update(session, command + 7);
	} else if (strncmp(command, "snapshot ", 9) == 0) {
		do_snapshot(session, command + 9);
	} else if (strcmp(command, "quit") == 0) {
		struct reply reply = { .length = 0 };
		add(&reply, "{\"ok\":true}");
		send_reply(session->options, &reply);
		return false;
	} else {
		refuse(session->options, "unknown command: say status, pause, resume, update [PATH], snapshot PATH or quit");
	}
	return true;
}

/* One packet. False: quit, or the other end is gone. */
static bool serve_one(struct session *session)
{
	char command[COMMAND_MAX + 1];
	ssize_t got = recv(session->options->control_fd, command, COMMAND_MAX, MSG_DONTWAIT);

	if (got < 0)
		return errno == EINTR || errno == EAGAIN;
	if (got == 0)
		return false;
	while (got > 0 && (command[got - 1] == '\n' || command[got - 1] == '\0'))
		got--;
	command[got] = '\0';
	return obey(session, command);
}

static int serve(struct session *session)
{
	struct machine *machine = session->machine;

	for (;;) {
		struct pollfd waited[3] = {
			{ .fd = machine->event_fd, .events = POLLIN },
			{ .fd = session->options->control_fd, .events = POLLIN }, /* -1: poll ignores it */
		};
		bool tells = machine->own_steal && !session->paused && !session->asleep;
		int timeout_ms = next_telling(session);

		sleep_watch_poll(session->watch, &waited[2], &timeout_ms);
		if (poll(waited, 3, timeout_ms) < 0) {
			if (errno == EINTR)
				continue;
			fprintf(stderr, "pvclock-vmm: poll: %s\n", strerror(errno));
			return 1;
		}
		if (waited[0].revents != 0) {
			pthread_mutex_lock(&machine->lock);
			int code = machine->code;
			bool ended = machine->ended;
			if (machine->problem.text[0] != '\0')
				fprintf(stderr, "pvclock-vmm: %s\n", machine->problem.text);
			pthread_mutex_unlock(&machine->lock);
			if (ended)
				return code;
			wake_up(session);
		}
		sleep_watch_process(session->watch);
		if (tells)
			(void)pvclock_vm_update_steal(machine->clock.vm); /* a thread that cannot be read was told of when it began */
		if (waited[1].revents != 0 && !serve_one(session))
			return 0;
	}
}

int control_serve(struct machine *machine, struct options *options)
{
	struct session session = { .machine = machine, .options = options };

	session.watch = watch_sleep(&session);
	int code = serve(&session);
	sleep_watch_close(session.watch);
	return code;
}
