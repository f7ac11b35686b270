/* SPDX-License-Identifier: MIT */
/*
 * What can be wrong with a tiny image and can be repaired, without loss of anything but, where it
 * says so, the snapshot.
 */
#ifndef COW_TEST_BREAKAGES_H
#define COW_TEST_BREAKAGES_H

#include "tests/unit/tiny_image.h"

/* The snapshot: can be read all the time, or after the repair, or is dropped by it. */
enum fate { SNAPSHOT_READS, SNAPSHOT_SAVED, SNAPSHOT_LOST };

struct breakage {
	const char *name;
	void (*apply)(struct tiny_image *t);
	enum fate fate;
	bool fine_in_version_2;
};

extern const struct breakage breakages[];
extern const unsigned nr_breakages;

#endif
