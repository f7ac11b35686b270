/* SPDX-License-Identifier: MIT */
/* The inside of an opened image, for the engine's own files. */
#ifndef COW_STATE_H
#define COW_STATE_H

#include <stdatomic.h>

#include "engine/space/alloc.h"
#include "engine/core/core.h"
#include "engine/crypt/crypt.h"
#include "engine/meta/meta.h"
#include "engine/space/epoch.h"
#include "engine/image/claim.h"
#include "engine/image/gate.h"
#include "engine/image/kept.h"
#include "engine/core/options.h"
#include "engine/space/quarantine.h"
#include "engine/bitmap/tracking.h"

struct cow_queue;

struct cow_image {
	struct cow_core core;
	struct cow_meta meta;

	/* constant after open */
	struct cow_crypt_key *key; /* NULL: in the clear */
	unsigned depth;		   /* in the chain; 0: the top */
	bool overlay;	  /* nobody named it: its backing file is the image that was named */
	bool replayed;	  /* what a process that died had changed: there are leaks */
	bool raw;	  /* a raw file in a backing chain: file offset = guest offset */
	bool keep_memory; /* queues take all their buffers at once, and keep them */
	bool compress;	  /* new full clusters are written compressed */
	enum cow_detect_zeroes detect_zeroes;
	struct cow_image_geometry public_geometry; /* its size grows under a freeze */
	struct cow_image *backing;		   /* NULL: unallocated reads as zeros */
	uint64_t backing_bytes; /* highest guest offset at which the chain below may hold data */
	struct cow_inflated *inflated; /* the chain's, in its top image */

	/* own locks inside */
	struct cow_claims claims;
	struct cow_alloc alloc;
	struct cow_quarantine quarantine;
	struct cow_epoch epoch;
	struct cow_kept kept;
	struct cow_gate gate;

	/* changed by the control thread while nothing runs: at open, under a freeze */
	struct cow_tracking tracking;	       /* dirty bitmaps; writable images */
	struct cow_tracking_left bitmaps_left; /* until it is open */

	struct cow_mutex_queues queues_lock;
	struct cow_queue *queues[COW_MAX_QUEUES] COW_GUARDED_BY(queues);
	struct cow_reserved *left COW_GUARDED_BY(queues); /* reservations of queues that are gone */
	unsigned nr_left COW_GUARDED_BY(queues);
	unsigned cap_left COW_GUARDED_BY(queues);
};

#endif
