/* SPDX-License-Identifier: MIT */
/* report.h - what a run leaves behind: demo.json for programs, report.html for people, report.svg for other pages. */
#ifndef DEMO_REPORT_H
#define DEMO_REPORT_H

#include "rows.h"

/* Writes the three files into `folder`, which is made if need be. 0, or -1 with a sentence in `error` (`size` bytes). */
int report_write(const struct rows *rows, const char *folder, char *error, size_t size);

#endif
