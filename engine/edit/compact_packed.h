/* SPDX-License-Identifier: MIT */
/*
 * Compressed clusters of a step. Several share a host cluster, and one may lie in two, so they are
 * packed anew: in the order of the host file, into free clusters below. What lay side by side, or had
 * a sector in common, does so again.
 */
#ifndef COW_COMPACT_PACKED_H
#define COW_COMPACT_PACKED_H

#include "engine/base/result.h"
#include "engine/edit/edit.h"

struct cow_compact_payload {
	uint64_t word; /* of its L2 entries */
	uint64_t off;  /* on the host */
	uint64_t to;   /* the entries' word as it will be */
	uint32_t bytes, refs;
};

struct cow_compact_packed {
	struct cow_compact_payload *p; /* ascending once they are packed */
	uint64_t nr, max;

	/* while they are packed: what is being filled */
	uint64_t off;	      /* its first cluster; 0: none */
	uint64_t fill, bytes; /* filled of so many */
	uint64_t touched;     /* clusters behind are only taken */
	uint8_t *buf;
	bool full; /* nothing below is free */
};

/* An entry that has to move, and how many paths lead to it. */
COW_MUST_CHECK int cow_compact_packed_add(struct cow_compact_packed *k, struct cow_edit *e,
					  uint64_t word, uint32_t refs);
/*
 * Copies all to below host offset `below`, as far as there is room, and counts them there. before():
 * each time so many bytes are to be moved.
 */
COW_MUST_CHECK int cow_compact_packed_move(struct cow_compact_packed *k, struct cow_edit *e,
					   uint64_t below, int (*before)(void *ctx, uint64_t bytes),
					   void *ctx);
/*
 * A new one, of data[bytes], that so many paths will lead to: behind the one before it. *word: of its
 * entries; 0: there is no room. cow_compact_packed_end(): all are written.
 */
COW_MUST_CHECK int cow_compact_packed_put(struct cow_compact_packed *k, struct cow_edit *e,
					  const uint8_t *data, uint32_t bytes, uint32_t refs,
					  uint64_t *word);
COW_MUST_CHECK int cow_compact_packed_end(struct cow_compact_packed *k, struct cow_edit *e);
/* The word as it will be; the same: it stays. */
uint64_t cow_compact_packed_word(const struct cow_compact_packed *k, uint64_t word,
				 uint32_t cluster_bits);
void cow_compact_packed_free(struct cow_compact_packed *k);

#endif
