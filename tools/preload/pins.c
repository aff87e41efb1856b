/* SPDX-License-Identifier: MIT */
/*
 * pins.c - memory that stays where it is. mlock is not enough: it keeps memory from the disk, not from compaction. What
 * io_uring has registered as a buffer is pinned like memory that a device writes to (FOLL_LONGTERM), and as long as the ring
 * is open: in any process, so also when the one whose memory it was is gone. Nothing is ever done by the ring.
 *
 * A page is looked up again at each question: the VMM may have put other memory at its address, or a guest given its own back (a
 * balloon). That is pinned then, too. What was there stays pinned: the clocks of other vCPUs lie in the same page, and their
 * entries name it until they are asked about; unpinned it would be anybody's, and the host would write there.
 */
#define _GNU_SOURCE
#include "parent.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE_SHIFT 12
#define PAGE_BYTES (UINT64_C(1) << PAGE_SHIFT)
#define PINS 4096u /* 16 MiB; a guest that reboots into ever other places comes to an end there */
#define TRIES 8 /* of a page that others change meanwhile */
#define GONE UINTPTR_MAX /* of memory that is at no address any more */
#define PAGEMAP_PRESENT (UINT64_C(1) << 63) /* Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_PFN ((UINT64_C(1) << 55) - 1)

struct pin {
	uintptr_t page; /* address >> PAGE_SHIFT */
	uint64_t pfn;
};

struct pins {
	int ring, pagemap;
	pthread_mutex_t lock;
	unsigned int count;
	struct pin pins[PINS];
};

static int lacks_ring(struct pvclock_reason *reason, int error)
{
	if (error == -EPERM)
		return lacks(reason, error, "this process may not use io_uring, which is to pin memory; set "
			     "/proc/sys/kernel/io_uring_disabled to 0.");
	if (error == -ENOMEM)
		return lacks(reason, error, "the limit of locked memory is too low to pin any; "
			     "raise it (ulimit -l), or give CAP_IPC_LOCK.");
	return lacks(reason, error, "this kernel's io_uring cannot pin memory page by page (%s); "
		     "Linux 5.19 and later can.", strerror(-error));
}

int pins_open(struct pins **out, struct pvclock_reason *reason)
{
	struct io_uring_rsrc_register table = { .nr = PINS, .flags = IORING_RSRC_REGISTER_SPARSE };
	struct io_uring_params params = { .flags = 0 };
	struct pins *pins = calloc(1, sizeof(*pins));
	int error = 0;

	if (pins == NULL)
		return lacks(reason, -ENOMEM, "there is no memory.");
	pthread_mutex_init(&pins->lock, NULL);
	pins->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	pins->ring = (int)syscall(SYS_io_uring_setup, 1, &params);
	if (pins->ring < 0)
		error = lacks_ring(reason, -errno);
	else if (syscall(SYS_io_uring_register, pins->ring, IORING_REGISTER_BUFFERS2, &table, sizeof(table)) < 0)
		error = lacks_ring(reason, -errno);
	else if (pins->pagemap < 0)
		error = lacks(reason, -errno, "/proc/self/pagemap, which tells where memory lies, cannot be opened (%s).", strerror(errno));
	if (error) {
		pins_close(pins);
		return error;
	}
	*out = pins;
	return 0;
}

void pins_close(struct pins *pins)
{
	if (pins == NULL)
		return;
	if (pins->ring >= 0)
		close(pins->ring);
	if (pins->pagemap >= 0)
		close(pins->pagemap);
	pthread_mutex_destroy(&pins->lock);
	free(pins);
}

int pins_ring(const struct pins *pins)
{
	return pins->ring;
}

/* 0: it is not there, or this process may not know. */
static uint64_t read_pfn(const struct pins *pins, uintptr_t page)
{
	uint64_t entry;

	if (pread(pins->pagemap, &entry, sizeof(entry), (off_t)(page * sizeof(entry))) != (ssize_t)sizeof(entry))
		return 0;
	return entry & PAGEMAP_PRESENT ? entry & PAGEMAP_PFN : 0;
}

static struct pin *find(struct pins *pins, uintptr_t page)
{
	for (unsigned int i = 0; i < pins->count; i++)
		if (pins->pins[i].page == page)
			return &pins->pins[i];
	return NULL;
}

/* With the lock. The place is one that nobody has been told of. */
static int pin_once(struct pins *pins, const struct pin *at, uintptr_t page, struct pvclock_reason *reason)
{
	struct iovec memory = { (void *)(page << PAGE_SHIFT), PAGE_BYTES };
	struct io_uring_rsrc_update2 update = { .offset = (uint32_t)(at - pins->pins), .data = (uintptr_t)&memory, .nr = 1 };
	long done = syscall(SYS_io_uring_register, pins->ring, IORING_REGISTER_BUFFERS_UPDATE, &update, sizeof(update));

	if (done < 0 && (errno == ENOMEM || errno == EPERM))
		return lacks_ring(reason, -errno);
	if (done != 1)
		return lacks(reason, done < 0 ? -errno : -EFAULT, "memory that a guest's clock page is in cannot be pinned (%s): is it "
			     "a file's?", strerror(done < 0 ? errno : EFAULT));
	return 0;
}

/*
 * The kernel may move it first, to where what stays may be; and another thread may put other memory there after it was pinned, and
 * before it is looked at. So it has to be what it was before, too.
 */
static int pin(struct pins *pins, struct pin *at, uintptr_t page, struct pvclock_reason *reason)
{
	for (unsigned int i = 0; i < TRIES; i++) {
		uint64_t before = read_pfn(pins, page);
		int error = pin_once(pins, at, page, reason);

		if (error)
			return error;
		at->page = page;
		at->pfn = read_pfn(pins, page);
		if (at->pfn != 0 && at->pfn == before)
			return 0;
	}
	if (at->pfn == 0)
		return lacks(reason, -EPERM, "the kernel does not tell this process where its memory lies; that takes CAP_SYS_ADMIN.");
	return lacks(reason, -EAGAIN, "the memory that a guest's clock page is in is given back and taken again.");
}

static int locate_page(struct pins *pins, uintptr_t page, uint64_t *pfn, struct pvclock_reason *reason)
{
	struct pin *found = find(pins, page), *next = &pins->pins[pins->count];
	int error;

	if (found != NULL && read_pfn(pins, page) == found->pfn) {
		*pfn = found->pfn;
		return 0;
	}
	if (pins->count == PINS)
		return lacks(reason, -ENOSPC, "all of %u pages are pinned already; "
			     "the guest has had its clock page in as many places.", PINS);
	error = pin(pins, next, page, reason);
	if (error)
		return error;
	if (found != NULL)
		found->page = GONE;
	pins->count++;
	*pfn = next->pfn;
	return 0;
}

int pins_locate(struct pins *pins, const void *host, uint64_t size, uint64_t *gpa, struct pvclock_reason *reason)
{
	uintptr_t address = (uintptr_t)host, first = address >> PAGE_SHIFT, last = (address + size - 1) >> PAGE_SHIFT;
	uint64_t pfn = 0, begin = 0;
	int error = 0;

	pthread_mutex_lock(&pins->lock);
	for (uintptr_t page = first; error == 0 && page <= last; page++) {
		error = locate_page(pins, page, &pfn, reason);
		if (page == first)
			begin = pfn;
		else if (error == 0 && pfn != begin + (page - first))
			error = lacks(reason, -EFAULT, "a guest's clock page lies in two pieces of this machine's memory.");
	}
	pthread_mutex_unlock(&pins->lock);
	*gpa = begin << PAGE_SHIFT | (address & (PAGE_BYTES - 1));
	return error;
}
