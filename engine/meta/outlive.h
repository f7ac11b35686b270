/* SPDX-License-Identifier: MIT */
/*
 * An image's metadata in memory that outlives its process (base/shared.h): who comes after a process
 * that died finds there what was changed and not written yet, and writes it (replay.h).
 *
 * No record is made of anything: the caches and tables themselves lie there, with what says what of
 * them is dirty. So they must be whole between any two instructions. What is dirty is said so
 * before it is changed, and no longer only when it is durable; an entry is changed by one store; and
 * the orders in which references and pointers change in memory are those in which a pass may write
 * them at any time.
 *
 * Nothing in it is a pointer to anybody but its own process.
 */
#ifndef COW_OUTLIVE_H
#define COW_OUTLIVE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/result.h"
#include "engine/base/shared.h"

/* What is stored before is stored first. Costs no instruction. */
static inline void cow_outlive_order(void)
{
	atomic_signal_fence(memory_order_seq_cst);
}

#define COW_OUTLIVE_MAGIC 0x65766c74756f7763ull
#define COW_OUTLIVE_VERSION 1u

/* A cache: its slots, shard after shard, and what they hold, in the same order. */
struct cow_outlive_cache {
	uint64_t slots_off, data_off; /* in the shared file */
	uint64_t nr_slots;
	uint32_t slice_bytes, slot_bytes;
};

/* A table. off and nr change while none of it is dirty. */
struct cow_outlive_table {
	uint64_t entries_off, state_off; /* in the shared file */
	uint64_t capacity;
	uint64_t off, nr; /* as in table.h */
};

/* A dirty bitmap that is kept up to date (bitmap/tracking.h). */
struct cow_outlive_bitmap {
	uint64_t words_off, bytes; /* in the shared file; in the format's order */
	uint64_t entry_off;	   /* in the directory */
	uint32_t flags, granularity_bits;
};

#define COW_OUTLIVE_MAX_BITMAPS 1024u

struct cow_outlive_head {
	atomic_uint_least64_t magic; /* last: the image is open */
	uint32_t version;
	atomic_bool leaks;  /* of a process before this one: to be given back */
	atomic_bool failed; /* the image is in doubt: nothing of it may be written */
	struct cow_outlive_table l1, reftable;
	struct cow_outlive_cache l2, refs;
	/* Of those that are marked as in use on disk; what is not marked so is right there. */
	atomic_uint nr_bitmaps;
	struct cow_outlive_bitmap bitmaps[COW_OUTLIVE_MAX_BITMAPS];
};

struct cow_outlive {
	struct cow_shared shared;
	struct cow_shared_part part;
	struct cow_outlive_head *head;
};

/* fd: a memfd of the caller's; what it held is gone. 0 or -errno. */
COW_MUST_CHECK int cow_outlive_begin(struct cow_outlive *o, int fd);
/* Somebody before has left leaks. */
void cow_outlive_note_leaks(struct cow_outlive *o);
/* The image is open, nothing is dirty: from here on it is to be replayed. */
void cow_outlive_complete(struct cow_outlive *o);
/* It was closed cleanly: there is nothing to replay. */
void cow_outlive_end(struct cow_outlive *o);
/* What lies there stays. Also of a zeroed one. */
void cow_outlive_fini(struct cow_outlive *o);

#endif
