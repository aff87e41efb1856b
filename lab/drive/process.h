/* SPDX-License-Identifier: MIT */
/* process.h - a program in a process group of its own, that ends when it is told to, or when the driver does. */
#ifndef LAB_PROCESS_H
#define LAB_PROCESS_H

#include "lab.h"

#include <sys/types.h>

struct process {
	pid_t pid;    /* and its group; 0: none */
	bool ended;
	int status;   /* as wait(2) gives it, once it ended */
};

/* Both outputs go to `log`, which is made anew. 0, or -1 with a sentence. */
int process_start(struct lab *lab, struct process *process, char *const *argv, const char *log);
/* Takes its status if it has ended. */
bool process_alive(struct process *process);
/* Waits for it to end by itself. 0, or -1 with a sentence. */
int process_wait(struct lab *lab, struct process *process, int64_t until_ms);
/* SIGKILL to its group, and waits. */
void process_kill(struct process *process);

/* "exit status 3", "signal 9" */
const char *process_ending(const struct process *process, char text[32]);

#endif
