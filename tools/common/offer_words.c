/* SPDX-License-Identifier: MIT */
#include "offer_words.h"

#include <pvclock/interface.h>
#include <string.h>

/* Deadlines are not among them: they want a timer of the VMM's own. */
static const struct {
	const char *word;
	uint32_t feature;
} offers[] = { { "suspend", PVCLOCK_FEATURE_SUSPEND }, { "nested", PVCLOCK_FEATURE_NESTED } };

static uint32_t feature_of(const char *word, size_t length)
{
	for (size_t i = 0; i < sizeof(offers) / sizeof(offers[0]); i++)
		if (strlen(offers[i].word) == length && memcmp(offers[i].word, word, length) == 0)
			return offers[i].feature;
	return 0;
}

bool offer_from_words(const char *words, uint32_t *features)
{
	*features = 0;
	for (;;) {
		size_t length = strcspn(words, ",");
		uint32_t feature = feature_of(words, length);

		if (feature == 0)
			return false;
		*features |= feature;
		if (words[length] == '\0')
			return true;
		words += length + 1;
	}
}
