/* SPDX-License-Identifier: MIT */
/*
 * Inflated clusters: the few that were read last, shared by all queues of a chain, and who is
 * inflating what just now, so that requests that meet at a cluster inflate it once.
 *
 * A cluster is named by its owner, the image, and its L2 entry. What an entry stands for stays the
 * same while a request that has read it runs. Space that was freed can be used again for an equal
 * entry: the writer of compressed clusters drops the name, then publishes the entry. Nobody can put
 * the old content back after that: every request that knew the old entry had ended before its space
 * was given out again.
 *
 * All memory is there from the start. A request inflates into a buffer of its queue's, which then
 * changes places with the slot's.
 */
#ifndef COW_INFLATED_H
#define COW_INFLATED_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/mutex.h"
#include "engine/core/limits.h"
#include "engine/loop/task.h"

#define COW_INFLATED_BYTES (2u << 20)
#define COW_INFLATED_MIN_SLOTS 4u

struct cow_inflated_slot {
	const void *owner; /* NULL: empty */
	uint64_t entry;
	uint64_t used; /* clock at the last use */
	unsigned pins;
	uint8_t *data;
};

/* What a request is inflating. The cache's lock, from a MINE to cow_inflated_done(). */
struct cow_inflating {
	const void *owner;
	uint64_t entry;
	bool stale; /* dropped meanwhile */
	struct cow_waitlist waiters;
	struct cow_inflating *next;
};

struct cow_inflated {
	/* constant */
	unsigned nr_slots;
	uint32_t cluster_bytes;

	struct cow_mutex_inflated lock;
	uint64_t clock COW_GUARDED_BY(inflated);
	uint64_t nr_inflated COW_GUARDED_BY(inflated); /* clusters, since the start */
	struct cow_inflating *running COW_GUARDED_BY(inflated);
	/* a pinned one's data are who pinned it's, too */
	struct cow_inflated_slot slots[COW_INFLATED_MAX_SLOTS] COW_GUARDED_BY(inflated);
};

enum cow_inflated_answer {
	COW_INFLATED_HIT,    /* *slot is pinned until cow_inflated_put() */
	COW_INFLATED_PARKED, /* somebody is inflating it: return COW_WAIT and ask again */
	COW_INFLATED_MINE,   /* inflate it and say cow_inflated_done(); others wait for that */
	COW_INFLATED_MISS,   /* mine is NULL and nobody is inflating it */
};

/* NULL: out of memory. cluster_bytes: the largest of the chain. */
struct cow_inflated *cow_inflated_new(uint32_t cluster_bytes, const struct cow_limits *limits);
/* Takes the memory of all slots now: else each is taken when it is first used. */
void cow_inflated_take(struct cow_inflated *cache);
void cow_inflated_free(struct cow_inflated *cache);

enum cow_inflated_answer cow_inflated_ask(struct cow_inflated *cache, const void *owner,
					  uint64_t entry, struct cow_inflating *mine,
					  struct cow_task *task, struct cow_inflated_slot **slot);
void cow_inflated_put(struct cow_inflated *cache, struct cow_inflated_slot *slot);

/*
 * The cluster is in *buf, of cow_pages_reserve(), which becomes another buffer of the same size. buf NULL: it could not be
 * inflated, and those who wait try it themselves.
 */
void cow_inflated_done(struct cow_inflated *cache, struct cow_inflating *mine, uint8_t **buf);

/* An equal entry is about to be published that stands for something else. */
void cow_inflated_drop(struct cow_inflated *cache, const void *owner, uint64_t entry);
void cow_inflated_drop_all(struct cow_inflated *cache);

#endif
