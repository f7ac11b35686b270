/* SPDX-License-Identifier: MIT */
#include "engine/edit/amend_scan.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/core/load.h"
#include "engine/loop/blocking.h"

struct scan {
	struct cow_loop *loop;
	struct cow_file *file;
	const struct cow_header *header;
	struct cow_error *err;
	uint8_t *table; /* an L2 table */
};

static int cannot_read(struct scan *s, const char *what, uint64_t off, int ret)
{
	return cow_error_set(s->err, ret, "%s at offset %" PRIu64 ": cannot read: %s", what, off,
			     strerror(-ret));
}

static const char *what_needs_version_3(const struct scan *s, uint64_t entry)
{
	if (entry & QCOW2_COMPRESSED)
		return s->header->compression_type == QCOW2_COMPRESSION_ZLIB
			       ? NULL
			       : "clusters that zstd has compressed";
	return entry & QCOW2_ZERO ? "zero clusters" : NULL;
}

static int scan_l2(struct scan *s, uint64_t off)
{
	int ret = cow_loop_read(s->loop, s->file, off, s->table, cow_cluster_bytes(s->header));
	if (ret)
		return cannot_read(s, "L2 table", off, ret);
	const char *what = NULL;
	uint32_t i;
	for (i = 0; i < cow_l2_entries(s->header); i++)
		if ((what = what_needs_version_3(s, cow_load64_be(s->table + i * 8))))
			break;
	return what ? cow_error_set(s->err, -ENOTSUP,
				    "compat=0.10: not possible: the image has %s (L2 entry at "
				    "offset %" PRIu64 ")",
				    what, off + (uint64_t)i * 8)
		    : 0;
}

static int scan_l1(struct scan *s, uint64_t off, uint32_t nr)
{
	uint8_t *l1 = cow_buf_alloc((uint64_t)nr * 8 + 8);
	if (!l1)
		return cow_error_no_memory(s->err);
	int ret = cow_loop_read(s->loop, s->file, off, l1, (uint64_t)nr * 8);
	if (ret)
		cannot_read(s, "L1 table", off, ret);
	for (uint32_t i = 0; i < nr && !ret; i++) {
		uint64_t l2_off = cow_load64_be(l1 + (uint64_t)i * 8) & QCOW2_OFFSET_MASK;
		if (l2_off)
			ret = scan_l2(s, l2_off);
	}
	free(l1);
	return ret;
}

static int scan_snapshots(struct scan *s)
{
	struct cow_snapshot *list;
	uint64_t bytes;
	uint32_t nr = s->header->nr_snapshots;
	int ret = cow_load_snapshots(s->loop, s->file, s->header, &list, &bytes, s->err);
	if (ret)
		return ret;
	for (uint32_t i = 0; i < nr && !ret; i++) {
		ret = cow_snapshot_verify_l1(&list[i], s->header, s->file->size_bytes, s->err);
		if (!ret)
			ret = scan_l1(s, list[i].l1_off, list[i].l1_entries);
	}
	cow_snapshots_free(list, nr);
	return ret;
}

int cow_amend_refuse_clusters(struct cow_loop *loop, struct cow_file *file,
			      const struct cow_header *h, struct cow_error *err)
{
	struct scan s = { .loop = loop, .file = file, .header = h, .err = err };
	s.table = cow_buf_alloc(cow_cluster_bytes(h));
	if (!s.table)
		return cow_error_no_memory(err);
	int ret = scan_l1(&s, h->l1_off, h->l1_entries);
	if (!ret)
		ret = scan_snapshots(&s);
	free(s.table);
	return ret;
}
