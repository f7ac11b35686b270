/* SPDX-License-Identifier: MIT */
#include "engine/format/feature_names.h"

#include <string.h>

#include "engine/format/format.h"

static const struct {
	uint8_t type, bit;
	const char *name;
} feature_names[] = {
	{ 0, 0, "dirty bit" },
	{ 0, 1, "corrupt bit" },
	{ 0, 2, "external data file" },
	{ 0, 3, "compression type" },
	{ 0, 4, "extended L2 entries" },
	{ 1, 0, "lazy refcounts" },
	{ 2, 0, "bitmaps" },
	{ 2, 1, "raw external data" },
};

#define NR_FEATURES (sizeof(feature_names) / sizeof(feature_names[0]))
#define FEATURE_BYTES 48u
_Static_assert(COW_FEATURE_NAMES_BYTES == 8 + NR_FEATURES * FEATURE_BYTES, "feature name table");

size_t cow_feature_names_put(uint8_t *cluster, size_t off)
{
	uint8_t table[NR_FEATURES * FEATURE_BYTES] = { 0 };
	for (size_t i = 0; i < NR_FEATURES; i++) {
		table[i * FEATURE_BYTES] = feature_names[i].type;
		table[i * FEATURE_BYTES + 1] = feature_names[i].bit;
		memcpy(table + i * FEATURE_BYTES + 2, feature_names[i].name,
		       strlen(feature_names[i].name));
	}
	return cow_extension_put(cluster, off, QCOW2_EXT_FEATURE_NAMES, table, sizeof(table));
}
