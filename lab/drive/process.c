/* SPDX-License-Identifier: MIT */
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

int process_start(struct lab *lab, struct process *process, char *const *argv, const char *log)
{
	int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	pid_t parent = getpid();

	memset(process, 0, sizeof(*process));
	if (fd < 0)
		return lab_fail(lab, "Cannot write %s: %s.", log, strerror(errno));
	process->pid = fork();
	if (process->pid < 0) {
		process->pid = 0;
		close(fd);
		return lab_fail(lab, "Cannot start a process: %s.", strerror(errno));
	}
	if (process->pid == 0) {
		int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

		setpgid(0, 0);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(127); /* the driver ended before it could be seen to */
		lab_release_signals();
		dup2(null, STDIN_FILENO);
		dup2(fd, STDOUT_FILENO);
		dup2(fd, STDERR_FILENO);
		execvp(argv[0], argv);
		dprintf(STDERR_FILENO, "%s: %s\n", argv[0], strerror(errno));
		_exit(127);
	}
	setpgid(process->pid, process->pid); /* whoever of the two comes first */
	close(fd);
	return 0;
}

bool process_alive(struct process *process)
{
	if (process->pid > 0 && !process->ended && waitpid(process->pid, &process->status, WNOHANG) == process->pid)
		process->ended = true;
	return process->pid > 0 && !process->ended;
}

int process_wait(struct lab *lab, struct process *process, int64_t until_ms)
{
	while (process_alive(process)) {
		if (lab_interrupted(lab))
			return -1;
		if (lab_now_ms() >= until_ms)
			return lab_fail(lab, "It did not end in time.");
		poll(NULL, 0, 20);
	}
	return 0;
}

void process_kill(struct process *process)
{
	if (process->pid <= 0)
		return;
	kill(-process->pid, SIGKILL); /* also what it left behind: a migration's shell */
	if (!process->ended)
		while (waitpid(process->pid, &process->status, 0) < 0 && errno == EINTR)
			;
	process->ended = true;
	process->pid = 0;
}

const char *process_ending(const struct process *process, char text[32])
{
	if (WIFSIGNALED(process->status))
		snprintf(text, 32, "signal %d", WTERMSIG(process->status));
	else
		snprintf(text, 32, "exit status %d", WEXITSTATUS(process->status));
	return text;
}
