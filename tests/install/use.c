/* SPDX-License-Identifier: MIT */
/* use.c - a program that uses the installed library, a function of each header; also compiled as C++. */
#include <pvclock/pvclock.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			exit(1); \
		} \
	} while (0)

/* Aligned for 64-bit loads, as a guest's pages are. */
static union {
	uint64_t align;
	unsigned char bytes[4096];
} memory;

/* A page in memory that a VM registers, written by the engine and read as its guest does. */
static void run_a_clock(const struct pvclock_slope *host)
{
	struct pvclock_gpa base = { 0x10000 };
	struct pvclock_reading reading;
	struct pvclock_reason reason;
	struct pvclock_vcpu *vcpu;
	struct pvclock_record record, decoded;
	struct pvclock_vm *vm;
	unsigned char bytes[512], dirty = 0;
	uint64_t now;
	ssize_t length;

	CHECK(pvclock_vm_create(pvclock_os_linux(), &vm) == 0);
	CHECK(!pvclock_vm_stable(vm, &reason) && reason.code == PVCLOCK_REASON_NO_LINE);
	CHECK(strcmp(pvclock_reason_name(reason.code), "no-line") == 0 && reason.text[0] != '\0');
	CHECK(pvclock_vm_add_memory(vm, base, sizeof(memory), &memory, 0) == 0);
	CHECK(pvclock_vcpu_create(vm, 0, &vcpu) == 0);
	CHECK(pvclock_vm_start(vm, pvclock_os_linux()->ops->read_tsc(pvclock_os_linux()->ctx), 0, host) == 0);
	CHECK(pvclock_vcpu_write_msr(vcpu, PVCLOCK_MSR_SYSTEM_TIME, base.address | PVCLOCK_MSR_ENABLE) == 0);
	CHECK(pvclock_vm_take_dirty(vm, base, sizeof(memory), &dirty) == 1 && dirty == 1);

	CHECK(pvclock_read_clock((const struct pvclock_page *)&memory, &reading) == PVCLOCK_READ_OK);
	CHECK(reading.flags == PVCLOCK_TSC_STABLE);
	CHECK(pvclock_vm_now(vm, &now) == 0 && now >= reading.ns);

	CHECK(pvclock_vm_pause(vm) == 0);
	CHECK(pvclock_record_capture(vm, &record) == 0);
	length = pvclock_record_encode(&record, bytes, sizeof(bytes), &reason);
	CHECK(length > 0 && (size_t)length == pvclock_record_size(&record));
	CHECK(pvclock_record_decode(bytes, (size_t)length, &decoded, &reason) == 0);
	CHECK(pvclock_record_apply(&decoded, vm, NULL, &reason) == 0);
	pvclock_record_clear(&decoded);
	pvclock_record_clear(&record);
	CHECK(pvclock_vm_resume(vm) == 0);
	CHECK(pvclock_take_guest_stopped((struct pvclock_page *)&memory));

	pvclock_vcpu_destroy(vcpu);
	pvclock_vm_destroy(vm);
}

int main(void)
{
	struct pvclock_kvm_capabilities capabilities;
	struct pvclock_source *source;
	struct pvclock_reason reason;
	struct pvclock_slope slope;
	struct pvclock_line line;
	bool exact;

	CHECK(pvclock_slope_from_hz(1000000000, &slope));
	CHECK(pvclock_line_make(&line, 5, 7, &slope, &exact) && exact);
	CHECK(pvclock_line_ns(&line, 105) == 107);
	run_a_clock(&slope);

	/* These two ask the machine: any answer will do, so long as there is one. */
	if (pvclock_source_open(pvclock_os_linux(), &source, &reason) == 0)
		pvclock_source_close(source);
	else
		printf("no source here: %s\n", reason.text);
	CHECK(pvclock_kvm_probe(pvclock_os_linux(), -1, &capabilities) < 0);
	CHECK(strcmp(pvclock_mode_name(PVCLOCK_MODE_OWN), "own") == 0);
	return 0;
}
