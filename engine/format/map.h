/* SPDX-License-Identifier: MIT */
/*
 * Pure interpretation of L2 entries: a slice and a range give a run of entries of one kind. No I/O,
 * no state. Specification: "Cluster mapping"; rules: FORMAT.md section 2.
 */
#ifndef COW_MAP_H
#define COW_MAP_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/format/geometry.h"

enum cow_kind {
	COW_UNALLOCATED, /* the backing file's content, or zeros */
	COW_ZERO_PLAIN,	 /* zeros, no host cluster */
	COW_ZERO_ALLOC,	 /* zeros, a host cluster is kept for it */
	COW_NORMAL,
	COW_COMPRESSED,
	COW_BAD, /* breaks a rule: see cow_entry_fault() */
};

struct cow_entry {
	uint64_t raw;
	/* extended L2: low half allocated, high half reads as zeros, a bit per subcluster */
	uint64_t subs;
	enum cow_kind kind; /* of the subcluster that was asked for */
	bool copied;	    /* refcount is exactly 1: may be written in place */
	/* there is a host cluster (with an external data file its offset may be 0) */
	bool has_host;
	struct cow_hoff host;
};

/*
 * A run of guest bytes of one kind; NORMAL and ZERO_ALLOC: of one `copied`, consecutive on the
 * host. UNALLOCATED with extended L2: all with a host cluster or all without.
 */
struct cow_run {
	struct cow_entry first;
	uint64_t bytes;
};

/* An entry as it stands in a table. */
struct cow_l2_entry {
	uint64_t raw, subs;
};

struct cow_l2_entry cow_entry_get(const struct cow_geometry *g, const uint8_t *slice, uint32_t idx);
void cow_entry_set(const struct cow_geometry *g, uint8_t *slice, uint32_t idx,
		   struct cow_l2_entry entry);

/* sub: index of the subcluster; 0 without extended L2 entries. */
struct cow_entry cow_entry_decode(const struct cow_geometry *g, struct cow_l2_entry entry,
				  uint32_t sub);
/*
 * The run that starts at guest offset off, whose entry lies in slice: at most bytes long (>= 1),
 * never past the slice.
 */
struct cow_run cow_map_run(const struct cow_geometry *g, const uint8_t *slice, struct cow_goff off,
			   uint64_t bytes);
/* Which rule an entry breaks; NULL if none. */
const char *cow_entry_fault(const struct cow_geometry *g, struct cow_l2_entry entry);

/* What the entry of a compressed cluster says. */
struct cow_compressed {
	uint64_t off;	/* byte offset of the data in the host file */
	uint32_t bytes; /* upper bound of its length */
};
struct cow_compressed cow_compressed_decode(uint64_t entry, uint32_t cluster_bits);
uint64_t cow_compressed_encode(uint64_t off, uint32_t bytes, uint32_t cluster_bits);

#define COW_SUBS_ALLOCATED 0x00000000ffffffffull
#define COW_SUBS_ZERO 0xffffffff00000000ull

/* Bits of the subclusters that [off, off+bytes), within one cluster, touches: in the low half. */
uint64_t cow_entry_subs(const struct cow_geometry *g, uint64_t off, uint64_t bytes);

/* An entry for a cluster of our own with all of its bytes valid. */
static inline struct cow_l2_entry cow_entry_full(const struct cow_geometry *g, uint64_t host)
{
	return (struct cow_l2_entry){ .raw = host | QCOW2_COPIED,
				      .subs = g->extended_l2 ? COW_SUBS_ALLOCATED : 0 };
}

/* Does the kind read as zeros without looking at a backing file? */
static inline bool cow_kind_is_zero(enum cow_kind kind)
{
	return kind == COW_ZERO_PLAIN || kind == COW_ZERO_ALLOC;
}

/* In memory only, in an L1 entry whose table lies past the end of the file as it was opened. */
#define COW_L1_PAST_END (1ull << 56)

/* L1 entry: the L2 table's offset, 0 if there is none. NULL or the rule it breaks. */
const char *cow_map_l1_fault(const struct cow_geometry *g, uint64_t raw);

#endif
