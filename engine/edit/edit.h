/* SPDX-License-Identifier: MIT */
/*
 * A change of a closed image's metadata as a whole: L1, L2 tables, refcounts, snapshot table.
 * Nothing that the image on disk refers to is written to. What changes goes to clusters that are
 * free in the image as it stands, and all of it takes effect with the header's sector, which holds
 * the offsets of all tables:
 *
 *   moved L2 tables, L1 tables, snapshot table, refcount blocks, refcount table | header | punch what became free
 *
 * So an image is never seen with refcounts raised and COPIED flags still set, or the other way
 * round, and a crash leaks nothing: the new clusters are counted only by the new refcount blocks.
 * The price is the room for both versions of the tables that change.
 *
 * States: open (memory only, and writes to free clusters) -> committed. cow_edit_close() in any
 * state; before the commit it gives back what was written: holes, and the file as long as it was.
 *
 * Memory: the refcount blocks that are looked at, and the L1 tables; L2 tables pass through one at
 * a time.
 */
#ifndef COW_EDIT_H
#define COW_EDIT_H

#include "engine/base/result.h"
#include "engine/format/format.h"
#include "engine/format/geometry.h"
#include "engine/loop/loop.h"

/* A refcount block of the image as it will be. */
struct cow_edit_block {
	uint64_t old_off, off; /* 0: none; off differs from old_off once it has a new place */
	uint8_t *counts;       /* NULL: not loaded */
	uint8_t *used;	       /* a bit per cluster: it counts in the image as it stands */
	bool dirty;
};

struct cow_edit {
	/* constant */
	struct cow_loop *loop;
	struct cow_file *file;
	struct cow_error *err; /* where failures are told */
	struct cow_geometry g;
	struct cow_extensions ext;
	bool any;	       /* an external data file is let through */
	uint64_t opened_bytes; /* the file's length then */
	uint64_t max_clusters; /* that the file can have */
	uint8_t sector[512];   /* the header's, as it stands */

	/* the image as it will be */
	struct cow_header header;
	uint64_t *l1;			/* active: header.l1_entries, host byte order */
	struct cow_snapshot *snapshots; /* header.nr_snapshots */

	/* refcounts */
	struct cow_edit_block *blocks;
	uint64_t nr_blocks, max_blocks;
	uint64_t scan;	      /* no cluster below it is free */
	uint64_t tables_from; /* cow_edit_alloc() gives none below it */

	/* edit_places.h: the header's sector with them changed */
	struct {
		bool can, changed;
		uint64_t bitmaps_at; /* of that extension, in sector; 0: none */
		uint8_t sector[512];
	} places;

	uint64_t snapshots_bytes; /* of the table as it stands */
	bool l1_changed, committed;
	bool placed;	   /* refcount blocks and table have their places */
	bool drops_blocks; /* a block that counts nothing has no place, nor room in the table */
	uint8_t *table;	   /* scratch: an L2 table */
};

/*
 * A dirty image is repaired first. Refuses what cannot be changed: the corrupt bit, an external
 * data file.
 */
COW_MUST_CHECK int cow_edit_open(struct cow_edit *e, struct cow_loop *loop, struct cow_file *file,
				 struct cow_error *err);
/* The same for changes to which an external data file is no obstacle. */
COW_MUST_CHECK int cow_edit_open_any(struct cow_edit *e, struct cow_loop *loop,
				     struct cow_file *file, struct cow_error *err);
void cow_edit_close(struct cow_edit *e);

/*
 * Writes what has changed and switches the header. -ENOTRECOVERABLE: nobody knows which of the two
 * images is on disk.
 */
COW_MUST_CHECK int cow_edit_commit(struct cow_edit *e);

/* An L1 table as host byte order; *l1 has nr entries and is free()d by the caller. */
COW_MUST_CHECK int cow_edit_read_l1(struct cow_edit *e, uint64_t off, uint64_t nr, uint64_t **l1);
/* Write an L1 table to a new place, in whole clusters. No entries: *off is 0. */
COW_MUST_CHECK int cow_edit_write_l1(struct cow_edit *e, const uint64_t *l1, uint64_t nr,
				     uint64_t *off);
/*
 * Entries of e->snapshots without a disk size of their own mean the image's: from now on, and before
 * that changes, they have one. Returns whether there were any: then they are to be written.
 */
bool cow_edit_complete_snapshots(struct cow_edit *e);
/* e->snapshots to a new place; the old table is freed. */
COW_MUST_CHECK int cow_edit_write_snapshots(struct cow_edit *e);
/* e->l1 to a new place if it has changed; the old table of old_entries is freed. */
COW_MUST_CHECK int cow_edit_move_l1(struct cow_edit *e, uint32_t old_entries);

#endif
