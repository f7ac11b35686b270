/* SPDX-License-Identifier: MIT */
/* See cache.h. In this order: set-up; memory; look-up; dirtying; rest; writeback. */
#include "engine/meta/cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/container.h"
#include "engine/base/math.h"
#include "engine/base/pages.h"
#include "engine/meta/outlive.h"

#define SHARDS_MAX 16
#define SLOTS_PER_SHARD_MIN 8

/* ---- set-up ---- */

static int shard_init(struct cow_cache *cache, struct cow_shard *shard, unsigned nr_slots,
		      enum cow_lock_rank rank)
{
	size_t first = (size_t)(shard - cache->shards) * nr_slots;
	cow_mutex_init(&shard->lock, rank);
	shard->cache = cache;
	shard->slots = (struct cow_slot *)cache->slots.memory + first;
	shard->data = (uint8_t *)cache->memory.memory + first * cache->slice_bytes;
	shard->nr_slots = nr_slots;
	shard->hand = 0;
	shard->nr_dirty = 0;
	cow_waitlist_init(&shard->starved);
	unsigned buckets = 16;
	while (buckets < nr_slots * 2)
		buckets *= 2;
	shard->hash_mask = buckets - 1;
	shard->hash = cow_pages_reserve(buckets * sizeof(*shard->hash));
	return shard->hash ? 0 : -ENOMEM;
}

static int take_memory(struct cow_cache *cache, const struct cow_cache_config *config)
{
	size_t slots = (size_t)cache->per_shard * cache->nr_shards;
	int ret = cow_shared_take(config->shared, slots * sizeof(struct cow_slot), &cache->slots);
	if (!ret)
		ret = cow_shared_take(config->shared, slots * cache->slice_bytes, &cache->memory);
	if (!ret && config->shared)
		*config->place = (struct cow_outlive_cache){
			.slots_off = cache->slots.off,
			.data_off = cache->memory.off,
			.nr_slots = slots,
			.slice_bytes = cache->slice_bytes,
			.slot_bytes = sizeof(struct cow_slot),
		};
	return ret;
}

int cow_cache_init(struct cow_cache *cache, const struct cow_cache_config *config)
{
	const struct cow_limits *limits = config->limits;
	const uint32_t slice_bytes = config->slice_bytes;
	uint64_t slots = limits->cache_slots ? limits->cache_slots : config->bytes / slice_bytes;
	if (slots < SLOTS_PER_SHARD_MIN)
		slots = SLOTS_PER_SHARD_MIN;
	unsigned shards = 1;
	while (shards < SHARDS_MAX && slots / (shards * 2) >= SLOTS_PER_SHARD_MIN * 2)
		shards *= 2;
	unsigned per_shard = (unsigned)(slots / shards);

	memset(cache, 0, sizeof(*cache));
	cache->file = config->file;
	cache->slice_bytes = slice_bytes;
	cache->nr_shards = shards;
	cache->per_shard = per_shard;
	cache->max_dirty = (unsigned)cow_min(per_shard * shards / 2, limits->dirty_slots);
	atomic_init(&cache->dirty_room, cache->max_dirty);
	cache->need_writeback = config->need_writeback;
	cache->ctx = config->ctx;
	cow_mutex_init(&cache->limit_lock, COW_RANK_CACHE_LIMIT);
	cow_waitlist_init(&cache->limited);
	cow_waitlist_init(&cache->warned);
	cache->shards = calloc(shards, sizeof(*cache->shards));
	int ret = cache->shards ? take_memory(cache, config) : -ENOMEM;
	for (unsigned i = 0; i < shards && !ret; i++)
		ret = shard_init(cache, &cache->shards[i], per_shard, config->rank);
	if (ret)
		cow_cache_fini(cache);
	return ret;
}

void cow_cache_fini(struct cow_cache *cache)
{
	for (unsigned i = 0; cache->shards && i < cache->nr_shards; i++) {
		struct cow_shard *shard = &cache->shards[i];
		cow_pages_free(shard->hash, (shard->hash_mask + 1ull) * sizeof(*shard->hash));
	}
	free(cache->shards);
	cow_shared_unmap(&cache->slots);
	cow_shared_unmap(&cache->memory);
	cache->shards = NULL;
}

/* ---- memory ---- */

static void want_more(struct cow_cache *cache)
{
	if (cache->want && !atomic_exchange(&cache->wanted, true))
		cache->want(cache->want_ctx);
}

/* What writeback copies must have its memory as well (life/image_memory.c). */
static unsigned dirty_room_of(const struct cow_cache *cache, unsigned per_shard)
{
	return (unsigned)cow_min(per_shard * cache->nr_shards / 2, cache->max_dirty);
}

/* Only the thread that grows changes them, all shards alike, and asks without their locks. */
COW_NO_ANALYSIS
static unsigned slots_now(const struct cow_cache *cache)
{
	return cache->shards[0].nr_slots;
}

static void take_slots(struct cow_shard *shard, unsigned from, unsigned to)
{
	uint32_t bytes = shard->cache->slice_bytes;
	cow_pages_take(shard->data + (size_t)from * bytes, (size_t)(to - from) * bytes);
	cow_pages_take(&shard->slots[from], (to - from) * sizeof(*shard->slots));
}

static void set_slots(struct cow_shard *shard, unsigned nr)
{
	cow_mutex_lock(&shard->lock);
	shard->nr_slots = nr;
	cow_mutex_unlock(&shard->lock);
}

void cow_cache_start_small(struct cow_cache *cache, uint64_t bytes, void (*want)(void *), void *ctx)
{
	uint64_t slots = bytes / cache->slice_bytes / cache->nr_shards;
	cache->least = (unsigned)cow_min(cow_max(slots, SLOTS_PER_SHARD_MIN), cache->per_shard);
	cache->want = want;
	cache->want_ctx = ctx;
	atomic_store(&cache->dirty_room, dirty_room_of(cache, cache->least));
	for (unsigned i = 0; i < cache->nr_shards; i++) {
		struct cow_shard *shard = &cache->shards[i];
		take_slots(shard, 0, cache->least);
		set_slots(shard, cache->least);
		cow_pages_take(shard->hash, (shard->hash_mask + 1ull) * sizeof(*shard->hash));
	}
}

unsigned cow_cache_next_slots(struct cow_cache *cache)
{
	if (!cache->least || !atomic_load(&cache->wanted))
		return 0;
	unsigned now = slots_now(cache);
	return (unsigned)cow_min(now * 2ull, cache->per_shard) * cache->nr_shards;
}

void cow_cache_grow(struct cow_cache *cache)
{
	unsigned from = slots_now(cache);
	unsigned to = (unsigned)cow_min(from * 2ull, cache->per_shard);
	for (unsigned i = 0; i < cache->nr_shards; i++) {
		take_slots(&cache->shards[i], from, to);
		set_slots(&cache->shards[i], to);
	}
	atomic_store(&cache->dirty_room, dirty_room_of(cache, to));
	atomic_store(&cache->wanted, false);
}

void cow_cache_keep(struct cow_cache *cache)
{
	if (!cache->least)
		return; /* all slots are in use */
	while (slots_now(cache) < cache->per_shard)
		cow_cache_grow(cache);
	cache->least = cache->per_shard;
}

static bool is_busy_locked(const struct cow_shard *shard, const struct cow_slot *slot)
	COW_REQUIRES(shard, shard->lock)
{
	return slot->state == COW_SLOT_LOADING || slot->dirty || slot->writing;
}

/* ---- look-up ---- */

static uint64_t hash_key(const struct cow_cache *cache, uint64_t key)
{
	return (key / cache->slice_bytes) * 0x9e3779b97f4a7c15ull;
}

static struct cow_shard *shard_of(struct cow_cache *cache, uint64_t key)
{
	return &cache->shards[(hash_key(cache, key) >> 56) & (cache->nr_shards - 1)];
}

static struct cow_slot **bucket_of(struct cow_shard *shard, uint64_t key)
{
	return &shard->hash[(hash_key(shard->cache, key) >> 32) & shard->hash_mask];
}

static struct cow_slot *find_locked(struct cow_shard *shard, uint64_t key)
	COW_REQUIRES(shard, shard->lock)
{
	struct cow_slot *slot = *bucket_of(shard, key);
	while (slot && slot->key != key)
		slot = slot->hash_next;
	return slot;
}

static void unhash_locked(struct cow_shard *shard, struct cow_slot *slot)
	COW_REQUIRES(shard, shard->lock)
{
	cow_assert(slot->state != COW_SLOT_EMPTY);
	cow_assert(!slot->dirty && !slot->writing); /* the file has what it holds */
	struct cow_slot **link = bucket_of(shard, slot->key);
	while (*link != slot)
		link = &(*link)->hash_next;
	*link = slot->hash_next;
	slot->state = COW_SLOT_EMPTY;
}

/* Clock: an empty slot, or a clean one not used since the hand last passed. */
static struct cow_slot *victim_locked(struct cow_shard *shard, bool *evicts)
	COW_REQUIRES(shard, shard->lock)
{
	*evicts = true;
	for (unsigned n = 0; n < 2 * shard->nr_slots; n++) {
		struct cow_slot *slot = &shard->slots[shard->hand];
		shard->hand = (shard->hand + 1) % shard->nr_slots;
		if (slot->state == COW_SLOT_EMPTY) {
			*evicts = false;
			return slot;
		}
		if (is_busy_locked(shard, slot))
			continue;
		if (slot->referenced) {
			slot->referenced = false;
			continue;
		}
		unhash_locked(shard, slot);
		return slot;
	}
	return NULL;
}

static void load_done(struct cow_io *io)
{
	struct cow_slot *slot = cow_container_of(io, struct cow_slot, io);
	struct cow_shard *shard = slot->shard;
	struct cow_waitlist wake, starved;
	int result = io->result; /* once unlocked, the slot may be loading something else */
	cow_waitlist_init(&wake);
	cow_waitlist_init(&starved);
	cow_mutex_lock(&shard->lock);
	cow_assert(slot->state == COW_SLOT_LOADING);
	if (result)
		unhash_locked(shard, slot);
	else
		slot->state = COW_SLOT_READY;
	cow_waitlist_take(&slot->waiters, &wake);
	cow_waitlist_take(&shard->starved, &starved);
	cow_mutex_unlock(&shard->lock);
	cow_waitlist_wake(&wake, result);
	cow_waitlist_wake(&starved, 0);
}

static void load_locked(struct cow_shard *shard, struct cow_slot *slot, uint64_t key,
			struct cow_task *task) COW_REQUIRES(shard, shard->lock)
{
	cow_assert(slot->state == COW_SLOT_EMPTY);
	/* Here, so that a slot takes no memory before its first use. */
	slot->shard = shard;
	slot->data = shard->data + (size_t)(slot - shard->slots) * shard->cache->slice_bytes;
	cow_waitlist_init(&slot->waiters);
	cow_assert(!slot->dirty && !slot->writing);
	slot->key = key;
	slot->state = COW_SLOT_LOADING;
	slot->referenced = true;
	struct cow_slot **bucket = bucket_of(shard, key);
	slot->hash_next = *bucket;
	*bucket = slot;
	cow_waitlist_park(&slot->waiters, task, "a slice of metadata");
}

/*
 * A slot goes out with its shard's lock held, and comes back by one of the put functions: the
 * analysis sees no lock in between.
 */
COW_NO_ANALYSIS
struct cow_slot *cow_cache_get(struct cow_cache *cache, uint64_t key, struct cow_task *task)
{
	struct cow_shard *shard = shard_of(cache, key);
	struct cow_loop *loop = task->loop;
	bool evicts;
	cow_assert(key % cache->slice_bytes == 0);
	cow_mutex_lock(&shard->lock);
	shard->touched = true;
	struct cow_slot *slot = find_locked(shard, key);
	if (slot && slot->state == COW_SLOT_READY) {
		slot->referenced = true;
		return slot;
	}
	if (slot) {
		cow_waitlist_park(&slot->waiters, task, "a slice of metadata");
		cow_mutex_unlock(&shard->lock);
		return NULL;
	}
	slot = victim_locked(shard, &evicts);
	bool more = evicts && shard->nr_slots < cache->per_shard;
	/*
	 * part of the shard is never dirty: some of it is loading, and the first load to end wakes
	 * us
	 */
	if (slot)
		load_locked(shard, slot, key, task);
	else
		cow_waitlist_park(&shard->starved, task, "room in a cache of metadata");
	cow_mutex_unlock(&shard->lock);
	if (more)
		want_more(cache);
	if (!slot)
		return NULL;
	cow_io_prep_rw(&slot->io, COW_IO_READ, cache->file, key, slot->data, cache->slice_bytes,
		       load_done);
	cow_loop_submit(loop, &slot->io);
	return NULL;
}

COW_NO_ANALYSIS
void cow_cache_put(struct cow_slot *slot)
{
	cow_mutex_unlock(&slot->shard->lock);
}

/* ---- dirtying ---- */

/* What is never dirty of a shard is there for who only reads. */
static unsigned most_dirty(unsigned nr_slots)
{
	return nr_slots - nr_slots / 4;
}

static bool has_room_locked(const struct cow_shard *shard) COW_REQUIRES(shard, shard->lock)
{
	return shard->nr_dirty < most_dirty(shard->nr_slots);
}

static bool reserve_dirty(struct cow_cache *cache)
{
	unsigned n = atomic_load(&cache->nr_dirty);
	while (n < atomic_load(&cache->dirty_room))
		if (atomic_compare_exchange_weak(&cache->nr_dirty, &n, n + 1))
			return true;
	return false;
}

bool cow_cache_may_dirty(struct cow_slot *slot, struct cow_task *task)
{
	struct cow_shard *shard = slot->shard;
	struct cow_cache *cache = shard->cache;
	struct cow_loop *loop = task->loop;
	cow_mutex_assert_held(&shard->lock);
	cow_assert(slot->state == COW_SLOT_READY);
	if (slot->dirty || slot->writing) {
		slot->dirty = true;
		cow_outlive_order();
		return true;
	}
	if (has_room_locked(shard) && reserve_dirty(cache)) {
		shard->nr_dirty++;
		slot->dirty = true;
		cow_outlive_order();
		return true;
	}
	/*
	 * Parking and the pass's completion meet under both locks: either we see room, or it sees
	 * us.
	 */
	cow_mutex_lock(&cache->limit_lock);
	bool room = has_room_locked(shard) &&
		    atomic_load(&cache->nr_dirty) < atomic_load(&cache->dirty_room);
	bool more = shard->nr_slots < cache->per_shard;
	if (!room)
		cow_waitlist_park(&cache->limited, task,
				  "a writeback pass: too many slices are dirty");
	cow_mutex_unlock(&cache->limit_lock);
	cow_cache_put(slot);
	if (more)
		want_more(cache);
	if (room)
		cow_task_yield(task);
	else
		cache->need_writeback(cache->ctx, loop);
	return false;
}

COW_NO_ANALYSIS
void cow_cache_put_dirty(struct cow_slot *slot)
{
	cow_assert(slot->dirty);
	cow_mutex_unlock(&slot->shard->lock);
}

bool cow_cache_drop(struct cow_cache *cache, uint64_t off, uint64_t bytes)
{
	bool ok = true;
	for (uint64_t key = off; key < off + bytes; key += cache->slice_bytes) {
		struct cow_shard *shard = shard_of(cache, key);
		cow_mutex_lock(&shard->lock);
		struct cow_slot *slot = find_locked(shard, key);
		if (slot && is_busy_locked(shard, slot))
			ok = false;
		else if (slot)
			unhash_locked(shard, slot);
		cow_mutex_unlock(&shard->lock);
	}
	return ok;
}

void cow_cache_drop_all(struct cow_cache *cache)
{
	for (unsigned i = 0; i < cache->nr_shards; i++) {
		struct cow_shard *shard = &cache->shards[i];
		cow_mutex_lock(&shard->lock);
		for (unsigned j = 0; j < shard->nr_slots; j++) {
			struct cow_slot *slot = &shard->slots[j];
			cow_assert(!is_busy_locked(shard, slot));
			if (slot->state == COW_SLOT_READY)
				unhash_locked(shard, slot);
		}
		cow_mutex_unlock(&shard->lock);
	}
}

/* ---- rest ---- */

static bool was_touched(struct cow_cache *cache)
{
	bool touched = false;
	for (unsigned i = 0; i < cache->nr_shards; i++) {
		struct cow_shard *shard = &cache->shards[i];
		cow_mutex_lock(&shard->lock);
		touched |= shard->touched;
		shard->touched = false;
		cow_mutex_unlock(&shard->lock);
	}
	return touched;
}

/* False: somebody has begun to use them again, or too much of the others is dirty. */
static bool shrink_locked(struct cow_shard *shard, unsigned least) COW_REQUIRES(shard, shard->lock)
{
	if (shard->nr_dirty > most_dirty(least))
		return false;
	for (unsigned i = least; i < shard->nr_slots; i++)
		if (is_busy_locked(shard, &shard->slots[i]))
			return false;
	for (unsigned i = least; i < shard->nr_slots; i++)
		if (shard->slots[i].state == COW_SLOT_READY)
			unhash_locked(shard, &shard->slots[i]);
	shard->nr_slots = least;
	shard->hand = 0;
	return true;
}

/* All shards have as many slots: those that were shrunk before one could not be take them again. */
static void shrink(struct cow_cache *cache)
{
	unsigned from = slots_now(cache), least = cache->least, done = 0;
	bool ok = true;
	for (; done < cache->nr_shards && ok; done++) {
		struct cow_shard *shard = &cache->shards[done];
		cow_mutex_lock(&shard->lock);
		ok = shrink_locked(shard, least);
		cow_mutex_unlock(&shard->lock);
	}
	for (unsigned i = 0; i < done - !ok; i++) {
		if (!ok)
			set_slots(&cache->shards[i], from);
		else
			cow_shared_give_back(&cache->memory,
					     ((size_t)i * cache->per_shard + least) *
						     cache->slice_bytes,
					     (size_t)(from - least) * cache->slice_bytes);
	}
	if (ok)
		atomic_store(&cache->dirty_room, dirty_room_of(cache, least));
}

bool cow_cache_rest(struct cow_cache *cache)
{
	if (!cache->least)
		return true;
	if (!was_touched(cache) && slots_now(cache) > cache->least)
		shrink(cache);
	return slots_now(cache) == cache->least;
}

/* ---- writeback ---- */

static int captured_cmp(const void *a, const void *b)
{
	uint64_t x = ((const struct cow_captured *)a)->off,
		 y = ((const struct cow_captured *)b)->off;
	return x < y ? -1 : x > y;
}

/* List the shard's dirty slots; they stay dirty until they are copied. */
static unsigned list_shard(struct cow_cache *cache, struct cow_shard *shard,
			   struct cow_captured *out, unsigned nr)
{
	cow_mutex_lock(&shard->lock);
	for (unsigned i = 0; i < shard->nr_slots; i++) {
		struct cow_slot *slot = &shard->slots[i];
		if (!slot->dirty)
			continue;
		cow_assert(!slot->writing && nr < cache->max_dirty);
		slot->writing = true;
		out[nr].off = slot->key;
		out[nr].slot = slot;
		nr++;
	}
	cow_mutex_unlock(&shard->lock);
	return nr;
}

static void copy_slot(struct cow_cache *cache, struct cow_captured *c, uint8_t *copy)
{
	cow_mutex_lock(&c->slot->shard->lock);
	cow_assert(c->slot->writing && c->slot->dirty && c->slot->key == c->off);
	c->copy = copy;
	memcpy(copy, c->slot->data, cache->slice_bytes);
	c->slot->dirty = false;
	cow_mutex_unlock(&c->slot->shard->lock);
}

static void wake_limited(struct cow_cache *cache, int error)
{
	struct cow_waitlist wake;
	cow_waitlist_init(&wake);
	cow_mutex_lock(&cache->limit_lock);
	cow_waitlist_take(&cache->warned, &wake);
	cow_waitlist_take(&cache->limited, error == -ENOSPC ? &cache->warned : &wake);
	struct cow_loop *loop = cache->warned.head ? cache->warned.head->loop : NULL;
	cow_mutex_unlock(&cache->limit_lock);
	if (loop)
		cache->need_writeback(cache->ctx, loop);
	cow_waitlist_wake(&wake, error);
}

unsigned cow_cache_capture(struct cow_cache *cache, uint8_t *buf, struct cow_captured *out)
{
	unsigned nr = 0;
	if (!cow_cache_is_dirty(cache))
		return 0;
	for (unsigned i = 0; i < cache->nr_shards; i++)
		nr = list_shard(cache, &cache->shards[i], out, nr);
	qsort(out, nr, sizeof(*out), captured_cmp);
	for (unsigned i = 0; i < nr; i++)
		copy_slot(cache, &out[i], buf + (size_t)i * cache->slice_bytes);
	return nr;
}

static void complete_slot(struct cow_cache *cache, struct cow_slot *slot, bool ok)
{
	cow_mutex_lock(&slot->shard->lock);
	cow_assert(slot->writing && slot->shard->nr_dirty);
	if (!ok)
		slot->dirty = true;
	cow_outlive_order();
	slot->writing = false;
	if (!slot->dirty) {
		slot->shard->nr_dirty--;
		atomic_fetch_sub(&cache->nr_dirty, 1);
	}
	cow_mutex_unlock(&slot->shard->lock);
}

void cow_cache_complete(struct cow_cache *cache, struct cow_captured *captured, unsigned nr,
			int error)
{
	for (unsigned i = 0; i < nr; i++)
		complete_slot(cache, captured[i].slot, !error);
	for (unsigned i = 0; i < cache->nr_shards; i++) {
		struct cow_shard *shard = &cache->shards[i];
		struct cow_waitlist wake;
		cow_waitlist_init(&wake);
		cow_mutex_lock(&shard->lock);
		cow_waitlist_take(&shard->starved, &wake);
		cow_mutex_unlock(&shard->lock);
		/* who waits for a slot need not be told of the pass's error */
		cow_waitlist_wake(&wake, 0);
	}
	wake_limited(cache, error);
}
