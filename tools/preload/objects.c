/* SPDX-License-Identifier: MIT */
/*
 * objects.c - from a descriptor to what it stands for. Read without a lock on every ioctl of the VMM's, so the table's
 * parts, once there, stay.
 */
#include "preload.h"

#include <stdlib.h>

#define PART 1024u
#define PARTS 1024u /* Linux's own limit is nr_open, 2^20 as it comes */

typedef _Atomic(struct object *) entry;

static _Atomic(entry *) parts[PARTS];

static entry *find_entry(int fd)
{
	entry *part;

	if (fd < 0 || (unsigned int)fd >= PART * PARTS)
		return NULL;
	part = atomic_load_explicit(&parts[(unsigned int)fd / PART], memory_order_acquire);
	return part ? &part[(unsigned int)fd % PART] : NULL;
}

/* A child made by fork has copies of the parent's descriptors; its virtual machines are the parent's alone. */
static void forget_all(void)
{
	for (size_t i = 0; i < PARTS; i++)
		atomic_store_explicit(&parts[i], NULL, memory_order_relaxed);
}

static void watch_forks(void)
{
	pthread_atfork(NULL, NULL, forget_all);
}

struct object *object_find(int fd)
{
	entry *found = find_entry(fd);

	return found ? atomic_load_explicit(found, memory_order_acquire) : NULL;
}

bool object_add(struct object *object)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	unsigned int fd = (unsigned int)object->fd;
	entry *part, *none = NULL;

	pthread_once(&once, watch_forks);

	if (object->fd < 0 || fd >= PART * PARTS)
		return false;
	if (find_entry(object->fd) == NULL) {
		part = calloc(PART, sizeof(*part));
		if (part == NULL)
			return false;
		if (!atomic_compare_exchange_strong(&parts[fd / PART], &none, part))
			free(part); /* another thread was first */
	}
	atomic_store_explicit(find_entry(object->fd), object, memory_order_release);
	return true;
}

void object_remove(int fd)
{
	entry *found = find_entry(fd);

	if (found)
		atomic_store_explicit(found, NULL, memory_order_release);
}
