/* SPDX-License-Identifier: MIT */
/*
 * Consistency check and repair of an image file: recounts every reference and compares. Offline:
 * the image is not open for writing anywhere. Memory: 8 bytes per host cluster at most, refused
 * with -ENOMEM / -EFBIG above a stated limit. All I/O goes through loop, so that it runs in the
 * simulator.
 */
#ifndef COW_CHECK_H
#define COW_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/loop/loop.h"

enum cow_repair { COW_REPAIR_NONE, COW_REPAIR_LEAKS, COW_REPAIR_ALL };

struct cow_check_options {
	enum cow_repair repair;
	/* repair drops none: with one that cannot be saved the image stays as it is, corrupt */
	bool keep_snapshots;
	/*
	 * One call per finding: "ERROR cluster 5 refcount=0 reference=1", "Leaked cluster ...". May
	 * be NULL.
	 */
	void (*finding)(void *ctx, const char *text);
	/* 0..1000 thousandths done, now and then. May be NULL. */
	void (*progress)(void *ctx, unsigned permille);
	void *ctx;
};

/* Names as in qemu-img check --output=json. */
struct cow_check_result {
	uint64_t corruptions, leaks, check_errors;
	uint64_t corruptions_fixed, leaks_fixed;
	uint64_t image_end_offset;
	uint64_t total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
};

/*
 * file: the opened image (writable when repair is asked). 0: the check ran, see result; -ENOTSUP:
 * not a format it knows; else it could not be done. Repair is crash-safe (FORMAT.md 4: snapshot
 * table, recount, compare, rebuild, COPIED) and ends with the dirty and corrupt bits cleared when
 * nothing is left to repair.
 */
COW_MUST_CHECK int cow_check_file(struct cow_loop *loop, struct cow_file *file,
				  const struct cow_check_options *options,
				  struct cow_check_result *result, struct cow_error *err);

#endif
