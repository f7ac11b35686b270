/* SPDX-License-Identifier: MIT */
/*
 * Inside check and repair: one round over an image. Phases, in this order:
 *
 *   load       header, extensions, refcount table, snapshot table
 *   mark       every reference: fixed metadata first, then L2 tables, then what they point to
 *   compare    with the refcounts on disk; when fixing: in place, or rebuild
 *   copied     COPIED flags of the active tables; statistics
 *
 * A round with fix == COW_REPAIR_NONE writes nothing. `incomplete` is set when a reference could not
 * be followed: what seems unreferenced may then be data that a broken pointer leads to, so nothing
 * is freed.
 */
#ifndef COW_CHECKER_H
#define COW_CHECKER_H

#include "engine/base/result.h"
#include "engine/check/check.h"
#include "engine/check/check_cells.h"
#include "engine/core/load.h"

struct cow_l2_ref {
	uint64_t off;
	uint32_t refs; /* paths that lead to this table: each of its entries counts that often */
	bool fixable;  /* it has entries that cow_check_repair_l2_tables() can put right */
};

struct cow_checker {
	/* constant during the round */
	struct cow_loop *loop;
	struct cow_file *file;
	const struct cow_check_options *options;
	enum cow_repair fix;
	struct cow_header header;
	struct cow_extensions ext;
	uint64_t nr_clusters; /* of the file, the last may be cut short */
	bool has_data_file, extended_l2;

	/* loaded */
	struct cow_snapshot *snapshots; /* nr_snapshots of them */
	uint32_t nr_snapshots;
	uint64_t snapshot_table_bytes;
	uint64_t *reftable; /* host offsets of usable refcount blocks, else 0 */
	uint64_t nr_reftable;

	/* found */
	struct cow_check_cells cells;
	struct cow_l2_ref *l2;
	uint64_t nr_l2, max_l2;
	struct cow_check_result result;
	uint64_t last_cluster; /* the last one in use by refcount or reference */
	bool incomplete, need_rebuild;

	uint8_t *cluster;  /* scratch, one cluster */
	uint8_t *cluster2; /* scratch of an outer loop */
};

COW_MUST_CHECK int cow_checker_init(struct cow_checker *c, struct cow_loop *loop,
				    struct cow_file *file, const struct cow_check_options *options,
				    enum cow_repair fix, struct cow_error *err);
void cow_checker_fini(struct cow_checker *c);

/* A finding. Counted in result.corruptions; leaks are counted by the caller. */
void cow_checker_corrupt(struct cow_checker *c, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
void cow_checker_tell(struct cow_checker *c, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
void cow_checker_progress(struct cow_checker *c, unsigned permille);

/*
 * Count `refs` references to [off, off+bytes) as `kind`. A range past the end of the file and
 * overlaps are reported. *usable
 * (may be NULL): false if it must not be followed. Returns 0 or -errno.
 */
COW_MUST_CHECK int cow_checker_mark(struct cow_checker *c, uint64_t off, uint64_t bytes,
				    enum cow_check_kind kind, uint32_t refs, bool *usable);

/* Blocking I/O with the error text set. */
COW_MUST_CHECK int cow_checker_read(struct cow_checker *c, uint64_t off, void *buf, uint64_t bytes);
/* Writes what lies between the first and last changed byte of table, widened to sectors. */
COW_MUST_CHECK int cow_checker_write_changed(struct cow_checker *c, uint64_t off,
					     const uint8_t *table, uint64_t first, uint64_t end);

#endif
