/* SPDX-License-Identifier: MIT */
/* See bitmap_extension.h. In this order: finding; writing. */
#include "engine/bitmap/bitmap_extension.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/be.h"
#include "engine/base/full.h"
#include "engine/base/math.h"
#include "engine/core/load.h"
#include "engine/format/geometry.h"
#include "engine/loop/blocking.h"

#define DATA_BYTES sizeof(struct qcow2_bitmaps_ext_be)
#define HEAD_BYTES                                                                                 \
	8u /* type and length; all extensions are 8-aligned, so a sector holds it whole */

struct change {
	struct cow_loop *loop;
	struct cow_file *file;
	struct cow_error *err;
	struct cow_header header;
	uint8_t *cluster; /* the first one, as it is on disk */
	uint64_t off;	  /* of the extension; if there is none: of END */
	uint64_t end;	  /* of END, if there is one and the extension */
	bool found, last; /* last: END follows */
};

/* ---- finding ---- */

/*
 * Lengths are sound: cow_extensions_decode() liked them. False: nothing may be added, for it would
 * not be understood.
 */
static bool find(struct change *c)
{
	const struct cow_header *h = &c->header;
	uint64_t end = h->backing_name_off ? h->backing_name_off : cow_cluster_bytes(h),
		 off = h->header_bytes;
	while (off < end && end - off >= HEAD_BYTES) {
		uint32_t type = cow_load32_be(c->cluster + off),
			 bytes = cow_load32_be(c->cluster + off + 4);
		if (type == QCOW2_EXT_END) {
			c->off = c->found ? c->off : off;
			c->end = off;
			c->last = c->found && off == c->off + HEAD_BYTES + DATA_BYTES;
			return true;
		}
		if (type == QCOW2_EXT_BITMAPS) {
			if (bytes != DATA_BYTES || c->found)
				return false;
			c->off = off;
			c->found = true;
		}
		off += HEAD_BYTES + (((uint64_t)bytes + 7) & ~7ull);
	}
	return c->found;
}

static int load(struct change *c)
{
	struct cow_extensions ext;
	int ret = cow_load_header(c->loop, c->file, &c->header, &c->cluster, c->err);
	if (!ret)
		ret = cow_extensions_decode(c->cluster, &c->header, &ext, c->err);
	if (ret)
		return ret;
	if (!find(c))
		return cow_error_set(
			c->err, -ENOTSUP,
			"its header extensions have no end marker, or there is a broken one: "
			"bitmaps cannot be changed");
	return 0;
}

/* ---- writing ---- */

static bool is_as_before(struct change *c, uint64_t off, uint64_t bytes)
{
	uint8_t *found = malloc(bytes);
	bool same = found && !cow_loop_read(c->loop, c->file, off, found, bytes) &&
		    !memcmp(found, c->cluster + off, bytes);
	free(found);
	return same;
}

/* A full host (copy on write, a thin pool) refuses to overwrite too. */
static int put(struct change *c, uint64_t off, const void *buf, uint64_t bytes)
{
	int ret = cow_loop_write(c->loop, c->file, off, buf, bytes);
	if (ret)
		return cow_full_is(ret) && is_as_before(c, off, bytes) ? ret : -ENOTRECOVERABLE;
	memcpy(c->cluster + off, buf, bytes);
	return cow_loop_sync(c->loop, c->file) ? -ENOTRECOVERABLE : 0;
}

static int set_autoclear(struct change *c, uint64_t now)
{
	uint8_t be[8];
	if (now == c->header.autoclear)
		return 0;
	cow_store64_be(be, now);
	int ret = put(c, offsetof(struct qcow2_header_be, autoclear_features), be, sizeof(be));
	if (!ret)
		c->header.autoclear = now;
	return ret;
}

static int mark_valid(struct change *c)
{
	return set_autoclear(c, c->header.autoclear | QCOW2_AUTOCLEAR_BITMAPS);
}

static int mark_invalid(struct change *c)
{
	return set_autoclear(c, c->header.autoclear & ~QCOW2_AUTOCLEAR_BITMAPS);
}

static void encode(const struct cow_bitmap_place *place, uint8_t out[DATA_BYTES])
{
	memset(out, 0, DATA_BYTES);
	cow_store32_be(out, place->nr);
	cow_store64_be(out + 8, place->directory_bytes);
	cow_store64_be(out + 16, place->directory_off);
}

static int replace(struct change *c, const struct cow_bitmap_place *place)
{
	uint8_t data[DATA_BYTES];
	uint64_t at = c->off + HEAD_BYTES;
	bool one_sector = at / 512 == (at + DATA_BYTES - 1) / 512;
	bool valid = c->header.autoclear & QCOW2_AUTOCLEAR_BITMAPS;
	int ret = one_sector ? 0 : mark_invalid(c);
	encode(place, data);
	if (ret)
		return ret;
	ret = put(c, at, data, sizeof(data));
	if (ret == -ENOTRECOVERABLE)
		return ret;
	int set = !ret || valid ? mark_valid(c) : mark_invalid(c);
	return ret ? ret : set;
}

/* Its old bytes stay until the header names the new ones. */
static int move_name(struct change *c, uint64_t to)
{
	const struct cow_header *h = &c->header;
	uint8_t be[8];
	int ret = put(c, to, c->cluster + h->backing_name_off, h->backing_name_bytes);
	cow_store64_be(be, to);
	return ret ? ret
		   : put(c, offsetof(struct qcow2_header_be, backing_file_offset), be, sizeof(be));
}

/*
 * Room for extension and END from c->off on. *to: where the backing file's name must go for it; 0:
 * it may stay.
 */
static int find_room(struct change *c, uint64_t *to)
{
	const struct cow_header *h = &c->header;
	uint64_t end = c->off + HEAD_BYTES + DATA_BYTES + HEAD_BYTES, limit = cow_cluster_bytes(h),
		 need = end;
	*to = 0;
	if (h->backing_name_off && h->backing_name_off < end) {
		*to = cow_max(cow_round_up(h->backing_name_off + h->backing_name_bytes, 8), end);
		need = *to + h->backing_name_bytes;
	}
	if (need > limit)
		return cow_error_set(
			c->err, -ENOSPC,
			"no room for bitmaps in the header's cluster of %" PRIu64 " bytes", limit);
	return 0;
}

static int append(struct change *c, const struct cow_bitmap_place *place)
{
	uint8_t data[DATA_BYTES + HEAD_BYTES] = { 0 }, head[HEAD_BYTES];
	uint64_t to;
	int ret = find_room(c, &to);
	if (!ret && to)
		ret = move_name(c, to);
	encode(place, data);
	if (!ret)
		ret = put(c, c->off + HEAD_BYTES, data, sizeof(data));
	cow_store32_be(head, QCOW2_EXT_BITMAPS);
	cow_store32_be(head + 4, DATA_BYTES);
	if (!ret)
		ret = put(c, c->off, head, sizeof(head));
	return ret ? ret : mark_valid(c);
}

/* What follows moves up, if that is one sector's change: half of it would be no header. */
static int close_gap(struct change *c)
{
	static const uint64_t gap = HEAD_BYTES + DATA_BYTES;
	uint8_t moved[512] = { 0 };
	if (c->end < c->off + gap || c->off / 512 != (c->end + HEAD_BYTES - 1) / 512)
		return 0;
	memcpy(moved, c->cluster + c->off + gap, c->end - c->off - gap);
	return put(c, c->off, moved, c->end + HEAD_BYTES - c->off);
}

static int take_away(struct change *c)
{
	static const uint8_t end[HEAD_BYTES];
	if (!c->found)
		return 0;
	int ret = mark_invalid(c);
	if (!ret)
		ret = c->last ? put(c, c->off, end, sizeof(end)) : close_gap(c);
	/* Refused: it stays, invalid. */
	return cow_full_is(ret) && !(c->header.autoclear & QCOW2_AUTOCLEAR_BITMAPS) ? 0 : ret;
}

int cow_bitmap_extension_verify(struct cow_loop *loop, struct cow_file *file,
				const struct cow_bitmap_place *place, struct cow_error *err)
{
	struct change c = { .loop = loop, .file = file, .err = err };
	uint64_t to;
	int ret = load(&c);
	if (!ret && place->nr && !c.found)
		ret = find_room(&c, &to);
	free(c.cluster);
	return ret;
}

int cow_bitmap_extension_write(struct cow_loop *loop, struct cow_file *file,
			       const struct cow_bitmap_place *place, struct cow_error *err)
{
	struct change c = { .loop = loop, .file = file, .err = err };
	int ret = load(&c);
	if (!ret && !place->nr)
		ret = take_away(&c);
	else if (!ret)
		ret = c.found ? replace(&c, place) : append(&c, place);
	free(c.cluster);
	return ret ? cow_error_set(err, ret, "cannot write the header: %s",
				   strerror(ret == -ENOTRECOVERABLE ? EIO : -ret))
		   : 0;
}
