/* SPDX-License-Identifier: MIT */
/*
 * Writing compressed clusters. Each queue packs them one behind the other, at sector boundaries,
 * into a run of host clusters taken from its reservation: the tail. They cross host clusters.
 *
 * The reservation's reference on a cluster of the tail is kept while the tail is open, so that the
 * cluster lives even when all that was packed into it is overwritten meanwhile; it is dropped
 * (through the quarantine) when the tail has passed the cluster. Every compressed cluster adds a
 * reference of its own on each host cluster that it touches: before its data is written, so that an
 * error leaves a leak at most.
 */
#ifndef COW_PACK_H
#define COW_PACK_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/result.h"

struct cow_deflate;
struct cow_op;
struct cow_queue;
struct cow_step;

/* A queue's. Owner thread only. */
struct cow_packer {
	struct cow_deflate *deflate;
	uint8_t *buf;	      /* one cluster */
	struct cow_op *owner; /* buf and tail are in its use */
	/* host bytes: clusters from start on are referenced by the tail; free from pos on */
	uint64_t start, pos, end;
};

/* What is the op about to pack. */
struct cow_packing {
	uint64_t host;	      /* bytes */
	uint32_t bytes;	      /* multiple of 512 */
	uint64_t referenced;  /* host clusters, from host's on, that have our reference */
	uint64_t plain_until; /* guest offset: up to here compression did not pay */
};

COW_MUST_CHECK int cow_packer_init(struct cow_queue *queue);
void cow_packer_fini(struct cow_queue *queue);
/* The queue ends: what the tail still holds goes back with the reservation. */
void cow_packer_close(struct cow_queue *queue);
/* At the op's end, in case it still owns the packer. */
void cow_packer_put(struct cow_op *op);

/*
 * Is the cluster at op->cursor to be written compressed? Asked when it is no cluster of ours that
 * could be written in place.
 */
bool cow_pack_wanted(const struct cow_op *op);
/* Then: the cluster at op->cursor; then op->map. */
extern const struct cow_step cow_pack_step;
/* References of a packing that failed. */
void cow_pack_give_back(struct cow_op *op);

#endif
