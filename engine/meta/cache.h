/* SPDX-License-Identifier: MIT */
/*
 * Sharded write-back cache of metadata slices (pieces of L2 tables or of refcount blocks), keyed by
 * host offset.
 *
 * cow_cache_get() returns a ready slot WITH ITS SHARD LOCKED, or parks the task and returns NULL.
 * The caller looks at or changes the slot's data and calls cow_cache_put(), all within one step.
 * There are no pins: nothing points into the cache across a wait.
 *
 * Life of a slot:
 *   empty -> loading (its read is in flight, tasks park on it) -> ready
 *   ready + dirty    changed since it was captured; counted against max_dirty; never evicted
 *   ready + writing  captured by the running writeback pass (engine/meta/writeback.h); may be changed and become dirty again; never
 *                    evicted, since what the file holds is older
 * Only the one running writeback pass captures and completes.
 *
 * The number of slots that are dirty or being written is bounded by max_dirty, which is also the
 * size of the writeback's copy buffer: a pass always captures everything. Who wants to dirty one
 * slot too many parks until a pass is through. A quarter of each shard is never dirty, so that who
 * only reads gets on even while nothing can be written.
 *
 * Memory: all slots may be used at once, and take memory when they are. Or, after
 * cow_cache_start_small(), a few of them, whose memory is taken then, and `want` is called when more
 * would be of use: some thread that may wait for memory calls cow_cache_grow(). Until it is there
 * the cache does with what it has, so no request ever waits for memory here.
 *
 * With memory that outlives the process (outlive.h) a slot's key, state, dirty and writing tell at
 * every instant what is not durable yet: a slot is dirty before it is changed, writing before it is
 * no longer dirty, and neither only when it is durable.
 *
 * Locks: shard->lock guards its slots. Load I/O is submitted after it is dropped.
 */
#ifndef COW_CACHE_H
#define COW_CACHE_H

#include <stdatomic.h>

#include "engine/base/mutex.h"
#include "engine/base/result.h"
#include "engine/base/shared.h"
#include "engine/core/limits.h"
#include "engine/loop/loop.h"
#include "engine/loop/task.h"

struct cow_cache;
struct cow_outlive_cache;
struct cow_shard;

enum cow_slot_state { COW_SLOT_EMPTY, COW_SLOT_LOADING, COW_SLOT_READY };

struct cow_slot {
	/* constant once it is used */
	struct cow_shard *shard;
	uint8_t *data;
	uint64_t key COW_GUARDED_BY(shard);
	enum cow_slot_state state COW_GUARDED_BY(shard);
	bool dirty COW_GUARDED_BY(shard);
	bool writing COW_GUARDED_BY(shard);
	bool referenced COW_GUARDED_BY(shard);
	struct cow_slot *hash_next COW_GUARDED_BY(shard);
	struct cow_waitlist waiters COW_GUARDED_BY(shard); /* while loading */
	/* the load in flight */
	struct cow_io io;
};

struct cow_shard {
	/* constant */
	struct cow_cache *cache;
	struct cow_slot *slots;
	uint8_t *data; /* of all its slots */
	unsigned hash_mask;

	struct cow_mutex_shard lock;
	unsigned nr_slots COW_GUARDED_BY(shard); /* in use; grows and shrinks */
	unsigned hand COW_GUARDED_BY(shard);
	unsigned nr_dirty COW_GUARDED_BY(shard); /* of the cache's nr_dirty */
	bool touched COW_GUARDED_BY(shard);	 /* since cow_cache_rest() looked */
	struct cow_slot **hash COW_PT_GUARDED_BY(shard);
	/* every slot is loading, dirty or being written */
	struct cow_waitlist starved COW_GUARDED_BY(shard);
};

struct cow_cache {
	/* constant */
	struct cow_file *file;
	uint32_t slice_bytes;
	unsigned nr_shards;
	unsigned per_shard, least; /* slots of a shard: at most; while small (0: always all) */
	unsigned max_dirty;
	struct cow_shard *shards;
	struct cow_shared_part slots, memory; /* of all shards, one after the other */
	/* called without locks, once for each cow_cache_grow(); NULL: all slots are in use */
	void (*want)(void *ctx);
	void *want_ctx;
	/* called without locks to have dirty slots written soon */
	void (*need_writeback)(void *ctx, struct cow_loop *loop);
	void *ctx;
	/* any thread */
	atomic_uint nr_dirty;	/* slots dirty or writing */
	atomic_uint dirty_room; /* the most of them now: max_dirty, or less while small */
	atomic_bool wanted;
	struct cow_mutex_cache_limit limit_lock;
	/*
	 * Waiting for nr_dirty to fall; `warned` since a pass met a full host. A full host fails the
	 * request that a pass was begun for, and no other one.
	 */
	struct cow_waitlist limited COW_GUARDED_BY(cache_limit);
	struct cow_waitlist warned COW_GUARDED_BY(cache_limit);
};

struct cow_cache_config {
	struct cow_file *file;
	uint32_t slice_bytes;
	uint64_t
		bytes; /* rounded to at least a handful of slots; limits->cache_slots goes before it */
	const struct cow_limits *limits;
	struct cow_shared *shared; /* where slots and slices lie; NULL: nobody else sees them */
	struct cow_outlive_cache *place; /* told where, with shared */
	enum cow_lock_rank rank;	 /* COW_RANK_L2_SHARD or COW_RANK_REF_SHARD */
	void (*need_writeback)(void *ctx, struct cow_loop *loop);
	void *ctx;
};

COW_MUST_CHECK int cow_cache_init(struct cow_cache *cache, const struct cow_cache_config *config);
void cow_cache_fini(struct cow_cache *cache);

/*
 * Before the cache is used: with so few bytes, all taken. want(ctx) may be called by any thread,
 * without locks.
 */
void cow_cache_start_small(struct cow_cache *cache, uint64_t bytes, void (*want)(void *),
			   void *ctx);
/* For the one thread that grows: slots as after the next cow_cache_grow(); 0: nobody wants more. */
unsigned cow_cache_next_slots(struct cow_cache *cache);
/* Takes memory for twice the slots. May sleep for memory. */
void cow_cache_grow(struct cow_cache *cache);
/* The same thread: takes it for all slots, and keeps it from now on. */
void cow_cache_keep(struct cow_cache *cache);
/*
 * The same thread, now and then: gives back what was grown if nobody has asked for a slice since the
 * last call. True: it is small.
 */
bool cow_cache_rest(struct cow_cache *cache);

/*
 * key: host offset, multiple of slice_bytes. NULL: the task is parked, or failed at once
 * (task->error).
 */
struct cow_slot *cow_cache_get(struct cow_cache *cache, uint64_t key, struct cow_task *task);

/*
 * To be asked, with the slot held, before changing it. False: the slot was put, the task is parked
 * until there is room for one more dirty slot. True: change it and call cow_cache_put_dirty().
 */
bool cow_cache_may_dirty(struct cow_slot *slot, struct cow_task *task);

void cow_cache_put(struct cow_slot *slot);
void cow_cache_put_dirty(struct cow_slot *slot);

/*
 * Forget the slices of [off, off+bytes): the host range gets a new meaning. False if one of them is
 * in use, which a sound image cannot bring about.
 */
bool cow_cache_drop(struct cow_cache *cache, uint64_t off, uint64_t bytes);

/* Forget everything. Nothing is dirty, nobody uses the cache. */
void cow_cache_drop_all(struct cow_cache *cache);

/* ---- for writeback, one pass at a time ---- */

struct cow_captured {
	uint64_t off;
	struct cow_slot *slot;
	uint8_t *copy;
};

/*
 * Copies every dirty slot into buf (max_dirty * slice_bytes) and lists them, sorted by offset,
 * copies in that order, in out
 * (max_dirty entries). Returns their number. The slots are clean and `writing` from then on.
 */
unsigned cow_cache_capture(struct cow_cache *cache, uint8_t *buf, struct cow_captured *out);
/*
 * The pass is over: written, or (error) to be dirty again. Wakes who waited for room, with the
 * error; -ENOSPC only who has waited through such a pass already: the others get another pass.
 */
void cow_cache_complete(struct cow_cache *cache, struct cow_captured *captured, unsigned nr,
			int error);

static inline bool cow_cache_is_dirty(struct cow_cache *cache)
{
	return atomic_load(&cache->nr_dirty) != 0;
}

#endif
