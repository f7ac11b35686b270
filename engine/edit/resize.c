/* SPDX-License-Identifier: MIT */
/* See resize.h. In this order: what stands in the way; growing; shrinking; both. */
#include "engine/edit/resize.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/core/load.h"
#include "engine/edit/edit_refcount.h"
#include "engine/edit/edit_share.h"
#include "engine/format/map.h"
#include "engine/format/reference.h"
#include "engine/edit/edit.h"
#include "engine/edit/edit_fault.h"
#include "engine/edit/resize_fill.h"
#include "engine/loop/blocking.h"

/* ---- what stands in the way ---- */

static int new_size(const struct cow_header *h, const struct cow_resize_options *o, uint64_t *size,
		    struct cow_error *err)
{
	uint32_t block_bytes = o->block_bytes ? o->block_bytes : 512;
	*size = o->bytes;
	if (o->sign < 0 && o->bytes > h->size_bytes)
		return cow_error_set(err, -EINVAL, "size: the disk has only %" PRIu64 " bytes",
				     h->size_bytes);
	if (o->bytes > INT64_MAX || (o->sign > 0 && o->bytes > INT64_MAX - h->size_bytes))
		return cow_error_set(err, -EFBIG, "size: more than 2^63-1 bytes");
	if (o->sign)
		*size = o->sign < 0 ? h->size_bytes - o->bytes : h->size_bytes + o->bytes;
	if (*size % block_bytes)
		return cow_error_set(err, -EINVAL,
				     "size %" PRIu64 ": must be a multiple of %" PRIu32 " bytes",
				     *size, block_bytes);
	if (cow_header_l1_entries(h, *size) > QCOW2_MAX_L1_BYTES / 8)
		return cow_error_set(err, -EFBIG,
				     "size %" PRIu64 ": too large for clusters of %" PRIu32
				     " bytes",
				     *size, cow_cluster_bytes(h));
	if (*size < h->size_bytes && !o->shrink)
		return cow_error_set(err, -EINVAL,
				     "size %" PRIu64 ": less than %" PRIu64
				     ", which loses what lies behind it: use "
				     "--shrink if that is meant",
				     *size, h->size_bytes);
	if (*size < h->size_bytes && o->preallocation)
		return cow_error_set(err, -EINVAL,
				     "preallocation: only of a disk that becomes larger");
	return 0;
}

static int refuse(const struct cow_header *h, const struct cow_extensions *ext,
		  struct cow_error *err)
{
	if (h->incompatible & QCOW2_INCOMPAT_DATA_FILE)
		return cow_error_set(err, -ENOTSUP,
				     "the image has an external data file: use qemu-img resize");
	if (ext->has_bitmaps)
		return cow_error_set(
			err, -ENOTSUP,
			"the image has dirty bitmaps of the old size: remove them first");
	if (h->version == 2 && h->nr_snapshots)
		return cow_error_set(
			err, -ENOTSUP,
			"version 2 cannot say that a snapshot has another size: cowblk amend -o "
			"compat=1.1 first, or delete the snapshots");
	return 0;
}

static bool nothing_behind(const struct cow_edit *e, uint64_t first)
{
	for (uint64_t i = first; i < e->header.l1_entries; i++)
		if (e->l1[i])
			return false;
	return true;
}

static int backing_shows(struct cow_edit *e, const char *path)
{
	return cow_error_set(e->err, -ENOTSUP,
			     "backing file %s: is longer than the disk, and would show behind its "
			     "old end: use qemu-img resize, which writes zeros there",
			     path);
}

/* A backing file that is longer than the disk was would come to light behind its old end. */
static int check_backing(struct cow_edit *e, const struct cow_resize_options *options,
			 const uint8_t *cluster)
{
	char name[1024];
	uint64_t bytes;
	int ret = cow_reference_backing_name(cluster, &e->header, name, e->err);
	if (ret || !name[0])
		return ret;
	if (options->backing_bytes)
		return *options->backing_bytes > e->header.size_bytes ? backing_shows(e, name) : 0;
	if (!e->ext.has_backing_format)
		return cow_error_set(
			e->err, -EINVAL,
			"the backing file has no format recorded: set it with cowblk rebase -u");
	char *path = cow_reference_resolve(e->file->path, name);
	if (!path)
		return cow_error_no_memory(e->err);
	ret = cow_load_disk_size(e->file->host, e->loop, path, e->ext.backing_format, &bytes,
				 e->err);
	if (!ret && bytes > e->header.size_bytes)
		ret = backing_shows(e, path);
	free(path);
	return ret;
}

/* ---- growing ---- */

/* The L2 entry of the cluster that the disk ends in; 0: none. */
static int last_entry(struct cow_edit *e, struct cow_l2_entry *entry)
{
	uint64_t cluster = e->header.size_bytes >> e->g.cluster_bits;
	uint64_t at = (cluster & ((1ull << e->g.l2_bits) - 1)) * e->g.entry_bytes;
	uint64_t table = e->l1[cluster >> e->g.l2_bits];
	*entry = (struct cow_l2_entry){ 0 };
	if (!table)
		return 0;
	int ret = cow_edit_share(e, &table, 1, 0);
	if (ret)
		return ret;
	entry->raw = cow_load64_be(e->table + at);
	entry->subs = e->g.extended_l2 ? cow_load64_be(e->table + at + 8) : 0;
	return 0;
}

/*
 * A disk that was made smaller may end inside a cluster with data behind its end, which is nobody's
 * until the disk grows over it. In place, so only where nobody else has the cluster; compressed or
 * encrypted, it stays, as QEMU leaves it.
 */
static int clear_tail(struct cow_edit *e)
{
	struct cow_l2_entry entry;
	uint64_t used = cow_in_cluster(&e->g, e->header.size_bytes), count = 0;
	int ret = used && !e->header.crypt_method ? last_entry(e, &entry) : 0;
	if (ret || !used || e->header.crypt_method || (entry.raw & QCOW2_COMPRESSED) ||
	    !(entry.raw & QCOW2_OFFSET_MASK))
		return ret;
	uint64_t off = entry.raw & QCOW2_OFFSET_MASK;
	ret = cow_edit_refcount(e, off >> e->g.cluster_bits, &count);
	if (ret || count != 1)
		return ret;
	memset(e->table, 0, e->g.cluster_bytes);
	ret = cow_loop_write(e->loop, e->file, off + used, e->table, e->g.cluster_bytes - used);
	return cow_edit_cannot_write(e, ret);
}

static int lengthen_l1(struct cow_edit *e, uint64_t size)
{
	uint64_t need = cow_header_l1_entries(&e->header, size);
	uint32_t old = e->header.l1_entries;
	if (need <= old)
		return 0;
	uint64_t *longer = reallocarray(e->l1, need + 1, 8);
	if (!longer)
		return cow_error_no_memory(e->err);
	memset(longer + old, 0, (need - old) * 8);
	e->l1 = longer;
	e->header.l1_entries = (uint32_t)need;
	e->l1_changed = true;
	return 0;
}

static int grow(struct cow_edit *e, uint64_t size, enum cow_preallocation preallocation)
{
	uint32_t old = e->header.l1_entries;
	int ret = clear_tail(e);
	if (!ret)
		ret = lengthen_l1(e, size);
	if (!ret)
		ret = cow_resize_fill(e, size, preallocation);
	return ret ? ret : cow_edit_move_l1(e, old);
}

/* ---- shrinking ---- */

static int write_table(struct cow_edit *e, const uint8_t *table, uint64_t *off)
{
	int ret = cow_edit_alloc(e, 1, off);
	if (ret)
		return ret;
	ret = cow_loop_write(e->loop, e->file, *off, table, e->g.cluster_bytes);
	return cow_edit_cannot_write(e, ret);
}

/*
 * An L2 table without its entries from `at` on, which are given up by way of a table that holds
 * only them.
 */
static int split_table(struct cow_edit *e, uint64_t *l1_entry, uint32_t at, uint8_t *head,
		       uint8_t *tail)
{
	uint64_t off, old = *l1_entry & QCOW2_OFFSET_MASK;
	cow_assert(at && at < e->g.cluster_bytes && at % e->g.entry_bytes == 0);
	int ret = cow_loop_read(e->loop, e->file, old, head, e->g.cluster_bytes);
	if (ret)
		return cow_error_set(e->err, ret, "L2 table at offset %" PRIu64 ": %s", old,
				     strerror(-ret));
	memcpy(tail + at, head + at, e->g.cluster_bytes - at);
	memset(head + at, 0, e->g.cluster_bytes - at);
	ret = write_table(e, tail, &off);
	if (!ret)
		ret = cow_edit_share(e, &off, 1, -1);
	if (!ret)
		ret = write_table(e, head, &off);
	if (!ret)
		ret = cow_edit_count(e, old, e->g.cluster_bytes, -1);
	*l1_entry = off;
	return ret;
}

static int cut_table(struct cow_edit *e, uint64_t *l1_entry, uint32_t at)
{
	uint8_t *head = cow_buf_alloc(e->g.cluster_bytes),
		*tail = cow_buf_alloc(e->g.cluster_bytes);
	int ret = cow_edit_share(e, l1_entry, 1, 0); /* verified before anything is made of it */
	if (!head || !tail)
		ret = cow_error_no_memory(e->err);
	if (!ret)
		ret = split_table(e, l1_entry, at, head, tail);
	free(head);
	free(tail);
	return ret;
}

static int shrink(struct cow_edit *e, uint64_t size)
{
	uint64_t clusters = (size + e->g.cluster_bytes - 1) >> e->g.cluster_bits;
	uint64_t tables = clusters >> e->g.l2_bits,
		 at = (clusters & ((1ull << e->g.l2_bits) - 1)) * e->g.entry_bytes;
	uint32_t nr = e->header.l1_entries;
	bool cut = at && e->l1[tables];
	int ret = cut ? cut_table(e, &e->l1[tables], (uint32_t)at) : 0;
	if (cut && !ret)
		e->l1[tables] |= QCOW2_COPIED; /* a new table, with the flags of the old one */
	tables += at != 0;
	cow_assert(tables <= nr); /* the header was found to cover the disk */
	if (!ret)
		ret = cow_edit_share(e, e->l1 + tables, nr - tables, -1);
	if (ret)
		return ret;
	memset(e->l1 + tables, 0, (nr - tables) * 8);
	e->l1_changed = true;
	/* What stays has as many references as it had, so its COPIED flags are right. */
	return cow_edit_move_l1(e, nr);
}

/* ---- both ---- */

static int change(struct cow_edit *e, const struct cow_resize_options *options,
		  const uint8_t *cluster, uint64_t size)
{
	int ret = 0;
	if (!nothing_behind(e, cow_header_l1_entries(&e->header, e->header.size_bytes)))
		return cow_error_set(e->err, -ENOTSUP,
				     "the disk has VM state behind its end: use qemu-img resize");
	if (size > e->header.size_bytes)
		ret = check_backing(e, options, cluster);
	if (!ret)
		ret = size > e->header.size_bytes ? grow(e, size, options->preallocation)
						  : shrink(e, size);
	if (!ret)
		ret = cow_edit_complete_snapshots(e) ? cow_edit_write_snapshots(e) : 0;
	if (ret)
		return ret;
	e->header.size_bytes = size;
	return cow_edit_commit(e);
}

int cow_resize_check(const struct cow_header *h, const struct cow_extensions *ext,
		     const struct cow_resize_options *options, uint64_t *size_bytes,
		     struct cow_error *err)
{
	int ret = new_size(h, options, size_bytes, err);
	return ret || *size_bytes == h->size_bytes ? ret : refuse(h, ext, err);
}

int cow_resize(struct cow_loop *loop, struct cow_file *file,
	       const struct cow_resize_options *options, struct cow_error *err)
{
	struct cow_header h;
	struct cow_extensions ext;
	struct cow_edit e;
	uint8_t *cluster;
	uint64_t size;
	int ret = cow_load_header(loop, file, &h, &cluster, err);
	if (ret)
		return ret;
	ret = cow_extensions_decode(cluster, &h, &ext, err);
	if (!ret)
		ret = cow_resize_check(&h, &ext, options, &size, err);
	if (ret || size == h.size_bytes)
		goto out;
	ret = cow_edit_open(&e, loop, file, err);
	if (ret)
		goto out;
	ret = change(&e, options, cluster, size);
	cow_edit_close(&e);
out:
	free(cluster);
	return ret;
}
