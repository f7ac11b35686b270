/* SPDX-License-Identifier: MIT */
/*
 * A table of 64-bit entries held whole in memory, written back in 512-byte blocks: the active L1
 * table and the refcount table.
 *
 * Entries are read by any thread without a lock. They are set under `lock`, which also guards which
 * blocks are dirty. As in the cache, at most max_dirty blocks are dirty or being written, so that a
 * writeback pass always captures everything.
 */
#ifndef COW_TABLE_H
#define COW_TABLE_H

#include <stdatomic.h>

#include "engine/base/mutex.h"
#include "engine/base/result.h"
#include "engine/base/shared.h"
#include "engine/loop/task.h"

#define COW_TABLE_BLOCK_BYTES 512u
#define COW_TABLE_BLOCK_ENTRIES (COW_TABLE_BLOCK_BYTES / 8)
#define COW_TABLE_SLACK 128u /* may_set and set are not one: as many threads may come in between */

enum { COW_TABLE_DIRTY = 1, COW_TABLE_WRITING = 2 };

struct cow_outlive_table;

struct cow_table {
	_Atomic uint64_t *entries; /* host byte order */
	uint64_t capacity;	   /* entries there is memory for; constant */
	atomic_uint_least64_t nr;  /* entries in use; grows only, under lock */
	atomic_uint_least64_t off; /* place in the host file, bytes; moves under lock */
	struct cow_mutex_table lock;
	uint8_t *state COW_PT_GUARDED_BY(table); /* per block: COW_TABLE_DIRTY, COW_TABLE_WRITING */
	unsigned nr_dirty COW_GUARDED_BY(table); /* blocks dirty or writing */
	struct cow_waitlist limited COW_GUARDED_BY(table); /* as in cache.h */
	struct cow_waitlist warned COW_GUARDED_BY(table);

	/* constant */
	unsigned max_dirty;
	void (*need_writeback)(void *ctx, struct cow_loop *loop);
	void *ctx;
	struct cow_shared_part entries_part, state_part;
	struct cow_outlive_table *place; /* told of off and nr; may be NULL */
};

struct cow_table_block {
	uint64_t off; /* host file, bytes */
	uint64_t idx;
};

struct cow_table_config {
	uint64_t off; /* host file, bytes */
	uint64_t nr, capacity;
	unsigned max_dirty;	   /* blocks */
	struct cow_shared *shared; /* where the table lies; NULL: nobody else sees it */
	struct cow_outlive_table *place;
	void (*need_writeback)(void *ctx, struct cow_loop *loop);
	void *ctx;
};

COW_MUST_CHECK int cow_table_init(struct cow_table *table, const struct cow_table_config *config);
void cow_table_fini(struct cow_table *table);
/* Take nr big-endian entries as read from the file. */
void cow_table_load(struct cow_table *table, const uint8_t *be, uint64_t nr);

static inline uint64_t cow_table_get(const struct cow_table *table, uint64_t idx)
{
	return atomic_load_explicit(&table->entries[idx], memory_order_acquire);
}

/*
 * Room to dirty idx's block? False: the task is parked. True holds until the caller's step ends
 * only if it sets at once.
 */
bool cow_table_may_set(struct cow_table *table, uint64_t idx, struct cow_task *task);
void cow_table_set(struct cow_table *table, uint64_t idx, uint64_t value);
/*
 * All entries now live at off, and the table has nr of them (header already switched; nothing is
 * dirty).
 */
void cow_table_move(struct cow_table *table, uint64_t off, uint64_t nr);
/* Encode nr entries from idx on. */
void cow_table_encode(const struct cow_table *table, uint64_t idx, uint64_t nr, uint8_t *be);

/*
 * For writeback: dirty blocks' images to buf ((max_dirty + slack) * 512), in offset order; returns their
 * number.
 */
unsigned cow_table_capture(struct cow_table *table, uint8_t *buf, struct cow_table_block *out);
void cow_table_complete(struct cow_table *table, const struct cow_table_block *blocks, unsigned nr,
			int error);

#endif
