/* SPDX-License-Identifier: MIT */
/* policy_words.h - a policy as the operator gives it: its words, or @ and the file that holds them. */
#ifndef TOOLS_POLICY_WORDS_H
#define TOOLS_POLICY_WORDS_H

#include <pvclock/policy.h>

/* 0, or -errno with a reason that names the file or the word; then nothing has changed. */
int policy_from_words(struct pvclock_policy *policy, const char *words, struct pvclock_reason *reason);

#endif
