/* SPDX-License-Identifier: MIT */
/* offer_words.h - what of pvclock/interface.h a guest is offered, as the operator says it: suspend, nested, with commas. */
#ifndef TOOLS_OFFER_WORDS_H
#define TOOLS_OFFER_WORDS_H

#include <stdbool.h>
#include <stdint.h>

/* PVCLOCK_FEATURE_*. False: a word is none of these, and *features is what the ones before it say. */
bool offer_from_words(const char *words, uint32_t *features);

#endif
