/* SPDX-License-Identifier: MIT */
/*
 * The content of a dirty bitmap in memory: a bit for each granule of a disk, in the order that the
 * format has on disk (bit i: byte i / 8, least significant first). Pages that are never touched
 * cost nothing.
 */
#ifndef COW_DIRTY_H
#define COW_DIRTY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/base/shared.h"

#define COW_DIRTY_MAX_BYTES (512ull << 20) /* the format's limit, as in QEMU */

struct cow_dirty {
	_Atomic uint64_t *words; /* little-endian */
	uint64_t nr_bits;
	uint64_t size_bytes; /* of the disk */
	unsigned granularity_bits;
	atomic_bool changed; /* a bit was set that was clear */
	struct cow_shared_part
		part; /* where the words lie when cow_dirty_share() has been called */
};

/*
 * What the bitmaps that are kept up to date may take together: an image must not make us take any
 * amount of memory, nor any number of looks at each request. Zero to begin with; -EFBIG, with the
 * limit in the error's text: one more is too much.
 */
struct cow_dirty_budget {
	unsigned nr;
	uint64_t bytes;
};
COW_MUST_CHECK int cow_dirty_budget_take(struct cow_dirty_budget *budget, uint64_t size_bytes,
					 unsigned granularity_bits, struct cow_error *err);

/* All clean. -EFBIG: more than the format's limit. */
COW_MUST_CHECK int cow_dirty_init(struct cow_dirty *d, uint64_t size_bytes,
				  unsigned granularity_bits);
void cow_dirty_fini(struct cow_dirty *d);
/*
 * Before anybody else uses it: its words move to memory that outlives the process, zeros included. 0 or
 * -errno: nothing has changed.
 */
COW_MUST_CHECK int cow_dirty_share(struct cow_dirty *d, struct cow_shared *shared);
/* Bytes of its words. */
uint64_t cow_dirty_words_bytes(const struct cow_dirty *d);

/* [off, off+bytes) of the disk is dirty. Any thread. */
void cow_dirty_set(struct cow_dirty *d, uint64_t off, uint64_t bytes);
/* What is dirty in `from`, of the same disk, is dirty in d as well. */
void cow_dirty_merge(struct cow_dirty *d, const struct cow_dirty *from);
/* The first dirty extent at or after *off, cut at the disk's end; false: none is left. */
bool cow_dirty_next(const struct cow_dirty *d, uint64_t *off, uint64_t *bytes);

/*
 * Bytes [at, at+bytes) of the data as it stands on disk; beyond its end zeros. Returns whether any
 * is not zero.
 */
bool cow_dirty_store(const struct cow_dirty *d, uint64_t at, uint8_t *to, uint64_t bytes);
/* The reverse, into a bitmap that nobody else uses; what lies beyond its end is ignored. */
void cow_dirty_load(struct cow_dirty *d, uint64_t at, const uint8_t *from, uint64_t bytes);

#endif
