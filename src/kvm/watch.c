/* SPDX-License-Identifier: MIT */
/*
 * watch.c - a host that is itself a virtual machine, and whose line may become another under it: then its guests'
 * lines, which were made from it, are wrong, and follow (pvclock_line_follow). Where a VM has a parent that tells it
 * (src/host/parent.c) they follow that. Else its hypervisor's page is looked at, before each entry, and they follow as the
 * parent would have made them, from when it is noticed. A parent changes both before this machine runs on: where the page alone has
 * changed the machine has come to a host that is none, or does not know of it, and is told so once more.
 *
 * What cannot be had this way: a guest that runs when its host is moved runs on by the old line until its next exit.
 * What it counted too much there is not taken back.
 */
#include "kvm.h"
#include "../host/reason.h"

#include <pvclock/parent.h>

#include <errno.h>

/* What the page says, and at which version. False: it says nothing now. */
static bool read_page(const struct pvclock_kvm *kvm, struct pvclock_host_tsc now, struct kvm_host_page *said, uint32_t *version)
{
	struct pvclock_hyperv_snapshot hyperv;
	struct pvclock_snapshot snapshot;

	*said = (struct kvm_host_page){ .line = { .mul = 0 } };
	if (kvm->watched.which == PVCLOCK_CLOCK_PAGE_KVM) {
		if (pvclock_page_read(kvm->watched.page, &snapshot) != PVCLOCK_READ_OK)
			return false;
		said->line = snapshot.line;
		*version = snapshot.version;
		return true;
	}
	if (pvclock_hyperv_page_read(kvm->watched.page, &hyperv) != PVCLOCK_READ_OK)
		return false;
	said->hyperv = hyperv.hyperv;
	*version = hyperv.sequence;
	return pvclock_line_from_hyperv(&hyperv.hyperv, now.ticks, &said->line);
}

/*
 * Whether a guest's line follows. A clock of KVM's that jumps at its old rate was set, by a VMM whose guest stood
 * still: the counter has not changed, and no line over it. Hyper-V never sets its reference time, so it is the counter
 * that jumped.
 */
static bool is_another(const struct kvm_host_page *was, const struct kvm_host_page *is)
{
	struct pvclock_slope a, b;

	if (is->hyperv.scale)
		return was->hyperv.scale != is->hyperv.scale || was->hyperv.offset != is->hyperv.offset;
	return pvclock_slope_from_line(&was->line, &a) && pvclock_slope_from_line(&is->line, &b) && pvclock_slope_difference(&a, &b) != 0;
}

int pvclock_kvm_watch(struct pvclock_kvm *kvm, enum pvclock_source_from from)
{
	const struct pvclock_os_ops *ops = kvm->os->ops;
	uint32_t version = 0;

	kvm->watched.page = NULL;
	if (from == PVCLOCK_SOURCE_FROM_SAMPLES)
		return 0;
	if (kvm->mode->mode != PVCLOCK_MODE_OWN || !ops->clock_page)
		return -ENOTSUP;
	kvm->watched.which = from == PVCLOCK_SOURCE_FROM_KVM_PAGE ? PVCLOCK_CLOCK_PAGE_KVM : PVCLOCK_CLOCK_PAGE_HYPERV;
	kvm->watched.page = ops->clock_page(kvm->os->ctx, kvm->watched.which);
	if (!kvm->watched.page)
		return -ENOTSUP;
	if (!read_page(kvm, ops->read_tsc(kvm->os->ctx), &kvm->watched.said, &version)) {
		kvm->watched.page = NULL;
		return -EAGAIN;
	}
	atomic_store_explicit(&kvm->watched.version, version, memory_order_relaxed);
	return 0;
}

static bool page_changed(struct pvclock_kvm *kvm)
{
	uint32_t version = atomic_load_explicit(&kvm->watched.version, memory_order_relaxed);
	struct kvm_host_page said;

	if (!kvm->watched.page || pvclock_load_acquire_u32(kvm->watched.page) == version)
		return false;
	if (!read_page(kvm, kvm->os->ops->read_tsc(kvm->os->ctx), &said, &version))
		return false; /* being written, or not valid yet: asked again at the next entry */
	if (is_another(&kvm->watched.said, &said))
		return true;
	atomic_store_explicit(&kvm->watched.version, version, memory_order_relaxed); /* the same function, written anew */
	return false;
}

bool pvclock_kvm_host_changed(struct pvclock_kvm *kvm)
{
	return pvclock_parent_changed(kvm->vm) || page_changed(kvm);
}

/*
 * The first vCPU's line after that, never back behind what it has read by the old one. An instant is what this
 * machine's clock says, before and after; in a blackout it is when that began, as nobody has read anything since, and
 * the policy wants to know what was read there.
 */
static bool follow(struct pvclock_kvm *kvm, const struct kvm_host_page *said, struct pvclock_host_tsc now, struct pvclock_line *line)
{
	struct pvclock_line_change change = { .old = kvm->watched.said.line, .next = said->line, .old_ticks = kvm->last.ticks, .next_ticks = now.ticks };
	struct pvclock_host_tsc ever = { UINT64_MAX };
	struct pvclock_line was = *line;
	struct pvclock_tsc_transform tsc;

	if (kvm->held)
		change.next_ticks = pvclock_kvm_retrace(&change.old, &change.next, now, change.old_ticks);
	else
		change.old_ticks = pvclock_kvm_retrace(&change.next, &change.old, ever, change.next_ticks);
	change.next.tsc = change.next_ticks; /* which is before its anchor, perhaps */
	change.next.ns = pvclock_line_ns(&change.old, change.old_ticks);

	pvclock_vcpu_get_tsc(kvm->vcpus[0].vcpu, &tsc);
	if (!pvclock_line_follow(&change, &tsc, line, line))
		return false;
	pvclock_kvm_keep_ahead(kvm, &was, now, line);
	return true;
}

/* There is a page, and no line that could follow it. */
static void give_up(struct pvclock_kvm *kvm)
{
	struct pvclock_reason reason;

	pvclock_reason_set(&reason, PVCLOCK_REASON_SLOPE_MISFIT,
			   "This machine's hypervisor has given its clock a slope that no guest's can follow; give the VM a new clock.");
	pvclock_vm_declare_unstable(kvm->vm, &reason);
	kvm->watched.page = NULL;
}

static int follow_page(struct pvclock_kvm *kvm)
{
	struct pvclock_host_tsc now = kvm->os->ops->read_tsc(kvm->os->ctx);
	struct kvm_follow before;
	struct kvm_host_page said;
	struct pvclock_line line;
	uint32_t version;
	bool followed;
	int error;

	if (!read_page(kvm, now, &said, &version))
		return 0;
	error = pvclock_kvm_begin_follow(kvm, &before);
	if (error)
		return error;
	if (kvm->vcpu_count == 0 || pvclock_vcpu_get_line(kvm->vcpus[0].vcpu, &line)) {
		followed = false; /* no clock yet, that could */
	} else {
		followed = follow(kvm, &said, now, &line) && pvclock_vcpu_set_line(kvm->vcpus[0].vcpu, &line) == 0 &&
			   pvclock_slope_from_line(&said.line, &kvm->host);
		if (!followed)
			give_up(kvm);
	}
	kvm->watched.said = said;
	atomic_store_explicit(&kvm->watched.version, version, memory_order_relaxed);
	return pvclock_kvm_end_follow(kvm, &before, followed);
}

void pvclock_kvm_peek_host(struct pvclock_kvm *kvm, struct kvm_peek *peek)
{
	peek->valid = kvm->watched.page && read_page(kvm, kvm->os->ops->read_tsc(kvm->os->ctx), &peek->said, &peek->version);
}

static uint64_t distance(const struct pvclock_slope *host, const struct pvclock_line *line)
{
	struct pvclock_slope slope;
	int64_t apart;

	if (!pvclock_slope_from_line(line, &slope))
		return UINT64_MAX;
	apart = pvclock_slope_difference(host, &slope);
	return apart < 0 ? -(uint64_t)apart : (uint64_t)apart;
}

void pvclock_kvm_made_anew(struct pvclock_kvm *kvm, const struct kvm_peek *peek, const struct pvclock_slope *host)
{
	if (!kvm->watched.page || !peek->valid || distance(host, &peek->said.line) > distance(host, &kvm->watched.said.line))
		return;
	kvm->watched.said = peek->said;
	atomic_store_explicit(&kvm->watched.version, peek->version, memory_order_relaxed);
}

/* What the page says is what was just followed. One that says nothing now is looked at no more. */
static void look_again(struct pvclock_kvm *kvm)
{
	uint32_t version;

	if (!kvm->watched.page)
		return;
	if (read_page(kvm, kvm->os->ops->read_tsc(kvm->os->ctx), &kvm->watched.said, &version))
		atomic_store_explicit(&kvm->watched.version, version, memory_order_relaxed);
	else
		kvm->watched.page = NULL;
}

int pvclock_kvm_follow_host(struct pvclock_kvm *kvm)
{
	bool alone = page_changed(kvm);
	int error;

	/* asked after the page: if the parent has changed both just now, it is the parent's */
	if (pvclock_parent_changed(kvm->vm)) {
		error = pvclock_kvm_follow_parent(kvm);
		look_again(kvm);
		return error;
	}
	if (!alone)
		return 0;
	pvclock_parent_renew(kvm->vm);
	return follow_page(kvm);
}
