/* SPDX-License-Identifier: MIT */
/* See inflated.h. In this order: under the lock; requests; what is known no more. */
#include "engine/compress/inflated.h"

#include <stdlib.h>

#include "engine/base/pages.h"
#include "engine/loop/loop.h"

static unsigned slots_for(uint32_t cluster_bytes, const struct cow_limits *limits)
{
	unsigned nr = COW_INFLATED_BYTES / cluster_bytes, max = limits->inflated;
	nr = nr < COW_INFLATED_MIN_SLOTS ? COW_INFLATED_MIN_SLOTS : nr;
	return nr > max ? max : nr;
}

struct cow_inflated *cow_inflated_new(uint32_t cluster_bytes, const struct cow_limits *limits)
{
	struct cow_inflated *cache = calloc(1, sizeof(*cache));
	if (!cache)
		return NULL;
	cow_mutex_init(&cache->lock, COW_RANK_INFLATED);
	cache->cluster_bytes = cluster_bytes;
	cache->nr_slots = slots_for(cluster_bytes, limits);
	for (unsigned i = 0; i < cache->nr_slots; i++) {
		cache->slots[i].data = cow_pages_reserve(cluster_bytes);
		if (!cache->slots[i].data) {
			cow_inflated_free(cache);
			return NULL;
		}
	}
	return cache;
}

void cow_inflated_take(struct cow_inflated *cache)
{
	cow_mutex_alone(&cache->lock);
	for (unsigned i = 0; i < cache->nr_slots; i++)
		cow_pages_take(cache->slots[i].data, cache->cluster_bytes);
}

void cow_inflated_free(struct cow_inflated *cache)
{
	if (!cache)
		return;
	cow_mutex_alone(&cache->lock);
	for (unsigned i = 0; i < cache->nr_slots; i++)
		cow_pages_free(cache->slots[i].data, cache->cluster_bytes);
	cow_mutex_fini(&cache->lock);
	free(cache);
}

/* ---- under the lock ---- */

static struct cow_inflated_slot *find_locked(struct cow_inflated *cache, const void *owner,
					     uint64_t entry) COW_REQUIRES(inflated, cache->lock);
static struct cow_inflated_slot *find_locked(struct cow_inflated *cache, const void *owner,
					     uint64_t entry)
{
	for (unsigned i = 0; i < cache->nr_slots; i++)
		if (cache->slots[i].entry == entry && cache->slots[i].owner == owner)
			return &cache->slots[i];
	return NULL;
}

static struct cow_inflating *find_running_locked(struct cow_inflated *cache, const void *owner,
						 uint64_t entry)
	COW_REQUIRES(inflated, cache->lock);
static struct cow_inflating *find_running_locked(struct cow_inflated *cache, const void *owner,
						 uint64_t entry)
{
	struct cow_inflating *i = cache->running;
	while (i && (i->entry != entry || i->owner != owner || i->stale))
		i = i->next;
	return i;
}

static void start_locked(struct cow_inflated *cache, struct cow_inflating *mine, const void *owner,
			 uint64_t entry) COW_REQUIRES(inflated, cache->lock);
static void start_locked(struct cow_inflated *cache, struct cow_inflating *mine, const void *owner,
			 uint64_t entry)
{
	*mine = (struct cow_inflating){ .owner = owner, .entry = entry, .next = cache->running };
	cow_waitlist_init(&mine->waiters);
	cache->running = mine;
}

static void end_locked(struct cow_inflated *cache, const struct cow_inflating *mine)
	COW_REQUIRES(inflated, cache->lock);
static void end_locked(struct cow_inflated *cache, const struct cow_inflating *mine)
{
	struct cow_inflating **link = &cache->running;
	while (*link != mine) {
		cow_assert(*link);
		link = &(*link)->next;
	}
	*link = mine->next;
}

/* The one unused for longest; NULL: all are being copied from. */
static struct cow_inflated_slot *victim_locked(struct cow_inflated *cache)
	COW_REQUIRES(inflated, cache->lock);
static struct cow_inflated_slot *victim_locked(struct cow_inflated *cache)
{
	struct cow_inflated_slot *oldest = NULL;
	for (unsigned i = 0; i < cache->nr_slots; i++) {
		struct cow_inflated_slot *s = &cache->slots[i];
		if (!s->pins && (!oldest || s->used < oldest->used))
			oldest = s;
	}
	return oldest;
}

static void keep_locked(struct cow_inflated *cache, const struct cow_inflating *mine, uint8_t **buf)
	COW_REQUIRES(inflated, cache->lock);
static void keep_locked(struct cow_inflated *cache, const struct cow_inflating *mine, uint8_t **buf)
{
	struct cow_inflated_slot *s = victim_locked(cache);
	if (!s)
		return;
	cow_assert(!s->pins && *buf);
	uint8_t *old = s->data;
	*s = (struct cow_inflated_slot){
		.owner = mine->owner, .entry = mine->entry, .used = ++cache->clock, .data = *buf
	};
	*buf = old;
}

/* ---- requests ---- */

static enum cow_inflated_answer ask_locked(struct cow_inflated *cache, const void *owner,
					   uint64_t entry, struct cow_inflating *mine,
					   struct cow_task *task, struct cow_inflated_slot **slot)
	COW_REQUIRES(inflated, cache->lock);
static enum cow_inflated_answer ask_locked(struct cow_inflated *cache, const void *owner,
					   uint64_t entry, struct cow_inflating *mine,
					   struct cow_task *task, struct cow_inflated_slot **slot)
{
	*slot = find_locked(cache, owner, entry);
	if (*slot) {
		(*slot)->pins++;
		(*slot)->used = ++cache->clock;
		return COW_INFLATED_HIT;
	}
	struct cow_inflating *other = find_running_locked(cache, owner, entry);
	if (other) {
		cow_waitlist_park(&other->waiters, task, "a cluster that another request inflates");
		return COW_INFLATED_PARKED;
	}
	if (!mine)
		return COW_INFLATED_MISS;
	start_locked(cache, mine, owner, entry);
	return COW_INFLATED_MINE;
}

enum cow_inflated_answer cow_inflated_ask(struct cow_inflated *cache, const void *owner,
					  uint64_t entry, struct cow_inflating *mine,
					  struct cow_task *task, struct cow_inflated_slot **slot)
{
	cow_mutex_lock(&cache->lock);
	enum cow_inflated_answer answer = ask_locked(cache, owner, entry, mine, task, slot);
	cow_mutex_unlock(&cache->lock);
	return answer;
}

void cow_inflated_put(struct cow_inflated *cache, struct cow_inflated_slot *slot)
{
	cow_mutex_lock(&cache->lock);
	cow_assert(slot->pins);
	slot->pins--;
	cow_mutex_unlock(&cache->lock);
}

void cow_inflated_done(struct cow_inflated *cache, struct cow_inflating *mine, uint8_t **buf)
{
	struct cow_waitlist wake;
	cow_waitlist_init(&wake);
	cow_mutex_lock(&cache->lock);
	end_locked(cache, mine);
	if (buf)
		cache->nr_inflated++;
	if (buf && !mine->stale)
		keep_locked(cache, mine, buf);
	cow_waitlist_take(&mine->waiters, &wake);
	cow_mutex_unlock(&cache->lock);
	cow_waitlist_wake(&wake, 0);
}

/* ---- what is known no more ---- */

/* A slot that is being copied from keeps its buffer until the pin is gone. */
static void forget_locked(struct cow_inflated *cache, struct cow_inflated_slot *slot)
	COW_REQUIRES(inflated, cache->lock);
static void forget_locked(struct cow_inflated *cache, struct cow_inflated_slot *slot)
{
	slot->owner = NULL;
	slot->used = 0;
}

void cow_inflated_drop(struct cow_inflated *cache, const void *owner, uint64_t entry)
{
	cow_mutex_lock(&cache->lock);
	struct cow_inflated_slot *slot = find_locked(cache, owner, entry);
	struct cow_inflating *running = find_running_locked(cache, owner, entry);
	if (slot)
		forget_locked(cache, slot);
	if (running)
		running->stale = true;
	cow_mutex_unlock(&cache->lock);
}

void cow_inflated_drop_all(struct cow_inflated *cache)
{
	cow_mutex_lock(&cache->lock);
	for (unsigned i = 0; i < cache->nr_slots; i++)
		forget_locked(cache, &cache->slots[i]);
	for (struct cow_inflating *i = cache->running; i; i = i->next)
		i->stale = true;
	cow_mutex_unlock(&cache->lock);
}
