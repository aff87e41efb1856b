/* SPDX-License-Identifier: MIT */
/*
 * arrival.c (fuzz) - a VM that comes to the preload with a hostile guest: any bytes as its clock pages, any
 * registrations and any counters. The clock that it gets is a line, and reads at the switch what its page said, if that
 * is believed, else what the VMM said.
 */
#include "input.h"

#include "../tests/fake/kvm.h"
#include "../tools/preload/preload.h"

#include <errno.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define VCPUS 2
#define MEMORY 256u
#define HOUR 3600000000000ll

static uint64_t registered[VCPUS]; /* the kernel's, in steer mode */
static bool own;

_Thread_local unsigned int passing;

/* --- what arrival.c calls ------------------------------------------------------------------------ */

int kernel_ioctl(int fd, unsigned long request, void *arg)
{
	struct kvm_msrs *msrs = arg;

	if (request != KVM_GET_MSRS || msrs->nmsrs != 1)
		return -ENXIO;
	msrs->entries[0].data = registered[fd - FAKE_VCPU_FD];
	return 1;
}

bool vm_is(const struct vm *vm, enum pvclock_mode mode)
{
	(void)vm;
	return mode == (own ? PVCLOCK_MODE_OWN : PVCLOCK_MODE_STEER);
}

void say(const char *format, ...)
{
	(void)format;
}

void record_event(const char *event, const struct pvclock_reason *reason, const char *members, ...)
{
	(void)event;
	(void)reason;
	(void)members;
}

/* It comes without a record: what these do is fuzzed by themselves (record.c, plan.c). */
bool vm_take_record(struct vm *vm, uint64_t first_tsc, const struct pvclock_line *line, uint64_t within_ns,
		    struct pvclock_plan *plan, struct pvclock_host_time *now)
{
	(void)vm;
	(void)first_tsc;
	(void)line;
	(void)within_ns;
	(void)plan;
	(void)now;
	return false;
}

/* ------------------------------------------------------------------------------------------------------ */

/* A page's address, or any. */
static uint64_t take_registration(struct input *input, unsigned int vcpu)
{
	uint8_t kind = (uint8_t)take(input, 1);

	return kind < 200 ? (64u * vcpu) | PVCLOCK_MSR_ENABLE : kind < 250 ? kind : take(input, 8);
}

/* What the first vCPU's page says at its counter. False: nothing. */
static bool page_says(struct vm *vm, const struct vcpu *vcpu, uint64_t msr, struct pvclock_line *line)
{
	struct pvclock_snapshot snapshot;

	if (!(msr & PVCLOCK_MSR_ENABLE) || pvclock_vm_read_page(vm->clock, (struct pvclock_gpa){ msr - 1 }, &snapshot) != 0)
		return false;
	*line = snapshot.line;
	(void)vcpu;
	return true;
}

/* The clock at the switch, against the rule. `first` is the counter then. */
static void judge(struct vm *vm, const struct pvclock_line *page, bool has_page, uint64_t first, int64_t moved)
{
	bool set = vm->set && vm->set_ns != UINT64_MAX; /* which is none */
	uint64_t now, said = set ? vm->set_ns : 0;
	struct pvclock_line line;

	check(pvclock_vcpu_get_line(vm->vcpus[0]->clock, &line) == 0 && pvclock_line_valid(&line));
	now = pvclock_line_ns(&line, first + (uint64_t)moved);
	if (has_page) {
		uint64_t there = pvclock_line_ns(page, first);
		int64_t apart = set ? (int64_t)(vm->set_ns - there) : 0;

		if (apart <= HOUR && apart >= -HOUR)
			said = there;
	}
	/*
	 * A counter that passes 2^64 where KVM runs it has no line (line.h): the clock then stands still, or is far on. No machine's
	 * is on for so long, but a guest may have written it.
	 */
	if (moved > 0 && first + (uint64_t)moved < first)
		check(now == line.ns && (now <= said || now - said == 1));
	else if (moved < 0 && first + (uint64_t)moved > first)
		check(now >= said);
	else if (moved < 0 && line.tsc == 0) /* the anchor would lie before tick 0 (line.h) */
		check(now - said <= 1 || said - now <= (line.shift < 0 ? 2 : 1));
	else /* a ns more: the bits of the ticks that the page's reader drops */
		check(now - said <= 1);
	/* From there on it is a clock: it goes forward. */
	check(pvclock_line_ns(&line, first + (uint64_t)moved + 1000000) >= now || first + (uint64_t)moved > UINT64_MAX - 1000000);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = { data, size };
	struct fake_kvm fake;
	struct vm vm = { .object = { OBJECT_VM, 3, 0 } };
	struct vcpu vcpu[VCPUS], *vcpus[VCPUS];
	struct pvclock_kvm_config config = { .os = &fake.os, .vm_fd = 3 };
	struct pvclock_correction correction;
	struct pvclock_line page;
	uint8_t *memory = calloc(1, MEMORY), flags = (uint8_t)take(&input, 1); /* a block of its own: ASan sees every byte outside */
	uint64_t first;
	bool has_page;

	own = flags & 1;
	fake_kvm_init(&fake, flags);
	fake.offset_ignored = flags & 2;
	fake.tsc = take(&input, 7) + 1000;
	pthread_mutex_init(&vm.lock, NULL);
	config.mode = own ? PVCLOCK_MODE_OWN : PVCLOCK_MODE_STEER;
	if (!memory || pvclock_vm_create(&fake.os, &vm.clock) ||
	    pvclock_vm_add_memory(vm.clock, (struct pvclock_gpa){ 0 }, MEMORY, memory, 0))
		abort();
	config.vm = vm.clock;
	if (pvclock_kvm_attach(&config, &vm.kvm, NULL))
		abort();
	memset(vcpu, 0, sizeof(vcpu));
	vm.vcpus = vcpus;
	vm.vcpu_count = VCPUS;
	vm.set = flags & 4;
	vm.set_ns = take(&input, flags & 8 ? 8 : 6);
	pvclock_slope_from_khz(flags & 16 ? fake.khz : fake.khz + (flags >> 5), &vm.host);
	for (unsigned int i = 0; i < VCPUS; i++) {
		vcpus[i] = &vcpu[i];
		vcpu[i].object = (struct object){ OBJECT_VCPU, FAKE_VCPU_FD + (int)i, 0 };
		vcpu[i].vm = &vm;
		vcpu[i].has_tsc = i == 0 || flags & 32;
		vcpu[i].tsc = take(&input, 8);
		if (pvclock_vcpu_create(vm.clock, i, &vcpu[i].clock) ||
		    pvclock_kvm_add_vcpu(vm.kvm, vcpu[i].clock, FAKE_VCPU_FD + (int)i))
			abort();
		registered[i] = take_registration(&input, i);
		if (own)
			pvclock_vcpu_restore_msr(vcpu[i].clock, PVCLOCK_MSR_SYSTEM_TIME, registered[i]);
		fake.deadline[i] = take(&input, 8);
		for (unsigned int n = 0; n < 32; n++)
			memory[64 * i + n] = (uint8_t)take(&input, 1);
	}
	/* an odd version, wherever a page is, costs a million tries each time, and says nothing then */
	for (unsigned int i = 0; i < VCPUS; i++)
		if (registered[i] < MEMORY)
			memory[registered[i] & ~1ull] &= 0xfe;
	first = vcpu[0].tsc;
	has_page = page_says(&vm, &vcpu[0], registered[0], &page);
	if (!has_page && vcpu[1].has_tsc && page_says(&vm, &vcpu[1], registered[1], &page)) {
		/* then it is the second one's clock: known to be a line, and no more is asked */
		check(vm_arrive(&vm) == 0);
		check(pvclock_vcpu_get_line(vcpu[0].clock, &page) == 0 && pvclock_line_valid(&page));
	} else {
		check(vm_arrive(&vm) == 0);
		check(pvclock_kvm_resume(vm.kvm, &correction, NULL) != -EALREADY);
		judge(&vm, &page, has_page, first, correction.moved_ticks);
	}
	for (unsigned int i = 0; i < VCPUS; i++) {
		pvclock_kvm_remove_vcpu(vm.kvm, vcpu[i].clock);
		pvclock_vcpu_destroy(vcpu[i].clock);
	}
	pvclock_kvm_detach(vm.kvm);
	pvclock_vm_destroy(vm.clock);
	pthread_mutex_destroy(&vm.lock);
	free(memory);
	return 0;
}
