/* SPDX-License-Identifier: MIT */
/* entry.c - what the VMM calls instead of libc's: ioctl and close, told apart by descriptor and request. */
#define _GNU_SOURCE
#include "preload.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <unistd.h>

_Thread_local unsigned int passing;

/* libc's, or those of whoever else was preloaded. */
typedef int ioctl_call(int fd, unsigned long request, ...);
typedef int close_call(int fd);

static void *next(const char *name, _Atomic(void *) *found)
{
	void *call = atomic_load_explicit(found, memory_order_relaxed);

	if (call == NULL) {
		call = dlsym(RTLD_NEXT, name);
		atomic_store_explicit(found, call, memory_order_relaxed);
	}
	return call;
}

static ioctl_call *next_ioctl(void)
{
	static _Atomic(void *) found;

	return (ioctl_call *)next("ioctl", &found);
}

int kernel_ioctl(int fd, unsigned long request, void *arg)
{
	int saved = errno, result = next_ioctl()(fd, request, arg);

	if (result < 0)
		result = -errno;
	errno = saved;
	return result;
}

static int vm_ioctl(struct vm *vm, unsigned long request, void *arg)
{
	int result;

	switch (request) {
	case KVM_CREATE_VCPU:
		result = kernel_ioctl(vm->fd, request, arg);
		return result < 0 ? result : vcpu_created(vm, result, (uint32_t)(uintptr_t)arg);
	case KVM_SET_USER_MEMORY_REGION:
#ifdef KVM_SET_USER_MEMORY_REGION2
	case KVM_SET_USER_MEMORY_REGION2:
#endif
		return vm_set_memory(vm, request, arg);
	case KVM_GET_DIRTY_LOG:
		return vm_get_dirty_log(vm, arg);
	case KVM_X86_SET_MSR_FILTER:
		return vm_set_filter(vm, arg);
	case KVM_ENABLE_CAP:
		return vm_enable_cap(vm, arg);
	case KVM_CHECK_EXTENSION:
		return vm_check_extension(vm, (unsigned long)(uintptr_t)arg);
	case KVM_GET_CLOCK:
		return vm_get_clock(vm, arg);
	case KVM_SET_CLOCK:
		return vm_set_clock(vm, arg);
	default:
		return kernel_ioctl(vm->fd, request, arg);
	}
}

/* What the VMM does to a vCPU's counter by itself is known at once. */
static int set_counter(struct vcpu *vcpu, unsigned long request, void *arg)
{
	int result = kernel_ioctl(vcpu->object.fd, request, arg);

	if (result >= 0 && vcpu->clock != NULL) {
		pthread_mutex_lock(&vcpu->vm->lock);
		pvclock_kvm_follow_tsc(vcpu->vm->kvm, vcpu->clock);
		pthread_mutex_unlock(&vcpu->vm->lock);
	}
	return result;
}

static int vcpu_ioctl(struct vcpu *vcpu, unsigned long request, void *arg)
{
	switch (request) {
	case KVM_SET_TSC_KHZ:
	case KVM_SET_DEVICE_ATTR:
		return set_counter(vcpu, request, arg);
	case KVM_RUN:
		return vcpu_run(vcpu, arg);
	case KVM_GET_MSRS:
		return vcpu_get_msrs(vcpu, arg);
	case KVM_SET_MSRS:
		return vcpu_set_msrs(vcpu, arg);
	case KVM_SET_CPUID2:
		return vcpu_set_cpuid(vcpu, arg);
	case KVM_KVMCLOCK_CTRL:
		return vcpu_kvmclock_ctrl(vcpu);
	default:
		return kernel_ioctl(vcpu->object.fd, request, arg);
	}
}

__attribute__((visibility("default"))) int ioctl(int fd, unsigned long request, ...)
{
	struct object *object;
	va_list list;
	void *arg;
	int result;

	va_start(list, request);
	arg = va_arg(list, void *);
	va_end(list);
	if (_IOC_TYPE(request) != KVMIO || passing)
		return next_ioctl()(fd, request, arg);
	request = (uint32_t)request; /* the kernel's own view: QEMU keeps it in an int, and bit 31 comes as all of them */
	object = object_find(fd);
	if (object != NULL)
		result = object->kind == OBJECT_VM ? vm_ioctl((struct vm *)object, request, arg)
						   : vcpu_ioctl((struct vcpu *)object, request, arg);
	else if (request == KVM_CREATE_VM)
		result = vm_created(fd, kernel_ioctl(fd, request, arg));
	else
		return next_ioctl()(fd, request, arg);
	if (result >= 0)
		return result;
	errno = -result;
	return -1;
}

__attribute__((visibility("default"))) int close(int fd)
{
	static _Atomic(void *) found;
	struct object *object = passing ? NULL : object_find(fd);

	/* Not a child's that closes what it inherited: made by vfork, it is still in our memory. */
	if (object != NULL && object->process == getpid())
		object_closed(object);
	return ((close_call *)next("close", &found))(fd);
}
