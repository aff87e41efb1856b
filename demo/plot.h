/* SPDX-License-Identifier: MIT */
/* plot.h - the picture: the guest's clock minus the ideal, over time. One SVG element, without scripts or external parts. */
#ifndef DEMO_PLOT_H
#define DEMO_PLOT_H

#include "rows.h"

#include <stdio.h>

/* A column per scenario: above, everything at full scale; below, the same around 0 in single ns. */
void plot_write(const struct rows *rows, FILE *out);

#endif
