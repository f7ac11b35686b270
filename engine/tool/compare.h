/* SPDX-License-Identifier: MIT */
/*
 * Two disks compared, all of their chains. What both say to be zeros is not read; the comparison ends
 * at the first difference. A disk that is shorter is equal if the rest of the other reads as zeros.
 *
 * Memory: 1 MiB and two lanes a thread.
 */
#ifndef COW_COMPARE_H
#define COW_COMPARE_H

#include "engine/base/result.h"
#include "engine/tool/disk.h"
#include "engine/tool/walk.h"

enum cow_compare_verdict {
	COW_COMPARE_SAME,
	COW_COMPARE_CONTENT, /* differs, in the sector at offset */
	COW_COMPARE_STATUS,  /* strict: one has something stored at offset, the other has not */
	COW_COMPARE_SIZE,    /* strict */
};

struct cow_compare_result {
	enum cow_compare_verdict verdict;
	uint64_t offset;
	/* after an error: which disk (-1: none), where, and whether its mapping could not be read */
	int failed;
	uint64_t failed_off;
	bool failed_map;
};

struct cow_compare {
	struct cow_disk *disks[2];
	bool strict; /* sizes and what is stored must be equal too */
	const atomic_bool *cancel;
	struct cow_progress progress;
	struct cow_compare_result result;
};

/* 0 with a verdict, or -errno. */
COW_MUST_CHECK int cow_compare(struct cow_compare *c);

#endif
