/* SPDX-License-Identifier: MIT */
/* pvclock.h - the whole library for a VMM on Linux. A guest includes guest.h alone. */
#ifndef PVCLOCK_PVCLOCK_H
#define PVCLOCK_PVCLOCK_H

#include <pvclock/clock.h>
#include <pvclock/deadline.h>
#include <pvclock/guest.h>
#include <pvclock/hyperv.h>
#include <pvclock/interface.h>
#include <pvclock/kvm.h>
#include <pvclock/line.h>
#include <pvclock/nested.h>
#include <pvclock/os.h>
#include <pvclock/page.h>
#include <pvclock/parent.h>
#include <pvclock/plan.h>
#include <pvclock/policy.h>
#include <pvclock/reason.h>
#include <pvclock/record.h>
#include <pvclock/source.h>
#include <pvclock/vm.h>
#include <pvclock/vmclock.h>

#endif
