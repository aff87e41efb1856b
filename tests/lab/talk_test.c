/* SPDX-License-Identifier: MIT */
/* The driver's two conversations, with QEMU's monitor and with the guest's probe, against an other side that says what
 * the test wrote. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "probe.h"
#include "qmp.h"

#define GREETING "{\"QMP\":{\"version\":{},\"capabilities\":[]}}\r\n{\"return\":{},\"id\":1}\r\n"

struct talk {
	struct lab lab;
	struct link link;
	int other;
};

static void begin(struct talk *talk, const char *said)
{
	int pair[2];

	memset(talk, 0, sizeof(*talk));
	talk->lab.slow = 1;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	link_adopt(&talk->link, &talk->lab, pair[0]);
	talk->other = pair[1];
	assert_int_equal(write(talk->other, said, strlen(said)), (ssize_t)strlen(said));
}

static void say(struct talk *talk, const char *said)
{
	assert_int_equal(write(talk->other, said, strlen(said)), (ssize_t)strlen(said));
}

/* What was said to the other side so far. */
static void assert_heard(struct talk *talk, const char *expected)
{
	char text[4096];
	ssize_t length = recv(talk->other, text, sizeof(text) - 1, MSG_DONTWAIT);

	assert_true(length > 0);
	text[length] = '\0';
	assert_string_equal(text, expected);
}

/* --- lines ------------------------------------------------------------------------------------ */

static void test_lines(void **state)
{
	struct talk talk;
	char *line;
	char *longer = malloc(100001);

	(void)state;
	begin(&talk, "one\r\ntwo\n\nhal");
	assert_int_equal(link_receive(&talk.link, lab_now_ms() + 1000, &line), LINK_LINE);
	assert_string_equal(line, "one");
	free(line);
	assert_int_equal(link_receive(&talk.link, 0, &line), LINK_LINE); /* what is there is taken, however late */
	assert_string_equal(line, "two");
	free(line);
	assert_int_equal(link_receive(&talk.link, 0, &line), LINK_LINE);
	assert_string_equal(line, "");
	free(line);
	assert_int_equal(link_receive(&talk.link, lab_now_ms() + 30, &line), LINK_TIMEOUT);
	assert_null(line);
	say(&talk, "f\n");
	assert_int_equal(link_receive(&talk.link, lab_now_ms() + 1000, &line), LINK_LINE);
	assert_string_equal(line, "half");
	free(line);
	memset(longer, 'x', 100000); /* longer than any buffer to begin with */
	longer[99999] = '\n';
	longer[100000] = '\0';
	say(&talk, longer);
	assert_int_equal(link_receive(&talk.link, lab_now_ms() + 1000, &line), LINK_LINE);
	assert_int_equal(strlen(line), 99999);
	free(line);
	free(longer);
	close(talk.other);
	assert_int_equal(link_receive(&talk.link, lab_now_ms() + 1000, &line), LINK_CLOSED);
	assert_int_equal(link_send(&talk.link, "x", lab_now_ms() + 100), -1);
	link_close(&talk.link);
}

static void test_addresses(void **state)
{
	static const char *const bad[] = {
		"", "unix", "tcp:host:1", "tcp:10.0.0.1", "tcp:10.0.0.1:70000", "10.0.0.1:5", "tcp:300.1.1.1:5"
	};
	struct lab lab = { .slow = 1 };
	struct link link;

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(link_open(&link, &lab, bad[i]), -22 /* EINVAL */);
	assert_int_equal(link_open(&link, &lab, "unix:/nowhere/at/all"), -2 /* ENOENT */);
}

/* --- the monitor -------------------------------------------------------------------------------- */

static void test_qmp_commands(void **state)
{
	struct talk talk;
	struct qmp qmp;
	json_t *answer;

	(void)state;
	begin(&talk, GREETING
	      "{\"timestamp\":{},\"event\":\"STOP\"}\r\n{\"return\":{\"status\":\"running\"},\"id\":2}\r\n"
	      "{\"error\":{\"class\":\"GenericError\",\"desc\":\"no such thing\"},\"id\":3}\r\n"
	      "{\"return\":\"\",\"id\":4}\r\n{\"return\":\"Error: No space left\\r\\n\",\"id\":5}\r\n");
	assert_int_equal(qmp_open(&qmp, &talk.link, 1000), 0);
	assert_heard(&talk, "{\"execute\":\"qmp_capabilities\",\"id\":1}\n");
	answer = qmp_command(&qmp, "query-status", NULL, 1000);
	assert_string_equal(lab_text(answer, "status", ""), "running");
	json_decref(answer);
	assert_null(qmp_command(&qmp, "device_add", json_pack("{s:s}", "driver", "none"), 1000));
	assert_string_equal(talk.lab.error, "QEMU refused \"device_add\": no such thing");
	assert_int_equal(qmp_human(&qmp, "savevm a", 1000), 0);
	assert_int_equal(qmp_human(&qmp, "savevm b", 1000), -1);
	assert_string_equal(talk.lab.error, "QEMU refused \"savevm b\": Error: No space left");
	assert_heard(
		&talk,
		"{\"execute\":\"query-status\",\"id\":2}\n"
		"{\"execute\":\"device_add\",\"id\":3,\"arguments\":{\"driver\":\"none\"}}\n"
		"{\"execute\":\"human-monitor-command\",\"id\":4,\"arguments\":{\"command-line\":\"savevm a\"}}\n"
		"{\"execute\":\"human-monitor-command\",\"id\":5,\"arguments\":{\"command-line\":\"savevm b\"}}\n");
	qmp_close(&qmp);
	close(talk.other);
}

/* An answer that comes after its command was given up is not the next one's. */
static void test_qmp_late_answer(void **state)
{
	struct talk talk;
	struct qmp qmp;
	json_t *answer;

	(void)state;
	begin(&talk, GREETING);
	assert_int_equal(qmp_open(&qmp, &talk.link, 1000), 0);
	assert_null(qmp_command(&qmp, "slow", NULL, 30));
	assert_string_equal(talk.lab.error, "QEMU did not answer \"slow\" in time.");
	say(&talk, "{\"return\":{\"of\":\"slow\"},\"id\":2}\r\n{\"return\":{\"of\":\"quick\"},\"id\":3}\r\n");
	answer = qmp_command(&qmp, "quick", NULL, 1000);
	assert_string_equal(lab_text(answer, "of", ""), "quick");
	json_decref(answer);
	qmp_close(&qmp);
	close(talk.other);
}

static void test_qmp_events(void **state)
{
	struct talk talk;
	struct qmp qmp;
	json_t *data;

	(void)state;
	begin(&talk, GREETING "{\"event\":\"STOP\"}\r\n{\"event\":\"DEVICE_DELETED\",\"data\":{\"device\":\"added\"}}"
			      "\r\n{\"return\":{},\"id\":2}\r\n"
			      "{\"event\":\"RESUME\"}\r\n");
	assert_int_equal(qmp_open(&qmp, &talk.link, 1000), 0);
	assert_int_equal(qmp_do(&qmp, "device_del", NULL, 1000), 0);
	data = qmp_wait_event(&qmp, "DEVICE_DELETED", 1000); /* it came before the answer */
	assert_string_equal(lab_text(data, "device", ""), "added");
	json_decref(data);
	data = qmp_wait_event(&qmp, "RESUME", 1000); /* it is still to be read */
	assert_non_null(data);
	json_decref(data);
	assert_null(qmp_wait_event(&qmp, "RESUME", 30)); /* each is taken once */
	qmp_forget_events(&qmp);
	assert_null(qmp_wait_event(&qmp, "STOP", 30));
	qmp_close(&qmp);
	close(talk.other);
}

static void test_qmp_broken(void **state)
{
	static const struct {
		const char *said, *error;
	} cases[] = {
		{ "{\"hello\":1}\n", "What answers there is not QEMU's monitor: its greeting has no \"QMP\"." },
		{ "SSH-2.0-x\n", "QEMU's monitor said something that is no JSON object: \"SSH-2.0-x\"." },
		{ "[1]\n", "QEMU's monitor said something that is no JSON object: \"[1]\"." },
		{ "{\"QMP\":{}}\n{\"id\":1}\n",
		  "QEMU's answer to \"qmp_capabilities\" has neither a result nor an error." },
		{ "{\"QMP\":{}}\n{\"error\":{}}\n", "QEMU refused \"qmp_capabilities\": no reason given" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct talk talk;
		struct qmp qmp;

		begin(&talk, cases[i].said);
		assert_int_equal(qmp_open(&qmp, &talk.link, 1000), -1);
		assert_string_equal(talk.lab.error, cases[i].error);
		qmp_close(&qmp);
		close(talk.other);
	}
}

static void test_qmp_gone(void **state)
{
	struct talk talk;
	struct qmp qmp;

	(void)state;
	begin(&talk, GREETING);
	assert_int_equal(qmp_open(&qmp, &talk.link, 1000), 0);
	close(talk.other);
	assert_int_equal(qmp_do(&qmp, "cont", NULL, 1000), -1);
	assert_true(strstr(talk.lab.error, "QEMU is gone") || strstr(talk.lab.error, "closed its monitor"));
	qmp_close(&qmp);
}

/* --- the probe ------------------------------------------------------------------------------------ */

static void test_probe_replies(void **state)
{
	struct talk talk;
	struct probe probe;
	json_t *reply;

	(void)state;
	begin(&talk, "rest of a line that began before we listened\"}\n\x80\x81\n"
		     "{\"ready\":true}\n{\"hello\":true,\"cpus\":2}\n"
		     "{\"end\":\"e1\"}\n{\"end\":\"e2\",\"samples\":7}\n{\"error\":\"no such command\"}\n");
	probe_open(&probe, &talk.link);
	assert_int_equal(probe_wait_ready(&probe, 1, 1000), 0);
	reply = probe_ask(&probe, "hello", 1000);
	assert_int_equal(lab_number(reply, "cpus", 0), 2);
	json_decref(reply);
	reply = probe_ask(&probe, "end e2", 1000); /* e1's came late */
	assert_int_equal(lab_number(reply, "samples", 0), 7);
	json_decref(reply);
	assert_null(probe_ask(&probe, "dance", 1000));
	assert_string_equal(talk.lab.error, "The probe refused \"dance\": no such command");
	assert_null(probe_ask(&probe, "report", 30));
	assert_string_equal(talk.lab.error, "The guest's probe did not answer \"report\" in time.");
	assert_heard(&talk, "hello\nend e2\ndance\nreport\n");
	probe_close(&probe);
	close(talk.other);
}

/* A guest that starts again says so; what was asked of the one before is never answered. */
static void test_probe_restart(void **state)
{
	struct talk talk;
	struct probe probe;
	json_t *reply;

	(void)state;
	begin(&talk, "{\"ready\":true}\n{\"ready\":true}\n{\"hello\":true}\n");
	probe_open(&probe, &talk.link);
	assert_int_equal(probe_wait_ready(&probe, 1, 1000), 0);
	assert_null(probe_ask(&probe, "end e1", 1000));
	assert_string_equal(talk.lab.error, "The guest restarted during \"end e1\".");
	assert_int_equal(probe.lives, 2);
	assert_int_equal(probe_wait_ready(&probe, 2, 30), 0); /* it has been said already */
	reply = probe_ask(&probe, "hello", 1000);
	assert_non_null(reply);
	json_decref(reply);
	assert_int_equal(probe_wait_ready(&probe, 3, 30), -1);
	close(talk.other);
	assert_null(probe_ask(&probe, "hello", 1000));
	probe_close(&probe);
}

/* --- patience ---------------------------------------------------------------------------------------- */

static void test_limits(void **state)
{
	struct lab lab = { .slow = 3 };
	int64_t now = lab_now_ms();

	(void)state;
	assert_in_range(lab_until(&lab, 1000), (uintmax_t)now + 3000, (uintmax_t)now + 3500);
	lab.deadline_ms = now + 200; /* the scenario's end comes first */
	assert_int_equal(lab_until(&lab, 1000), lab.deadline_ms);
	assert_int_equal(lab_sleep(&lab, 2000), -1);
	assert_string_equal(lab.error, "The scenario's time is over.");
	assert_true(lab_now_ms() < now + 1500);
}

static void test_last_line(void **state)
{
	static const struct {
		const char *text, *line;
	} cases[] = {
		{ "", "" }, { "\n\n", "" }, { "one", "one" }, { "one\ntwo\r\n\n  ", "two" }, { "one\rtwo", "two" }
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char text[32];

		strcpy(text, cases[i].text);
		assert_string_equal(lab_last_line(text), cases[i].line);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines),
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_qmp_commands),
		cmocka_unit_test(test_qmp_late_answer),
		cmocka_unit_test(test_qmp_events),
		cmocka_unit_test(test_qmp_broken),
		cmocka_unit_test(test_qmp_gone),
		cmocka_unit_test(test_probe_replies),
		cmocka_unit_test(test_probe_restart),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_last_line),
	};

	lab_hold_signals();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
