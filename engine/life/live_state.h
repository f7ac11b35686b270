/* SPDX-License-Identifier: MIT */
/* A change of snapshots on a running image: its state, for the files live_*.c. See live.h. */
#ifndef COW_LIVE_STATE_H
#define COW_LIVE_STATE_H

#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/base/result.h"
#include "engine/image/state.h"
#include "engine/life/live.h"
#include "engine/life/live_brake.h"
#include "engine/life/live_io.h"
#include "engine/life/live_space.h"
#include "engine/loop/blocking.h"
#include "engine/loop/io.h"
#include "engine/meta/written.h"
#include "engine/snapshot/delta.h"
#include "engine/snapshot/shadow.h"
#include "engine/space/reserve.h"

/* An L2 table or a refcount block. */
struct cow_live_table {
	uint64_t src;	 /* where the image has it, as it was last done; 0: not yet */
	uint64_t shadow; /* 0: none */
	uint64_t stale;	 /* block: parts whose counts change otherwise than the shadow says */
};

struct cow_live {
	/* constant */
	struct cow_image *image;
	struct cow_loop *loop;
	struct cow_live_snapshot *s;
	struct cow_error *err;
	uint32_t batch; /* tables at a time */

	bool frozen;	  /* the last round, nothing runs */
	bool switched;	  /* the header is written */
	unsigned nr_done; /* parts of tables and blocks done in this round */

	struct cow_live_space space;
	struct cow_live_brake brake;
	struct cow_live_ios ios;
	struct cow_written written;
	struct cow_delta delta;
	struct cow_live_table *tables, *blocks;
	uint64_t nr_tables, max_blocks;
	bool outside;	      /* an entry leads to where no refcount block can be */
	uint8_t *bufs, *olds; /* batch clusters each */
	uint8_t *slice;	      /* of a refcount block, at slice_off; 0: none */
	uint64_t slice_off;

	/* snapshots as they will be; header.nr_snapshots of them */
	struct cow_snapshot *snapshots;
	struct cow_header header;
	uint64_t old_snapshots_bytes;
	struct cow_snapshot victim; /* DELETE: a copy of its numbers, no strings */
	uint64_t *victim_l1;

	/* places for what is one piece, 0: none needed; and the old header */
	uint64_t l1_off, copy_off, reftable_off, snapshots_off;
	uint32_t reftable_clusters;
	struct cow_header old;
};

uint32_t cow_live_clusters(const struct cow_live *x, uint64_t bytes);
COW_MUST_CHECK int cow_live_corrupt(struct cow_live *x, uint64_t off, const char *rule);
/* delta, or allocation: err says so. */
COW_MUST_CHECK int cow_live_trouble(struct cow_live *x, int ret);
/* Features that we do not keep true go before our first write, as before a request's. */
COW_MUST_CHECK int cow_live_say_writing(struct cow_image *image, struct cow_loop *loop);
bool cow_live_cancelled(const struct cow_live *x);
/* From the first of these parts of a cluster to the last. */
struct cow_shadow_part cow_live_span(const struct cow_live *x, uint64_t parts);
unsigned cow_live_parts_in(const struct cow_live *x, struct cow_shadow_part span);
/* I/O of a part of the table or block at off. */
void cow_live_io(struct cow_live *x, enum cow_io_kind kind, uint64_t off, uint8_t *buf,
		 struct cow_shadow_part span);

/* Waits for the reads of a batch of those, beside the requests with the brake, and later for its writes. */
COW_MUST_CHECK int cow_live_begin_batch(struct cow_live *x, const char *what);
/* ret: of what was done in between. */
COW_MUST_CHECK int cow_live_end_batch(struct cow_live *x, int ret);

#endif
