/* SPDX-License-Identifier: MIT */
/*
 * The name goes behind the extensions if the header's sector has room for it, else to a place in the
 * first cluster where neither the old one nor the old extensions are; it is durable before the sector
 * is written.
 */
#include "engine/edit/edit_backing.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/core/load.h"
#include "engine/core/switch.h"
#include "engine/format/format.h"
#include "engine/loop/blocking.h"

#define SECTOR COW_SWITCH_BYTES
#define END_BYTES 8u /* the extension that ends them, all zeros */
#define MAX_NAME_BYTES 1023u
/* Guest data and its place do not change. */
#define KEPT_AUTOCLEAR (QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_DATA_FILE_RAW)

struct backing_edit {
	struct cow_loop *loop;
	struct cow_file *file;
	const char *name, *format;
	struct cow_error *err;
	struct cow_header old, header; /* as it stands; as it shall be */
	uint8_t *cluster;	       /* the first one, as it stands */
	size_t old_end;		       /* of its extensions */
	uint8_t sector[SECTOR];	       /* its first sector, as it shall be */
};

static int refuse(struct backing_edit *b)
{
	if (b->old.incompatible & (QCOW2_INCOMPAT_CORRUPT | QCOW2_INCOMPAT_DIRTY))
		return cow_error_set(b->err, -EROFS,
				     "the image is marked %s: repair it with cowblk check "
				     "--repair all",
				     b->old.incompatible & QCOW2_INCOMPAT_CORRUPT ? "corrupt"
										  : "dirty");
	if (b->name && (b->old.autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW))
		return cow_error_set(b->err, -ENOTSUP,
				     "its data file is a raw image, which has no backing file");
	if (b->name && strlen(b->name) > MAX_NAME_BYTES)
		return cow_error_set(b->err, -ENAMETOOLONG,
				     "backing file: the name is longer than 1023 bytes");
	return 0;
}

static int no_room(struct backing_edit *b, const char *what)
{
	return cow_error_set(b->err, -EFBIG,
			     "%s would not fit into the first %s, so the image cannot be changed "
			     "safely: convert it instead",
			     what, b->name ? "cluster" : "512 bytes");
}

/* ---- the sector ---- */

/* All but the format's; feature names, which nobody needs, only if asked for. 0: no room. */
static size_t copy_extensions(struct backing_edit *b, bool names)
{
	const struct cow_header *h = &b->old;
	size_t at = h->header_bytes, to = at;
	size_t end = h->backing_name_off ? h->backing_name_off : cow_cluster_bytes(h);
	memset(b->sector, 0, SECTOR);
	memcpy(b->sector, b->cluster, cow_min(at, SECTOR));
	while (at + 8 <= end && cow_load32_be(b->cluster + at) != QCOW2_EXT_END) {
		uint32_t type = cow_load32_be(b->cluster + at);
		size_t bytes = 8 + cow_round_up(cow_load32_be(b->cluster + at + 4), 8);
		bool drop = type == QCOW2_EXT_BACKING_FORMAT ||
			    (type == QCOW2_EXT_FEATURE_NAMES && !names);
		if (!drop && to + bytes > SECTOR)
			return 0;
		if (!drop) {
			/* the last one may lack its padding */
			memcpy(b->sector + to, b->cluster + at, cow_min(bytes, end - at));
			to += bytes;
		}
		at += bytes;
	}
	b->old_end = at + END_BYTES;
	return to;
}

static size_t add_format(struct backing_edit *b, size_t to)
{
	if (!b->name || !to)
		return to;
	size_t bytes = strlen(b->format), padded = cow_round_up(bytes, 8);
	if (to + 8 + padded > SECTOR)
		return 0;
	cow_store32_be(b->sector + to, QCOW2_EXT_BACKING_FORMAT);
	cow_store32_be(b->sector + to + 4, (uint32_t)bytes);
	memcpy(b->sector + to + 8, b->format, bytes);
	return to + 8 + padded;
}

static int build_sector(struct backing_edit *b, size_t *end)
{
	for (int names = 1; names >= 0; names--) {
		size_t to = add_format(b, copy_extensions(b, names));
		*end = to + END_BYTES;
		if (to && *end <= SECTOR)
			return 0;
	}
	return no_room(b, "the header's extensions");
}

/* ---- the name ---- */

/* Outside of the sector, in whole sectors; what is there now is the image's until the switch. */
static int write_name(struct backing_edit *b)
{
	uint64_t bytes = strlen(b->name), room = cow_round_up(bytes, SECTOR);
	uint64_t to = cow_max(SECTOR, cow_round_up(b->old_end, SECTOR));
	uint64_t old_end = b->old.backing_name_off + b->old.backing_name_bytes;
	if (b->old.backing_name_off && b->old.backing_name_off < to + room && old_end > to)
		to = cow_round_up(old_end, SECTOR);
	cow_assert(to >= SECTOR && to % SECTOR == 0); /* not where the header is switched */
	if (to + room > cow_cluster_bytes(&b->old))
		return no_room(b, "the backing file's name");
	uint8_t *buf = cow_buf_alloc(room);
	if (!buf)
		return cow_error_no_memory(b->err);
	memcpy(buf, b->name, bytes);
	int ret = cow_loop_write(b->loop, b->file, to, buf, room);
	free(buf);
	b->header.backing_name_off = to;
	return ret;
}

static int place_name(struct backing_edit *b, size_t end)
{
	size_t bytes = b->name ? strlen(b->name) : 0;
	cow_assert(end <= SECTOR);
	b->header.backing_name_off = 0;
	b->header.backing_name_bytes = (uint32_t)bytes;
	if (!bytes)
		return 0;
	if (bytes > SECTOR - end)
		return write_name(b);
	memcpy(b->sector + end, b->name, bytes);
	b->header.backing_name_off = end;
	return 0;
}

static int change(struct backing_edit *b)
{
	size_t end;
	bool begun;
	int ret = refuse(b);
	if (!ret)
		ret = build_sector(b, &end);
	if (!ret)
		ret = place_name(b, end);
	if (ret)
		return ret;
	b->header.autoclear &= KEPT_AUTOCLEAR;
	cow_header_encode(&b->header, b->sector, SECTOR);
	return cow_switch_header(b->loop, b->file, b->sector, &begun);
}

int cow_edit_backing(struct cow_loop *loop, struct cow_file *file, const char *name,
		     const char *format, struct cow_error *err)
{
	struct backing_edit b = {
		.loop = loop, .file = file, .name = name, .format = format, .err = err
	};
	int ret = cow_load_header(loop, file, &b.old, &b.cluster, err);
	if (ret)
		return ret;
	b.header = b.old;
	ret = change(&b);
	free(b.cluster);
	return ret ? cow_error_set(err, ret, "the header cannot be written: %s", strerror(-ret))
		   : 0;
}
