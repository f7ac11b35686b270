/* SPDX-License-Identifier: MIT */
/* The inside of an opened image, for the engine's own files. */
#ifndef COW_STATE_H
#define COW_STATE_H

#include <stdatomic.h>

#include "engine/core/limits.h"
#include "engine/space/alloc.h"
#include "engine/meta/cache.h"
#include "engine/crypt/crypt.h"
#include "engine/space/epoch.h"
#include "engine/format/format.h"
#include "engine/life/freeze.h"
#include "engine/format/geometry.h"
#include "engine/life/image.h"
#include "engine/image/claim.h"
#include "engine/meta/overlap.h"
#include "engine/space/quarantine.h"
#include "engine/meta/table.h"
#include "engine/bitmap/tracking.h"
#include "engine/meta/writeback.h"

struct cow_image {
	/* constant after open */
	struct cow_host *host;
	struct cow_file *file;
	struct cow_file *data; /* where guest data lies: file, or the external data file */
	/* the external data file is to be readable as a raw image at any time */
	bool raw_data_file;
	struct cow_crypt_key *key; /* NULL: in the clear */
	unsigned depth;		   /* in the chain; 0: the top */
	char *path;
	bool overlay; /* nobody named it: its backing file is the image that was named */
	bool raw;     /* a raw file in a backing chain: file offset = guest offset */
	bool writable;
	bool no_discard;
	bool keep_memory; /* queues take all their buffers at once, and keep them */
	bool compress;	  /* new full clusters are written compressed */
	struct cow_limits limits;
	uint64_t reserve_bytes; /* a queue's largest reservation; 0: the default */
	enum cow_detect_zeroes detect_zeroes;
	struct cow_image_geometry public_geometry;
	struct cow_geometry g;
	struct cow_extensions ext;
	struct cow_image *backing; /* NULL: unallocated reads as zeros */
	uint64_t backing_bytes;	   /* highest guest offset at which the chain below may hold data */
	uint8_t *zeros;		   /* cluster_bytes of zeros */
	struct cow_inflated *inflated; /* the chain's, in its top image */
	uint64_t snapshots_bytes;      /* length of the snapshot table in the file */

	/* header_lock */
	struct cow_mutex header_lock;
	struct cow_header header; /* as to be written; see also cow_image_header_encode() */
	/* the first 512 bytes as read: what the header's fields do not cover is kept */
	uint8_t header_sector[512];

	/* own locks inside */
	struct cow_table l1, reftable;
	struct cow_cache l2, refs;
	struct cow_inflight inflight;
	struct cow_overlap_filter overlap; /* writable images */
	struct cow_commit commit;
	struct cow_alloc alloc;
	struct cow_quarantine quarantine;
	struct cow_epoch epoch;
	struct cow_freeze freeze;

	/* changed by the control thread while nothing runs: at open, under a freeze */
	struct cow_tracking tracking; /* dirty bitmaps; writable images */

	/* any thread */
	atomic_bool failed; /* sticky: no more writing */
	/* sticky, besides failed: its tables are lost to us, no more reading either */
	atomic_bool unreadable;
	atomic_bool ready_for_write; /* the header tells that somebody writes (autoclear bits) */

	/* fail_lock */
	struct cow_mutex fail_lock;
	char failure[256];
	bool mark_corrupt; /* the corrupt bit is to be set */

	/* queues_lock */
	struct cow_mutex queues_lock;
	struct cow_queue *queues[COW_MAX_QUEUES];
	struct cow_reserved *left; /* reservations of queues that are gone */
	unsigned nr_left, cap_left;
};

/*
 * The image is in doubt: no more writing. Logs and keeps the first reason. Returns -EIO. No shard
 * lock held.
 */
int cow_image_fail(struct cow_image *image, struct cow_loop *loop, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/*
 * The image breaks a rule at a host offset: fails it and sets the corrupt bit. Returns -EIO. No
 * shard lock held.
 */
int cow_image_corrupt(struct cow_image *image, struct cow_loop *loop, uint64_t off,
		      const char *rule);

/*
 * Fails the image if its host file was found cut short: what would be written now would hide the
 * hole.
 */
void cow_image_note_cut(struct cow_image *image, struct cow_loop *loop);
/* Looks at the host file's length first. False: cut. */
bool cow_image_is_whole(struct cow_image *image, struct cow_loop *loop);

static inline bool cow_image_is_failed(struct cow_image *image)
{
	return atomic_load_explicit(&image->failed, memory_order_acquire);
}

/* The next pass switches off the autoclear features that are not kept true. */
void cow_image_note_writing(struct cow_image *image);
/* Have the header say that somebody writes; the task runs its step again when that is durable. */
void cow_image_prepare_write(struct cow_image *image, struct cow_task *task);

/* The first 512 bytes as they should stand on disk now. */
void cow_image_header_encode(struct cow_image *image, uint8_t sector[512]);

/*
 * Header, L1, refcount table anew; caches dropped; the allocator starts over. Frozen: all queues
 * idle, nothing dirty.
 */
int cow_image_reload(struct cow_image *image, struct cow_loop *loop, struct cow_error *err);
/* The release may have stopped halfway because its loop goes: it goes on on a queue's. queue.c */
void cow_image_hand_over_release(struct cow_image *image);
/* The largest cluster of the chain: what an inflated cluster can take. */
uint32_t cow_chain_cluster_bytes(const struct cow_image *image);
/* One writeback pass, waited for. close.c */
int cow_image_write_back(struct cow_image *image, struct cow_loop *loop);

#endif
