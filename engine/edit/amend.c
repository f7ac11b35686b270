/* SPDX-License-Identifier: MIT */
/*
 * See amend.h. In this order: what stands in the way; snapshots of version 2 need not say how
 * large their disk was; the sector; the options; what others do.
 */
#include "engine/edit/amend.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/buf.h"
#include "engine/edit/amend_scan.h"
#include "engine/base/be.h"
#include "engine/core/load.h"
#include "engine/edit/edit.h"
#include "engine/edit/edit_backing.h"
#include "engine/edit/edit_width.h"
#include "engine/edit/resize.h"
#include "engine/format/feature_names.h"
#include "engine/format/reference.h"
#include "engine/loop/blocking.h"

#define SECTOR 512u
#define END_BYTES 8u /* the extension that ends them, all zeros */
/* Autoclear features that stay true: guest data and its place do not change. */
#define KEPT_AUTOCLEAR (QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_DATA_FILE_RAW)

struct amend {
	struct cow_loop *loop;
	struct cow_file *file;
	const struct cow_amend_options *options;
	struct cow_error *err;
	struct cow_header old, header; /* as it stands; as it shall be */
	struct cow_extensions ext;
	uint8_t *cluster;	/* the first one, as it stands */
	uint8_t sector[SECTOR]; /* its first sector, as it shall be */
};

static int load(struct amend *a)
{
	free(a->cluster);
	int ret = cow_load_header(a->loop, a->file, &a->old, &a->cluster, a->err);
	if (!ret)
		ret = cow_extensions_decode(a->cluster, &a->old, &a->ext, a->err);
	a->header = a->old;
	return ret;
}

static int cannot_write(struct amend *a, int ret)
{
	return ret ? cow_error_set(a->err, ret, "cannot write: %s", strerror(-ret)) : 0;
}

/* ---- what stands in the way ---- */

static int refuse(struct amend *a)
{
	if (a->old.incompatible & QCOW2_INCOMPAT_CORRUPT)
		return cow_error_set(
			a->err, -EROFS,
			"the image is marked corrupt: repair it with cowblk check --repair all");
	if (a->old.incompatible & QCOW2_INCOMPAT_DIRTY)
		return cow_error_set(
			a->err, -EROFS,
			"the image was not closed properly: repair it with cowblk check --repair "
			"all");
	return 0;
}

static int needs_version_3(struct amend *a, const char *what)
{
	return cow_error_set(a->err, -ENOTSUP, "compat=0.10: not possible: the image has %s", what);
}

static int check_downgrade(struct amend *a)
{
	if (a->old.incompatible & QCOW2_INCOMPAT_EXTL2)
		return needs_version_3(a, "extended L2 entries");
	if (a->old.incompatible & QCOW2_INCOMPAT_DATA_FILE)
		return needs_version_3(a, "an external data file");
	if (a->old.refcount_order != 4)
		return needs_version_3(a, "refcount bits other than 16");
	if (a->ext.has_bitmaps)
		return needs_version_3(a, "dirty bitmaps");
	return cow_amend_refuse_clusters(a->loop, a->file, &a->old, a->err);
}

/* ---- snapshots of version 2 need not say how large their disk was ---- */

static bool lacks_sizes(const struct cow_snapshot *list, uint32_t nr)
{
	for (uint32_t i = 0; i < nr; i++)
		if (list[i].extra_bytes < COW_SNAPSHOT_SIZES_BYTES)
			return true;
	return false;
}

static int write_sizes(struct cow_edit *e)
{
	cow_edit_complete_snapshots(e);
	int ret = cow_edit_write_snapshots(e);
	return ret ? ret : cow_edit_commit(e);
}

static int complete_snapshots(struct amend *a)
{
	struct cow_edit e;
	struct cow_snapshot *list;
	uint64_t bytes;
	int ret = cow_load_snapshots(a->loop, a->file, &a->old, &list, &bytes, a->err);
	if (ret)
		return ret;
	bool lacking = lacks_sizes(list, a->old.nr_snapshots);
	cow_snapshots_free(list, a->old.nr_snapshots);
	if (!lacking)
		return 0;
	ret = cow_edit_open(&e, a->loop, a->file, a->err);
	if (ret)
		return ret;
	ret = write_sizes(&e);
	cow_edit_close(&e);
	return ret ? ret : load(a);
}

/* ---- the sector ---- */

/* The area's last extension may lack its padding. */
static size_t copy_extension(struct amend *a, size_t to, size_t at, size_t bytes, size_t end)
{
	memcpy(a->sector + to, a->cluster + at, bytes < end - at ? bytes : end - at);
	return to + bytes;
}

/*
 * Copies what the new version knows of to a->sector from header_bytes on. Returns the offset for
 * END; 0: no room.
 */
static size_t move_extensions(struct amend *a)
{
	size_t at = a->old.header_bytes, to = a->header.header_bytes;
	size_t end = a->old.backing_name_off ? a->old.backing_name_off : cow_cluster_bytes(&a->old);
	while (at + 8 <= end && cow_load32_be(a->cluster + at) != QCOW2_EXT_END) {
		size_t bytes = 8 + (((size_t)cow_load32_be(a->cluster + at + 4) + 7) & ~(size_t)7);
		bool drop = a->header.version == 2 &&
			    cow_load32_be(a->cluster + at) == QCOW2_EXT_FEATURE_NAMES;
		if (!drop && bytes > SECTOR - to)
			return 0;
		if (!drop)
			to = copy_extension(a, to, at, bytes, end);
		at += bytes;
	}
	return SECTOR - to >= END_BYTES ? to : 0;
}

/*
 * Nothing but the name may stand behind the extensions, so there is room up to the cluster's end.
 */
static int move_name_away(struct amend *a)
{
	uint64_t bytes = a->old.backing_name_bytes,
		 sectors = (bytes + SECTOR - 1) & ~(uint64_t)(SECTOR - 1);
	uint64_t to = (a->old.backing_name_off + bytes + SECTOR - 1) & ~(uint64_t)(SECTOR - 1);
	if (to + sectors > cow_cluster_bytes(&a->old))
		return cow_error_set(
			a->err, -EFBIG,
			"no room in the first cluster to move the backing file's name: give it a "
			"shorter one with cowblk rebase -u");
	uint8_t *buf = cow_buf_alloc(sectors);
	if (!buf)
		return cow_error_no_memory(a->err);
	memcpy(buf, a->cluster + a->old.backing_name_off, bytes);
	int ret = cow_loop_write(a->loop, a->file, to, buf, sectors);
	if (!ret)
		ret = cow_loop_sync(a->loop, a->file);
	free(buf);
	a->header.backing_name_off = to;
	return cannot_write(a, ret);
}

/*
 * The name stays where it is, or goes behind the extensions if the sector has room for it, or
 * behind its old place.
 */
static int place_name(struct amend *a, size_t end)
{
	uint64_t off = a->old.backing_name_off, bytes = a->old.backing_name_bytes;
	cow_assert(end <= SECTOR);
	if (!off || off >= SECTOR)
		return 0;
	if (off >= end) {
		memcpy(a->sector + off, a->cluster + off, SECTOR - off);
		return 0;
	}
	if (bytes > SECTOR - end)
		return move_name_away(a);
	memcpy(a->sector + end, a->cluster + off, bytes);
	a->header.backing_name_off = end;
	return 0;
}

/* As QEMU does it, where that leaves the backing file's name alone. */
static size_t add_feature_names(struct amend *a, size_t end)
{
	bool room = end + COW_FEATURE_NAMES_BYTES + END_BYTES <= SECTOR;
	if (a->header.version == 2 || !room ||
	    (a->old.backing_name_off && a->old.backing_name_off < SECTOR))
		return end;
	return cow_feature_names_put(a->sector, end);
}

static int build_sector(struct amend *a)
{
	memset(a->sector, 0, SECTOR);
	size_t end = move_extensions(a);
	if (!end)
		return cow_error_set(a->err, -EFBIG,
				     "the header's extensions would not fit into 512 bytes any "
				     "more, so it cannot "
				     "be changed safely: use qemu-img amend on a copy");
	end = add_feature_names(a, end);
	return place_name(a, end + END_BYTES);
}

/* A header of the same length stays as it is, what we do not know of it too. */
static int write_header(struct amend *a)
{
	int ret = 0;
	if (a->header.version != a->old.version)
		ret = build_sector(a);
	else
		memcpy(a->sector, a->cluster, SECTOR);
	if (ret)
		return ret;
	cow_header_encode(&a->header, a->sector, SECTOR);
	ret = cow_loop_write(a->loop, a->file, 0, a->sector, SECTOR);
	if (!ret)
		ret = cow_loop_sync(a->loop, a->file);
	return cannot_write(a, ret);
}

/* ---- the options ---- */

static int change_version(struct amend *a)
{
	uint32_t version = a->options->version;
	if (!version || version == a->old.version)
		return 0;
	int ret = version == 3 ? complete_snapshots(a) : check_downgrade(a);
	a->header.version = version;
	if (version == 2) { /* nothing of it is in use, or it would have been refused */
		a->header.incompatible = 0;
		a->header.compression_type = QCOW2_COMPRESSION_ZLIB;
	}
	a->header.header_bytes =
		version == 3 ? sizeof(struct qcow2_header_be) : QCOW2_V2_HEADER_LENGTH;
	return ret;
}

static int change_lazy_refcounts(struct amend *a)
{
	if (a->options->lazy_refcounts == COW_AMEND_ON && a->header.version == 2)
		return cow_error_set(a->err, -EINVAL, "lazy refcounts: needs compat=1.1");
	if (a->options->lazy_refcounts == COW_AMEND_ON)
		a->header.compatible |= QCOW2_COMPAT_LAZY_REFCOUNTS;
	if (a->options->lazy_refcounts == COW_AMEND_OFF)
		a->header.compatible &= ~QCOW2_COMPAT_LAZY_REFCOUNTS;
	return 0;
}

static bool changed(const struct amend *a)
{
	return a->header.version != a->old.version || a->header.compatible != a->old.compatible;
}

/* Version and lazy refcounts: one write. */
static int change_header(struct amend *a)
{
	int ret = change_version(a);
	if (!ret)
		ret = change_lazy_refcounts(a);
	if (ret || !changed(a))
		return ret;
	a->header.autoclear &= KEPT_AUTOCLEAR;
	return write_header(a);
}

/* ---- what others do ---- */

/* What is not given stays. */
static int change_backing(struct amend *a)
{
	const struct cow_amend_options *o = a->options;
	const char *format = o->backing_format ? o->backing_format : a->ext.backing_format;
	char was[1024];
	int ret = cow_reference_backing_name(a->cluster, &a->old, was, a->err);
	const char *name = o->backing_file ? o->backing_file : was;
	if (ret || (!o->backing_file && !o->backing_format))
		return ret;
	if (!*name && o->backing_format)
		return cow_error_set(a->err, -EINVAL,
				     "backing_fmt: there is no backing file: name one with "
				     "backing_file");
	if (*name && !*format)
		return cow_error_set(a->err, -EINVAL,
				     "backing_file: its format is not known: name it with "
				     "backing_fmt");
	if (!strcmp(name, was) && (!*name || !strcmp(format, a->ext.backing_format)))
		return 0;
	ret = cow_edit_backing(a->loop, a->file, *name ? name : NULL, format, a->err);
	return ret ? ret : load(a);
}

static int change_width(struct amend *a)
{
	uint32_t bits = a->options->refcount_bits, order = 0;
	while (1u << order < bits)
		order++;
	int ret = bits ? cow_edit_width(a->loop, a->file, order, a->err) : 0;
	return ret || !bits ? ret : load(a);
}

static int change_size(struct amend *a)
{
	struct cow_resize_options resize = { .bytes = a->options->size_bytes };
	return resize.bytes ? cow_resize(a->loop, a->file, &resize, a->err) : 0;
}

static int change_all(struct amend *a)
{
	bool narrow_first = a->options->version == 2;
	int ret = change_backing(a);
	if (!ret && narrow_first)
		ret = change_width(a);
	if (!ret)
		ret = change_header(a);
	if (!ret && !narrow_first)
		ret = change_width(a);
	return ret ? ret : change_size(a);
}

int cow_amend(struct cow_loop *loop, struct cow_file *file, const struct cow_amend_options *options,
	      struct cow_error *err)
{
	struct amend a = { .loop = loop, .file = file, .options = options, .err = err };
	if (options->version == 2 && options->refcount_bits && options->refcount_bits != 16)
		return cow_error_set(err, -EINVAL, "refcount_bits: version 2 has 16");
	int ret = load(&a);
	if (!ret)
		ret = refuse(&a);
	if (!ret)
		ret = change_all(&a);
	free(a.cluster);
	return ret;
}
