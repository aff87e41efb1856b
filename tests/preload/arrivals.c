/* SPDX-License-Identifier: MIT */
/*
 * A VM whose state was saved in one VM and put into another, in the order in which QEMU loads a snapshot or takes a
 * migration: memory, every vCPU's MSRs with the counter among them, then the clock. The guest's clock goes on as the
 * same function of its counter.
 */
#include "qemu_like.h"

#include <pvclock/record.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define VCPUS 2
#define BEHIND 1000000000000ull /* ticks of the first counter when the VM began */
#define HOUR 3600000000000ull

struct state {
	uint8_t memory[PLAIN_MEMORY];
	struct plain_stop stop;
	uint64_t system_time[VCPUS];
	uint64_t difference; /* of the second counter from the first */
	struct pvclock_line line[VCPUS];
};

static uint64_t offset_of(const struct plain *plain, unsigned int vcpu)
{
	uint64_t offset = 0;
	struct kvm_device_attr attribute = { .group = 0, .attr = 0, .addr = (uintptr_t)&offset }; /* KVM_VCPU_TSC_OFFSET */

	kernel_only(plain->vcpus[vcpu].fd, KVM_GET_DEVICE_ATTR, &attribute);
	return offset;
}

static void put_msrs(struct plain *plain, unsigned int vcpu, uint64_t tsc, uint64_t system_time)
{
	struct plain_msrs msrs = { .head.nmsrs = 3, .entries = { { .index = 0x10, .data = tsc },
								 { .index = PVCLOCK_MSR_WALL_CLOCK_OLD },
								 { .index = PVCLOCK_MSR_SYSTEM_TIME_OLD, .data = system_time } } };

	if (plain_ioctl(plain->vcpus[vcpu].fd, KVM_SET_MSRS, &msrs) != 3)
		live_note("vCPU %u's MSRs were not taken", vcpu);
}

/* A VM with a history: its counters began elsewhere, and its guest has a clock. Then its state. */
static void save(struct like *like, struct plain *plain, struct state *state, uint64_t difference)
{
	plain_create(plain);
	for (unsigned int i = 0; i < VCPUS; i++)
		plain_add_vcpu(plain, i);
	for (unsigned int i = 0; i < VCPUS; i++)
		put_msrs(plain, i, BEHIND, 0);
	plain_go_on(plain, 0);
	if (difference) {
		uint64_t offset = offset_of(plain, 1) + difference;
		struct kvm_device_attr attribute = { .group = 0, .attr = 0, .addr = (uintptr_t)&offset };

		plain_ioctl(plain->vcpus[1].fd, KVM_SET_DEVICE_ATTR, &attribute);
	}
	like_register(like, plain, VCPUS);
	plain_rdtsc(plain, 0);
	plain_stop(plain, &state->stop);
	memcpy(state->memory, plain->memory, PLAIN_MEMORY);
	for (unsigned int i = 0; i < VCPUS; i++) {
		state->system_time[i] = plain_get_msr(plain, i, PVCLOCK_MSR_SYSTEM_TIME_OLD);
		state->line[i] = plain_page(plain, i).line;
	}
	state->difference = difference;
	if (like->honoured)
		check(like, state->stop.tsc[1] - state->stop.tsc[0] == difference && state->stop.tsc[0] - BEHIND < 1ull << 36,
		      "the counters are told as they run: %lld apart", (long long)(state->stop.tsc[1] - state->stop.tsc[0]));
}

/* Into a VM whose vCPUs stand still. */
static void put_state(struct plain *plain, const struct state *state)
{
	memcpy(plain->memory, state->memory, PLAIN_MEMORY);
	for (unsigned int i = 0; i < VCPUS; i++)
		put_msrs(plain, i, state->stop.tsc[i], state->system_time[i]);
}

/* Into a new one. */
static void load(struct plain *plain, const struct state *state)
{
	plain_create(plain);
	for (unsigned int i = 0; i < VCPUS; i++)
		plain_add_vcpu(plain, i);
	for (unsigned int i = 0; i < VCPUS; i++)
		put_msrs(plain, i, 0, 0); /* as every machine is reset at first */
	put_state(plain, state);
}

/* The guest's clock against what it was, where it was. */
static void judge(struct like *like, struct plain *plain, const struct state *state, const char *name)
{
	int64_t moved = 0, exact = 0, from_page = 0, ppb = 1;
	uint64_t tsc = plain_rdtsc(plain, 0); /* at the latest here it goes on */
	unsigned int arrivals = like_event(like, "arrive", "exact", &exact);

	like_event(like, "arrive", "from_page", &from_page);
	like_event(like, "arrive", "rate_ppb", &ppb);
	like_event(like, "resume", "moved_ticks", &moved);
	check(like, arrivals == 1 && exact && from_page && ppb == 0, "%s: one arrival, exact, by its page", name);
	if (like->honoured) {
		uint64_t apart = offset_of(plain, 1) - offset_of(plain, 0);

		check(like, moved == 0, "%s: no line had to move: %lld ticks", name, (long long)moved);
		check(like, tsc > state->stop.tsc[0] && tsc - state->stop.tsc[0] < 1ull << 35, "%s: the counter went on: %llu ticks", name,
		      (unsigned long long)(tsc - state->stop.tsc[0]));
		check(like, apart == state->difference, "%s: the counters are as far apart as they were: %lld", name, (long long)apart);
	} else {
		check(like, moved != 0, "%s: the line moved with the counter: %lld ticks", name, (long long)moved);
	}
	plain_rdtsc(plain, 1);
	for (unsigned int i = 0; i < VCPUS; i++) {
		struct pvclock_snapshot page = plain_page(plain, i);
		struct pvclock_line expected = state->line[i];

		expected.tsc += (uint64_t)moved;
		check(like, like_same_line(like, &expected, &page.line, tsc), "%s: vCPU %u's page holds the line that it held", name, i);
		check(like, page.flags == (PVCLOCK_GUEST_STOPPED | (state->difference && like->honoured ? 0 : PVCLOCK_TSC_STABLE)),
		      "%s: vCPU %u's flags: %u", name, i, page.flags);
	}
}

/* `with_clock`: QEMU; without: a VMM that leaves it to the kernel. */
static void arrive(struct like *like, const struct state *state, const char *name, bool with_clock)
{
	struct plain plain;
	uint64_t told;

	like_forget_log(like);
	load(&plain, state);
	told = plain_get_msr(&plain, 1, 0x10);
	check(like, told == state->stop.tsc[1] && plain_get_msr(&plain, 1, PVCLOCK_MSR_SYSTEM_TIME_OLD) == state->system_time[1],
	      "%s: what was restored is told so", name);
	if (with_clock)
		plain_go_on(&plain, state->stop.clock.clock);
	judge(like, &plain, state, name);
	plain_destroy(&plain);
}

void state_arrives(struct like *like)
{
	static struct state state;
	struct plain plain;

	save(like, &plain, &state, 0);
	arrive(like, &state, "arrival", true);
	arrive(like, &state, "arrival without KVM_SET_CLOCK", false);
	plain_destroy(&plain);
	if (!like->own)
		return; /* counters that differ cost KVM its master clock */
	save(like, &plain, &state, 12345);
	arrive(like, &state, "arrival of counters that differ", true);
	state.stop.tsc[1] += 5000; /* and were saved one after the other */
	arrive(like, &state, "arrival of counters that differ, and by more as they were saved", true);
	plain_destroy(&plain);
}

/* A snapshot that is loaded, and saved again before the guest ran (QEMU's -S): what is told is what came. */
void state_is_saved_again(struct like *like)
{
	static struct state state;
	struct plain plain, other;
	struct plain_stop again;

	save(like, &plain, &state, 0);
	plain_destroy(&plain);
	like_forget_log(like);
	load(&other, &state);
	plain_stop(&other, &again);
	check(like, memcmp(again.tsc, state.stop.tsc, sizeof(again.tsc)) == 0, "loaded and not run, its counters are told as they came");
	check(like, again.clock.clock == pvclock_line_ns(&state.line[0], state.stop.tsc[0]), "and its clock as its page has it: %lld ns off",
	      (long long)(again.clock.clock - pvclock_line_ns(&state.line[0], state.stop.tsc[0])));
	for (unsigned int i = 0; i < VCPUS; i++) { /* version and flags the kernel may have touched */
		struct pvclock_line line = plain_page(&other, i).line;

		check(like, line.tsc == state.line[i].tsc && line.ns == state.line[i].ns && line.mul == state.line[i].mul,
		      "and vCPU %u's page is as it came", i);
	}
	usleep(20000);
	plain_stop(&other, &again);
	check(like, memcmp(again.tsc, state.stop.tsc, sizeof(again.tsc)) == 0, "later too");
	plain_go_on(&other, again.clock.clock);
	judge(like, &other, &state, "saved again");
	plain_destroy(&other);
}

/* loadvm: the VM that the state is of, some time later. Twice, for the second time has the first one's traces. */
void state_comes_back(struct like *like)
{
	static struct state state;
	struct plain_stop stop;
	struct plain plain;

	save(like, &plain, &state, 0);
	for (unsigned int i = 0; i < 2; i++) {
		plain_go_on(&plain, i ? stop.clock.clock : state.stop.clock.clock);
		plain_rdtsc(&plain, 0);
		usleep(30000);
		plain_stop(&plain, &stop);
		like_forget_log(like);
		put_state(&plain, &state);
		plain_go_on(&plain, state.stop.clock.clock);
		judge(like, &plain, &state, i ? "loaded once more" : "loaded into the same VM");
		plain_stop(&plain, &stop);
	}
	plain_destroy(&plain);
}

/* A state of before a vCPU was plugged in: loaded, that vCPU is none any more, and its page is the guest's for other things. */
void state_of_fewer_vcpus_comes_back(struct like *like)
{
	struct plain_stop stop, later;
	struct plain plain;
	uint64_t page;

	plain_start(&plain, 1);
	like_register(like, &plain, 1);
	plain_stop(&plain, &stop);
	page = plain_get_msr(&plain, 0, PVCLOCK_MSR_SYSTEM_TIME_OLD);
	plain_go_on(&plain, stop.clock.clock);
	plain_add_vcpu(&plain, 1);
	plain_set_msr(&plain, 1, 0x10, 1);
	like_register(like, &plain, 2);
	plain_stop(&plain, &later);
	put_msrs(&plain, 0, stop.tsc[0], page);
	memset(plain.memory + PLAIN_PAGE(1), 0, 64);
	plain_go_on(&plain, stop.clock.clock);
	plain_rdtsc(&plain, 0);
	check(like, plain_page(&plain, 0).line.mul != 0, "a state of fewer vCPUs: those that it has have their clock");
	if (like->own) /* the kernel writes when such a vCPU runs */
		check(like, plain_page(&plain, 1).line.mul == 0, "and the others' pages are left alone");
	plain_destroy(&plain);
}

void state_of_a_stock_host_arrives(struct like *like)
{
	static struct state state;
	struct pvclock_snapshot page;
	struct plain plain, other;
	int64_t from_page = 1;
	uint64_t tsc;

	/* QEMU without the preload reads one counter after the other. The pages tell how they really were. */
	save(like, &plain, &state, 0);
	state.stop.tsc[1] += 5000;
	like_forget_log(like);
	load(&other, &state);
	plain_go_on(&other, state.stop.clock.clock);
	judge(like, &other, &state, "counters saved one after the other");
	plain_destroy(&other);

	/* A page that is something else by now. */
	state.stop.clock.clock += 2 * HOUR;
	like_forget_log(like);
	load(&other, &state);
	plain_go_on(&other, state.stop.clock.clock);
	tsc = plain_rdtsc(&other, 0);
	page = plain_page(&other, 0);
	check(like, like_event(like, "arrive", "from_page", &from_page) == 1 && from_page == 0, "a page two hours off is not believed");
	check(like, page.line.mul && pvclock_line_ns(&page.line, tsc) - state.stop.clock.clock < 10000000000ull,
	      "and the clock goes on from what the VMM saved");
	plain_destroy(&other);

	/* Pages that the guest had taken back. Their bytes are still there. */
	state.stop.clock.clock -= 2 * HOUR;
	state.system_time[0] &= ~(uint64_t)PVCLOCK_MSR_ENABLE;
	state.system_time[1] = 0;
	like_forget_log(like);
	load(&other, &state);
	plain_go_on(&other, state.stop.clock.clock);
	plain_rdtsc(&other, 0);
	from_page = 1;
	check(like, like_event(like, "arrive", "from_page", &from_page) == 1 && from_page == 0, "a page that is not registered is none");
	check(like, offset_of(&other, 0) == offset_of(&other, 1), "and then counters that were saved one after the other are one");
	if (like->honoured) { /* but not any two */
		plain_destroy(&other);
		state.stop.tsc[1] += 1ull << 36;
		load(&other, &state);
		plain_go_on(&other, state.stop.clock.clock);
		plain_rdtsc(&other, 0);
		check(like, offset_of(&other, 1) - offset_of(&other, 0) == state.stop.tsc[1] - state.stop.tsc[0],
		      "those that are far apart stay so");
	}
	plain_destroy(&other);
	plain_destroy(&plain);
}

/* --- records ------------------------------------------------------------------------------------------- */

/* What the event says of the record; and the deadline that came along is told until it is carried out. */
static void arrive_recorded(struct like *like, struct plain *plain, const struct state *state, const char *policy, bool recorded,
			    int64_t *counted)
{
	const char *name = *policy ? policy : "no policy";
	int64_t told = -1;

	setenv("PVCLOCK_POLICY", policy, 1);
	like_forget_log(like);
	load(plain, state);
	plain_set_msr(plain, 0, 0x6e0, state->stop.tsc[0] + 777);
	check(like, plain_get_msr(plain, 0, 0x6e0) == state->stop.tsc[0] + 777, "%s: a deadline that came along is told", name);
	plain_go_on(plain, state->stop.clock.clock);
	plain_rdtsc(plain, 0);
	*counted = -1;
	check(like, like_event(like, "arrive", "recorded", &told) == 1 && told == recorded, "%s: %s", name,
	      recorded ? "the record is found" : "there is no record to be used");
	like_event(like, "arrive", "counted_ns", counted);
	like_event(like, "arrive", "deadlines", &told);
	check(like, told == 1, "%s: %lld deadlines came along", name, (long long)told);
	like_event(like, "arrive", "deadlines_past", &told);
	check(like, told == (*counted > 0), "%s: what is counted passes it, and only that: %lld have passed", name, (long long)told);
	check(like, like_event(like, "arrive", "host_tsc", &told) == 1 && (told > 0) == recorded, "%s: the instant is told", name);
}

/* The one file in the folder. */
static FILE *open_record(const char *folder, const struct state *state, char path[128])
{
	snprintf(path, 128, "%s/%016llx.pvclock", folder, (unsigned long long)state->stop.tsc[0]);
	return fopen(path, "r+");
}

/* Of one instant with what the VMM carries: where nothing is counted, the counters go on from just there. */
static bool record_is_of_the_stop(FILE *file, const struct state *state)
{
	static uint8_t bytes[65536];
	struct pvclock_record record;
	bool same;

	if (pvclock_record_decode(bytes, fread(bytes, 1, sizeof(bytes), file), &record, NULL) != 0)
		return false;
	same = pvclock_tsc_to_guest(&record.vcpus[0].tsc, record.time.at).ticks == state->stop.tsc[0];
	pvclock_record_clear(&record);
	return same;
}

/* As an operator does it, with the command. */
static bool edit_record(const char *path, const char *change)
{
	char command[512];

	snprintf(command, sizeof(command), "LD_PRELOAD= \"$PVCLOCK_COMMAND\" record edit %s %s", path, change);
	return system(command) == 0;
}

void records_tell_the_blackout(struct like *like)
{
	static struct state state;
	char folder[] = "/tmp/pvclock-records-XXXXXX", path[128];
	struct plain plain, other;
	int64_t counted, moved = 1;
	uint64_t offset;
	FILE *file;

	if (mkdtemp(folder) == NULL)
		return (void)check(like, false, "a folder for records");
	setenv("PVCLOCK_RECORDS", folder, 1);
	save(like, &plain, &state, 0);
	offset = offset_of(&plain, 0);
	file = open_record(folder, &state, path);
	check(like, file != NULL, "a stop leaves a record, named by the counter as it was told");
	check(like, file && record_is_of_the_stop(file, &state), "the record is of the instant of the stop");
	usleep(50000);

	/* This host's TSC went on, so counting the blackout is having the old offset again, to the tick. */
	arrive_recorded(like, &other, &state, "migration=advance", true, &counted);
	like_event(like, "resume", "moved_ticks", &moved);
	check(like, counted >= 50000000 && counted < 20000000000, "advance: %lld ns are counted", (long long)counted);
	check(like, offset_of(&other, 0) == offset && moved == 0, "advance: the counter goes on as if nothing had been: %lld ticks off",
	      (long long)(offset_of(&other, 0) - offset));
	for (unsigned int i = 0; i < VCPUS; i++) {
		uint64_t tsc = plain_rdtsc(&other, i);
		struct pvclock_line line = plain_page(&other, i).line;

		check(like, like_same_line(like, &state.line[i], &line, tsc), "advance: vCPU %u's line is the same", i);
	}
	plain_destroy(&other);

	arrive_recorded(like, &other, &state, "migration=advance,advance_max_ns=1000000", true, &counted);
	check(like, counted == 1000000, "no more than the bound is counted: %lld ns", (long long)counted);
	plain_destroy(&other);

	arrive_recorded(like, &other, &state, "migration=freeze", true, &counted);
	check(like, counted == 0, "freeze: nothing is counted: %lld ns", (long long)counted);
	judge(like, &other, &state, "freeze");
	plain_destroy(&other);

	/* Where nobody says otherwise, what the record says holds; and that can be changed before the VM arrives. */
	arrive_recorded(like, &other, &state, "", true, &counted);
	check(like, counted == 0, "the record's own policy freezes: %lld ns are counted", (long long)counted);
	plain_destroy(&other);
	check(like, edit_record(path, "policy.migration=advance policy.advance_max_ns=2000000"), "the record can be edited");
	arrive_recorded(like, &other, &state, "", true, &counted);
	check(like, counted == 2000000, "the edited policy advances within its bound: %lld ns are counted", (long long)counted);
	plain_destroy(&other);

	if (file)
		fclose(file);
	file = open_record(folder, &state, path);
	if (file) {
		fseek(file, 60, SEEK_SET);
		fputc(0x5a, file);
		fputc(0xa5, file);
		fclose(file);
	}
	arrive_recorded(like, &other, &state, "migration=advance", false, &counted);
	check(like, counted == 0, "a damaged record counts nothing");
	judge(like, &other, &state, "with a damaged record");
	plain_destroy(&other);

	unlink(path);
	arrive_recorded(like, &other, &state, "migration=advance", false, &counted);
	judge(like, &other, &state, "without its record");
	plain_destroy(&other);
	plain_destroy(&plain);
	unsetenv("PVCLOCK_POLICY");
	unsetenv("PVCLOCK_RECORDS");
	snprintf(path, sizeof(path), "rm -rf %s", folder);
	if (system(path))
		live_note("%s is left", folder);
}

/* --- a second process ------------------------------------------------------------------------------------- */

int arrive_as_peer(struct like *like, int state_fd)
{
	const struct state *state = mmap(NULL, sizeof(*state), PROT_READ, MAP_SHARED, state_fd, 0);

	if (state == MAP_FAILED)
		return 1;
	arrive(like, state, "in another process", true);
	return like->live.failed || like->live.checks == 0;
}

static void print_notes(int fd)
{
	char line[512];
	FILE *file = fdopen(fd, "r");

	rewind(file);
	while (file && fgets(line, sizeof(line), file))
		printf("# the other process: %s", line);
	if (file)
		fclose(file);
}

void state_arrives_in_another_process(struct like *like)
{
	int state_fd = memfd_create("state", 0), words_fd = memfd_create("words", 0), status = -1;
	struct state *state;
	struct plain plain;
	char number[16];
	pid_t pid;

	if (state_fd < 0 || words_fd < 0 || ftruncate(state_fd, sizeof(*state)))
		return (void)check(like, false, "two memfds");
	state = mmap(NULL, sizeof(*state), PROT_READ | PROT_WRITE, MAP_SHARED, state_fd, 0);
	save(like, &plain, state, 0);
	plain_destroy(&plain);
	snprintf(number, sizeof(number), "%d", state_fd);
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		dup2(words_fd, STDOUT_FILENO);
		execl("/proc/self/exe", like->self, "--peer", number, (char *)NULL);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	check(like, WIFEXITED(status) && WEXITSTATUS(status) == 0, "the state arrives in another process: wait status %#x",
	      (unsigned int)status);
	if (status)
		print_notes(words_fd);
	else
		close(words_fd);
	munmap(state, sizeof(*state));
	close(state_fd);
}
