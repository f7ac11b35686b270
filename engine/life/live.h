/* SPDX-License-Identifier: MIT */
/*
 * Internal snapshots of a running image, made and deleted beside its requests. The pause does not
 * grow with the image: nearly all is done before the freeze.
 *
 * 1. Beside the requests. Each L2 table whose COPIED flags will change, each refcount block whose
 *    counts will change, is copied to a place of its own (its shadow) as it will be. The clusters of
 *    the shadows come from the image's allocator, as any other's do: their refcounts of 1 are
 *    durable before anything is said to lie there, and nobody else gets them. Nothing that the image
 *    leads to is written. So a loss of power, a kill, an error leave the image as it was, with
 *    leaks at most, and running requests need to know nothing: they go on with the old tables.
 * 2. What passes write meanwhile is noted, slice by slice (engine/meta/written.h). From the first
 *    such slice of a table or block to the last it is done again, all of it where it has moved, in
 *    rounds, until few are left. Requests that change as much as a round does are let in only now
 *    and then (live_brake.h), or there would always be many.
 * 3. Freeze: requests end, all is written back; the file says what memory knows. The last few tables
 *    and blocks are done again, then L1, its copy for the snapshot, refcount table and snapshot
 *    table, all in places of their own | header | the tables are loaded anew; thaw.
 *    The header's sector switches refcounts, L2 tables and COPIED flags at once: none is ever durable
 *    without the others, refcounts are never lower than references, and COPIED never stands at a
 *    cluster that is shared.
 * 4. Beside the requests again: what only the old tables led to is freed, through the quarantine like
 *    anything that is freed. A crash before that leaks it. The new refcount blocks count it still,
 *    once: so no count falls to 0 by the switch itself, and nothing is reused or punched early.
 *
 * Why a shadow may be made from a table that is changed at the same time: its references are
 * counted by the difference to what its shadow held before, so whatever a torn read brings in is
 * taken out again when the table is done again; a pass notes what it has written after it has
 * written it, and our mark is cleared before the table is read. Tables and blocks that were not
 * written since are what the file holds. What looks broken in a round is judged under the freeze only.
 *
 * A shared L2 table (no COPIED in L1, refcount > 1 made sure of) has no shadow when a snapshot is
 * made, just one reference more: nobody changes it in place, and it cannot be freed before the
 * freeze, since the snapshots that share it stay. That is why no two such changes run at once.
 *
 * Where there is no room for shadows, or none in one piece for L1, the change is done all under the
 * freeze, as on a closed image (engine/snapshot/snapshot.h). The allocator gives no run that crosses
 * a refcount block, which is what limits L1: with refcounts of 16 bits disks larger than 510 MiB of
 * 512-byte clusters (8 GiB of 1 KiB, 128 GiB of 2 KiB, 2 TiB of 4 KiB clusters) are changed so: a
 * second and 35 MiB for each million of clusters that are mapped.
 *
 * Memory: 2 bits a host cluster that the image leads to (6 when deleting) and more where compressed
 * clusters share it, 24 bytes an L1 entry and a refcount block, and up to 64 more for marks of what
 * is written, buffers of some MiB. Blocking: for a thread of the control plane that owns loop.
 */
#ifndef COW_LIVE_H
#define COW_LIVE_H

#include <stdatomic.h>

#include "engine/base/result.h"
#include "engine/life/image.h"
#include "engine/snapshot/snapshot.h"

enum cow_live_what { COW_LIVE_CREATE, COW_LIVE_DELETE };

struct cow_live_snapshot {
	enum cow_live_what what;
	struct cow_snapshot_key key; /* CREATE: text is the name */
	/*
	 * CREATE: called at the moment that the snapshot holds, all requests waiting; sets the
	 * date. More than once if the change has to begin anew.
	 */
	void (*moment)(void *ctx, struct cow_snapshot_date *date);
	void *ctx;
	/*
	 * May be NULL. Called once, when all that can be done beside the requests is done: the
	 * requests are held soon. It may take long (file systems are frozen), and what is written
	 * meanwhile is caught up with. Not 0: nothing is changed, and that is returned.
	 */
	int (*ready)(void *ctx);
	const atomic_bool *cancel; /* may be NULL; looked at until the freeze: -ECANCELED */
	/* results */
	char *id;	     /* CREATE: the new snapshot's; free() it */
	uint64_t pause_ns;   /* how long requests were held */
	uint64_t peak_bytes; /* of memory, about */
	bool all_frozen;     /* it was done as on a closed image */
	bool was_ready;	     /* ready was called */
};

/*
 * 0 or -errno with the reason in err: nothing has changed then, unless it says that nobody knows
 * (the image is failed). Nothing of the engine's runs on loop any more when this returns. -EBUSY:
 * another change of the whole image is under way.
 */
COW_MUST_CHECK int cow_image_change_snapshot(struct cow_image *image, struct cow_loop *loop,
					     struct cow_live_snapshot *s, struct cow_error *err);

#endif
