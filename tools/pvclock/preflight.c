/* SPDX-License-Identifier: MIT */
/*
 * preflight.c - pvclock preflight: what a host would make of a record, before a guest is moved. The plan is the library's
 * own, the one that a restore carries out.
 */
#define _GNU_SOURCE
#include "preflight.h"
#include "host.h"
#include "policy_words.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

bool preflight_takes(const struct preflight *preflight)
{
	return preflight->planned && preflight->plan.precision != PVCLOCK_LEGACY;
}

/* --- the destination ---------------------------------------------------------------------- */

/* Why no mode keeps the function here; as pvclock_kvm_attach chooses. */
static bool choose_mode(const struct host *host, enum pvclock_mode *mode, struct sentence *why)
{
	const struct pvclock_kvm_capabilities *can = &host->capabilities;
	bool own = can->user_space_msr && can->msr_filter;

	if (*mode == PVCLOCK_MODE_OWN && !own)
		return say(why, "KVM cannot hand a guest's clock MSRs to userspace, which own mode needs: use Linux 5.10 or newer, "
			   "or --mode steer.");
	if (*mode == PVCLOCK_MODE_AUTO)
		*mode = own && (host->line || !can->master_clock) ? PVCLOCK_MODE_OWN : PVCLOCK_MODE_STEER;
	return true;
}

static bool look_at_this_host(enum pvclock_mode mode, const char *kvm_path, struct pvclock_destination *destination,
			      struct sentence *why)
{
	struct host host = { .kvm_path = kvm_path };
	const struct pvclock_reason *no_line;
	int error;

	probe_host_kvm(&host); /* notes why not, and nothing else */
	if (!host.kvm)
		return say(why, "%s", host.notes.text[0]);
	learn_host(&host);
	if (!choose_mode(&host, &mode, why))
		return false;
	no_line = host.line ? &host.capabilities.master_clock_reason : &host.source_reason;
	if (mode == PVCLOCK_MODE_STEER && !host.capabilities.master_clock)
		no_line = &host.capabilities.master_clock_reason;
	error = pvclock_kvm_destination(pvclock_os_linux(), &host.capabilities, mode,
					host.line ? &host.source.slope : &(struct pvclock_slope){ 0 }, no_line, destination);
	return error == 0 || say(why, "This host's clocks cannot be read: %s.", strerror(-error));
}

static bool read_destination(const char *path, struct pvclock_destination *destination, struct sentence *why)
{
	json_t *json = json_from_file(path, why);
	bool fine = json && fields_from_json(&destination_fields, json, NULL, destination, why);

	json_decref(json);
	return fine;
}

/* --- what a person should know of a plan ------------------------------------------------------ */

static void note_elapsed(const struct pvclock_plan *plan, struct notes *notes)
{
	if (plan->elapsed.measured_ns < 0)
		note(notes, "The clock there (by %s) is %" PRIu64 " ns behind the one at the save, so no time is counted; "
		     "set it right (chronyc waitsync) before the guest is moved.", pvclock_timescale_name(plan->elapsed.by),
		     -(uint64_t)plan->elapsed.measured_ns);
	if (plan->capped)
		note(notes, "The policy counts no more than %" PRIu64 " ns (policy.advance_max_ns): the guest's clock will be %"
		     PRIu64 " ns behind what passed.", plan->counted_ns, plan->elapsed.ns - plan->counted_ns);
	if (plan->counted_ns == 0)
		return;
	if (plan->elapsed.by == PVCLOCK_BY_REALTIME)
		note(notes, "Not both hosts know how TAI differs from UTC, so a leap second may be in what is counted: tell the "
		     "kernels (chrony: leapsectz right/UTC).");
	if (plan->bound_ns == PVCLOCK_ERROR_UNKNOWN)
		note(notes, "How wrong the counted time may be, nobody knows: one of the hosts' clocks is kept in time by "
		     "nobody that tells the kernel its error; run chronyd (with rtcsync) or ntpd on both.");
}

static void note_tsc(const struct pvclock_plan *plan, const struct pvclock_destination *destination, struct notes *notes)
{
	struct pvclock_slope was;

	if (!plan->tsc_kept)
		note(notes, "This host ignores TSC offsets: the guest's TSC jumps, and the line moves with it, so that the clock "
		     "does not. A guest that keeps time by the TSC itself sees the jump; a KVM that offsets the TSC does not have it.");
	if (plan->precision == PVCLOCK_CONTINUED && plan->ratio.frac_bits == 0 && pvclock_slope_from_line(&plan->at.old, &was) &&
	    !pvclock_rates_alike(&was, &destination->host))
		note(notes, "This host's TSC has another rate and is not scaled, so the clock goes on by a new line. A guest that "
		     "keeps time by the TSC itself runs at the wrong rate; a CPU with TSC scaling keeps it.");
	if (plan->precision == PVCLOCK_LEGACY) {
		note(notes, "%s", plan->tsc_khz ? "KVM's clock of a scaled TSC cannot be aimed in steer mode; own mode keeps it." :
						  destination->no_line.text);
		note(notes, "Without a line the clock goes on from its value, which one call sets, and what passes around that call "
		     "is lost; the record's policy allows it (policy.fall_back).");
	}
	if (plan->deadlines_past)
		note(notes, "%" PRIu32 " TSC deadline%s passed by the switch and fire%s at once.", plan->deadlines_past,
		     plan->deadlines_past == 1 ? "" : "s", plan->deadlines_past == 1 ? "s" : "");
}

static void make_plan(struct preflight *preflight)
{
	preflight->planned = pvclock_plan_make(preflight->record, &preflight->destination, preflight->blackout, &preflight->plan,
					       &preflight->reason) == 0;
	if (preflight->planned) {
		note_elapsed(&preflight->plan, &preflight->notes);
		note_tsc(&preflight->plan, &preflight->destination, &preflight->notes);
	} else if (preflight->reason.text[0] == '\0') {
		snprintf(preflight->reason.text, sizeof(preflight->reason.text),
			 "The host's slope is no clock's: learn it again (pvclock host).");
	}
}

/* --- the command ------------------------------------------------------------------------------- */

#define POLICIES_MAX 16

struct options {
	bool json, print_destination;
	enum pvclock_blackout blackout;
	enum pvclock_mode mode;
	const char *kvm_path, *destination;
	const char *policies[POLICIES_MAX];
	size_t policy_count;
};

static int complain(const char *path, const struct sentence *why)
{
	fprintf(stderr, "pvclock preflight: %s%s%s\n", path ? path : "", path ? ": " : "", why->text);
	return EXIT_LACKING;
}

static int print_destination(const struct options *options)
{
	struct pvclock_destination destination;
	struct sentence why;

	if (!look_at_this_host(options->mode, options->kvm_path, &destination, &why))
		return complain(NULL, &why);
	print_json(fields_to_json(&destination_fields, &destination));
	return EXIT_FINE;
}

static int preflight_record(const char *path, const struct options *options)
{
	struct preflight preflight = { .path = path, .blackout = options->blackout, .elsewhere = options->destination != NULL };
	struct record_file file;
	struct sentence why;
	bool fine;

	if (!record_file_read(path, &file, &why))
		return complain(path, &why);
	for (size_t i = 0; i < options->policy_count; i++) {
		if (policy_from_words(&file.record.policy, options->policies[i], &preflight.reason) == 0)
			continue;
		record_file_clear(&file);
		fprintf(stderr, "pvclock preflight: %s\n", preflight.reason.text);
		return usage_error("preflight");
	}
	preflight.record = &file.record;
	fine = options->destination ? read_destination(options->destination, &preflight.destination, &why) :
				      look_at_this_host(options->mode, options->kvm_path, &preflight.destination, &why);
	if (fine) {
		make_plan(&preflight);
		if (options->json)
			print_preflight_json(&preflight);
		else
			print_preflight(&preflight);
	}
	record_file_clear(&file);
	if (!fine)
		return complain(options->destination, &why);
	return preflight_takes(&preflight) ? EXIT_FINE : EXIT_LACKING;
}

static void print_help(void)
{
	puts("Usage: pvclock preflight RECORD [--as BLACKOUT] [--mode own|steer] [--policy POLICY]... [--json]\n"
	     "                         [--kvm PATH | --destination FILE]\n"
	     "       pvclock preflight --print-destination [--mode own|steer] [--kvm PATH]\n\n"
	     "Says, before a virtual machine is moved, whether this host can take its clock, with what precision, and what the\n"
	     "guest will see. Changes nothing.\n\n"
	     "  --as BLACKOUT        migration (default), snapshot or live-update\n"
	     "  --mode MODE          own or steer (default: own where it can be had)\n"
	     "  --policy POLICY      as if the record's policy said so: snapshot=advance,fall_back=true\n"
	     "  --json               print JSON\n"
	     "  --kvm PATH           the KVM device (default /dev/kvm)\n"
	     "  --print-destination  print what would be asked of this host, for --destination elsewhere\n"
	     "  --destination FILE   ask this of a host that was printed so, not of this one\n\n"
	     "Exit code: 0 if the clock goes on as the function that it was, 1 if not, 2 for a usage error.");
}

static bool parse_blackout(const char *name, enum pvclock_blackout *blackout)
{
	return pvclock_blackout_parse(name, blackout) && *blackout != PVCLOCK_BLACKOUT_PAUSE &&
	       *blackout != PVCLOCK_BLACKOUT_SUSPEND;
}

static bool parse_mode(const char *name, enum pvclock_mode *mode)
{
	*mode = strcmp(name, "own") == 0 ? PVCLOCK_MODE_OWN : PVCLOCK_MODE_STEER;
	return strcmp(name, "own") == 0 || strcmp(name, "steer") == 0;
}

static int misuse(const char *message)
{
	fprintf(stderr, "pvclock preflight: %s\n", message);
	return usage_error("preflight");
}

int preflight_command(int argc, char **argv)
{
	static const struct option known[] = {
		{ "as", required_argument, NULL, 'a' },
		{ "mode", required_argument, NULL, 'm' },
		{ "policy", required_argument, NULL, 'p' },
		{ "json", no_argument, NULL, 'j' },
		{ "kvm", required_argument, NULL, 'k' },
		{ "print-destination", no_argument, NULL, 'P' },
		{ "destination", required_argument, NULL, 'd' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct options options = { .blackout = PVCLOCK_BLACKOUT_MIGRATION, .mode = PVCLOCK_MODE_AUTO };
	int option;

	while ((option = getopt_long(argc, argv, "h", known, NULL)) != -1) {
		switch (option) {
		case 'a':
			if (!parse_blackout(optarg, &options.blackout))
				return misuse("--as takes migration, snapshot or live-update");
			break;
		case 'm':
			if (!parse_mode(optarg, &options.mode))
				return misuse("--mode takes own or steer");
			break;
		case 'p':
			if (options.policy_count == POLICIES_MAX)
				return misuse("--policy was given too often");
			options.policies[options.policy_count++] = optarg;
			break;
		case 'j':
			options.json = true;
			break;
		case 'k':
			options.kvm_path = optarg;
			break;
		case 'P':
			options.print_destination = true;
			break;
		case 'd':
			options.destination = optarg;
			break;
		case 'h':
			print_help();
			return EXIT_FINE;
		default:
			return usage_error("preflight");
		}
	}
	if (options.destination && (options.mode != PVCLOCK_MODE_AUTO || options.kvm_path || options.print_destination))
		return misuse("--destination describes a host with its mode: --mode, --kvm and --print-destination are for this one");
	if (options.kvm_path == NULL)
		options.kvm_path = "/dev/kvm";
	if (options.print_destination)
		return optind == argc ? print_destination(&options) : misuse("--print-destination takes no record");
	if (optind + 1 != argc)
		return misuse("give one record");
	return preflight_record(argv[optind], &options);
}
