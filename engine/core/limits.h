/* SPDX-License-Identifier: MIT */
/*
 * Every internal limit of an open image, in one place. When one of them is reached, a request
 * waits for what it holds back; it is never the host's error (-ENOSPC) and never a failure.
 *
 * The defaults are meant for everybody. Other values are for tests and the simulator, which make
 * them tiny so that the waiting happens: see struct cow_open_options.
 */
#ifndef COW_LIMITS_H
#define COW_LIMITS_H

#include <stdint.h>

/* What anybody may ask for. */
#define COW_MAX_BACKING_DEPTH 32 /* images in a chain, the top one included */
#define COW_MAX_QUEUES 64
#define COW_MAX_QUEUE_DEPTH 1024
#define COW_MAX_OP_BYTES (1u << 20) /* READ and WRITE; DISCARD and WRITE_ZEROES may be longer */

/* Sizes of arrays; the limits below cannot be larger. */
#define COW_RESERVE_EXTENTS 64u
#define COW_RELEASE_PUNCHES 16u
#define COW_WRITEBACK_IOS 16u
#define COW_OP_PIECES 8u
#define COW_QUEUE_BOUNCES 16u
#define COW_QUEUE_PACKED 4u
#define COW_INFLATED_MAX_SLOTS 64u

/* 0 means the default. Each is brought into its range by cow_limits_init(). */
struct cow_limits {
	/* freed clusters on their way back (space/quarantine.h) */
	uint32_t ring;		  /* extents */
	uint32_t ring_own;	  /* of them, kept for what the engine itself frees */
	uint32_t release_batch;	  /* extents released at once */
	uint32_t release_punches; /* in flight */
	/* metadata (meta/) */
	uint32_t cache_slots; /* slots of each cache; default: as cache_bytes says */
	uint32_t
		cache_least; /* of each, kept when memory is given back; default: life/image_memory.c */
	uint32_t dirty_slots;  /* of a cache, dirty or being written */
	uint32_t dirty_blocks; /* of the L1 table, of the refcount table */
	uint32_t pass_writes;  /* of a writeback pass, in flight */
	uint32_t live_few;     /* slices that a live change leaves to its freeze */
	uint32_t live_brake;   /* how hard it begins to brake requests, 0 to 3; default: 0 */
	/* a queue's reservation (space/alloc.h) */
	uint32_t extents;
	/* a request (request/op.h) */
	uint32_t pieces; /* host I/Os in flight */
	/* a queue (request/op.h) */
	uint32_t bounces;	/* bounce buffers */
	uint32_t packed;	/* compressed clusters on their way from the host */
	uint32_t pack_clusters; /* host clusters that compressed ones are packed into */
	/* a chain */
	uint32_t inflated; /* inflated clusters that are kept */
};

static inline uint32_t cow_limit(uint32_t wanted, uint32_t standard, uint32_t min, uint32_t max)
{
	if (!wanted)
		return standard;
	return wanted < min ? min : wanted > max ? max : wanted;
}

/* wanted may be NULL. */
static inline void cow_limits_init(struct cow_limits *l, const struct cow_limits *wanted)
{
	static const struct cow_limits none;
	const struct cow_limits *w = wanted ? wanted : &none;
	l->ring_own = cow_limit(w->ring_own, 8192, 128, 8192);
	l->ring = cow_limit(w->ring, 65536, l->ring_own + 16, 1u << 20);
	l->release_batch = cow_limit(w->release_batch, 4096, 1, 65536);
	l->release_punches =
		cow_limit(w->release_punches, COW_RELEASE_PUNCHES, 1, COW_RELEASE_PUNCHES);
	l->cache_slots = cow_limit(w->cache_slots, 0, 8, 1u << 20);
	l->cache_least = cow_limit(w->cache_least, 0, 8, 1u << 20);
	l->dirty_slots = cow_limit(w->dirty_slots, 1024, 1, 65536);
	l->dirty_blocks = cow_limit(w->dirty_blocks, 512, 1, 16384);
	l->live_few = cow_limit(w->live_few, 64, 1, 65536);
	l->live_brake = cow_limit(w->live_brake, 0, 0, 3);
	l->pass_writes = cow_limit(w->pass_writes, COW_WRITEBACK_IOS, 1, COW_WRITEBACK_IOS);
	l->extents = cow_limit(w->extents, COW_RESERVE_EXTENTS, 2, COW_RESERVE_EXTENTS);
	l->pieces = cow_limit(w->pieces, COW_OP_PIECES, 1, COW_OP_PIECES);
	l->bounces = cow_limit(w->bounces, COW_QUEUE_BOUNCES, 1, COW_QUEUE_BOUNCES);
	l->packed = cow_limit(w->packed, COW_QUEUE_PACKED, 1, COW_QUEUE_PACKED);
	l->pack_clusters = cow_limit(w->pack_clusters, 16, 1, 256);
	l->inflated = cow_limit(w->inflated, COW_INFLATED_MAX_SLOTS, 1, COW_INFLATED_MAX_SLOTS);
}

#endif
