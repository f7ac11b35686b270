/* SPDX-License-Identifier: MIT */
/* What the phases of a check share: findings, marking, I/O. */
#include "engine/check/checker.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/buf.h"
#include "engine/loop/blocking.h"

static int load(struct cow_checker *c, struct cow_error *err)
{
	uint8_t *first;
	int ret = cow_load_header_lenient(c->loop, c->file, &c->header, &first, err);
	if (ret)
		return ret;
	ret = cow_extensions_decode(first, &c->header, &c->ext, err);
	free(first);
	if (ret)
		return ret;
	c->nr_clusters =
		(c->file->size_bytes + cow_cluster_bytes(&c->header) - 1) >> c->header.cluster_bits;
	c->has_data_file = c->header.incompatible & QCOW2_INCOMPAT_DATA_FILE;
	c->extended_l2 = c->header.incompatible & QCOW2_INCOMPAT_EXTL2;
	if (c->has_data_file && !c->ext.has_data_file)
		cow_checker_corrupt(c,
				    "ERROR incompatible_features at offset %zu: bit 2 (external "
				    "data file), but the image does not name it",
				    offsetof(struct qcow2_header_be, incompatible_features));
	return 0;
}

static int allocate(struct cow_checker *c, struct cow_error *err)
{
	/* One more: a compressed cluster may end behind a file that is cut short. */
	int ret = cow_check_cells_init(&c->cells, c->nr_clusters + 1);
	if (ret)
		return cow_error_set(err, ret,
				     "check: %" PRIu64
				     " host clusters: more than can be checked (%llu)",
				     c->nr_clusters, COW_CHECK_MAX_CLUSTERS);
	c->cluster = cow_buf_alloc(cow_cluster_bytes(&c->header));
	c->cluster2 = cow_buf_alloc(cow_cluster_bytes(&c->header));
	return c->cluster && c->cluster2 ? 0 : cow_error_set(err, -ENOMEM, "check: out of memory");
}

int cow_checker_init(struct cow_checker *c, struct cow_loop *loop, struct cow_file *file,
		     const struct cow_check_options *options, enum cow_repair fix,
		     struct cow_error *err)
{
	memset(c, 0, sizeof(*c));
	c->loop = loop;
	c->file = file;
	c->options = options;
	c->fix = fix;
	int ret = load(c, err);
	if (!ret)
		ret = allocate(c, err);
	if (ret)
		cow_checker_fini(c);
	return ret;
}

void cow_checker_fini(struct cow_checker *c)
{
	cow_check_cells_fini(&c->cells);
	cow_snapshots_free(c->snapshots, c->nr_snapshots);
	free(c->reftable);
	free(c->l2);
	free(c->cluster);
	free(c->cluster2);
	memset(c, 0, sizeof(*c));
}

/* ---- findings ---- */

static void tell(struct cow_checker *c, const char *fmt, va_list ap)
{
	char text[512];
	if (!c->options->finding || c->fix != COW_REPAIR_NONE)
		return;
	vsnprintf(text, sizeof(text), fmt, ap);
	c->options->finding(c->options->ctx, text);
}

void cow_checker_corrupt(struct cow_checker *c, const char *fmt, ...)
{
	va_list ap;
	c->result.corruptions++;
	va_start(ap, fmt);
	tell(c, fmt, ap);
	va_end(ap);
}

void cow_checker_tell(struct cow_checker *c, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	tell(c, fmt, ap);
	va_end(ap);
}

void cow_checker_progress(struct cow_checker *c, unsigned permille)
{
	if (c->options->progress)
		c->options->progress(c->options->ctx, permille);
}

/* ---- marking ---- */

static bool may_share(enum cow_check_kind kind)
{
	return kind >= COW_KIND_L2;
}

/* Two owners that must not have the same cluster. */
static void check_overlap(struct cow_checker *c, struct cow_check_cell *cell, uint64_t cluster,
			  enum cow_check_kind kind)
{
	if (cell->kind == COW_KIND_NONE || cell->conflict ||
	    (cell->kind == kind && may_share(kind)))
		return;
	cow_checker_corrupt(
		c, "ERROR cluster %" PRIu64 " (offset 0x%" PRIx64 ") is used as %s and as %s",
		cluster, cluster << c->header.cluster_bits, cow_check_kind_name(cell->kind),
		cow_check_kind_name(kind));
	cell->conflict = 1;
}

static int mark_one(struct cow_checker *c, uint64_t cluster, enum cow_check_kind kind,
		    uint32_t refs, bool *usable)
{
	struct cow_check_cell *cell = cow_check_cells_at(&c->cells, cluster);
	if (!cell)
		return -ENOMEM;
	check_overlap(c, cell, cluster, kind);
	if (cell->kind == COW_KIND_NONE)
		cell->kind = kind;
	if (refs > COW_CHECK_MAX_REFS - cell->refs) {
		cow_checker_corrupt(c, "ERROR cluster %" PRIu64 " has more than %u references",
				    cluster, COW_CHECK_MAX_REFS);
		refs = COW_CHECK_MAX_REFS - cell->refs;
		c->incomplete = true;
	}
	cell->refs += refs;
	if (cell->conflict)
		*usable = false;
	return 0;
}

/*
 * The last cluster of a file may be cut short, so a reference may end behind the file's end, but
 * not a cluster behind.
 */
static bool past_end(const struct cow_checker *c, uint64_t off, uint64_t bytes)
{
	uint64_t end = c->file->size_bytes + cow_cluster_bytes(&c->header) - 1;
	return off > end || bytes > end - off;
}

int cow_checker_mark(struct cow_checker *c, uint64_t off, uint64_t bytes, enum cow_check_kind kind,
		     uint32_t refs, bool *usable)
{
	bool dummy;
	usable = usable ? usable : &dummy;
	*usable = true;
	if (!bytes)
		return 0;
	if (past_end(c, off, bytes)) {
		cow_checker_corrupt(c,
				    "ERROR %s at offset 0x%" PRIx64 " (%" PRIu64
				    " bytes) lies past the end of the file",
				    cow_check_kind_name(kind), off, bytes);
		*usable = false;
		return 0;
	}
	uint64_t first = off >> c->header.cluster_bits,
		 last = (off + bytes - 1) >> c->header.cluster_bits;
	for (uint64_t cluster = first; cluster <= last; cluster++) {
		int ret = mark_one(c, cluster, kind, refs, usable);
		if (ret)
			return ret;
	}
	return 0;
}

/* ---- I/O ---- */

int cow_checker_read(struct cow_checker *c, uint64_t off, void *buf, uint64_t bytes)
{
	return cow_loop_read(c->loop, c->file, off, buf, bytes);
}

int cow_checker_write_changed(struct cow_checker *c, uint64_t off, const uint8_t *table,
			      uint64_t first, uint64_t end)
{
	if (first >= end)
		return 0;
	cow_assert(c->fix != COW_REPAIR_NONE);
	first &= ~511ull;
	end = (end + 511) & ~511ull;
	return cow_loop_write(c->loop, c->file, off + first, table + first, end - first);
}
