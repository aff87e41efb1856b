/* SPDX-License-Identifier: MIT */
#include "policy_words.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FILE_MAX 4096

static int refuse(struct pvclock_reason *reason, int error, const char *path, const char *why)
{
	reason->code = PVCLOCK_REASON_OS;
	snprintf(reason->text, sizeof(reason->text), "The policy file %.150s: %s.", path, why);
	return error;
}

static int read_file(const char *path, char text[FILE_MAX], struct pvclock_reason *reason)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), error;
	ssize_t length = fd < 0 ? -1 : read(fd, text, FILE_MAX);

	error = length < 0 ? -errno : 0;
	if (fd >= 0)
		close(fd);
	if (error)
		return refuse(reason, error, path, strerror(-error));
	if (length == FILE_MAX || memchr(text, '\0', (size_t)length))
		return refuse(reason, -EINVAL, path, "it is no text of less than 4096 bytes");
	text[length] = '\0';
	return 0;
}

int policy_from_words(struct pvclock_policy *policy, const char *words, struct pvclock_reason *reason)
{
	char text[FILE_MAX];
	int error;

	if (words[0] != '@')
		return pvclock_policy_parse(policy, words, reason);
	error = read_file(words + 1, text, reason);
	return error ? error : pvclock_policy_parse(policy, text, reason);
}
