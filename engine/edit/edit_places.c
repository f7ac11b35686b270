/* SPDX-License-Identifier: MIT */
#include "engine/edit/edit_places.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/math.h"
#include "engine/core/load.h"

#define HEAD_BYTES 8u  /* type and length */
#define DATA_BYTES 24u /* of the bitmaps' extension; its last 8 are the directory's offset */

enum names { WITH_NAMES, WITHOUT };

/*
 * What follows the extensions in the sector, a backing file's name, stays where it is: they take no more
 * room than before. False: the bitmaps' is not in the sector.
 */
static bool lay_out(struct cow_edit *e, const uint8_t *cluster, enum names names)
{
	const struct cow_header *h = &e->header;
	uint64_t end = h->backing_name_off ? h->backing_name_off : cow_cluster_bytes(h);
	uint64_t at = h->header_bytes, to = at, limit = cow_min(end, sizeof(e->places.sector));
	memcpy(e->places.sector, cluster, sizeof(e->places.sector));
	e->places.bitmaps_at = 0;
	while (at + HEAD_BYTES <= end && cow_load32_be(cluster + at) != QCOW2_EXT_END) {
		uint32_t type = cow_load32_be(cluster + at);
		uint64_t bytes = HEAD_BYTES + cow_round_up(cow_load32_be(cluster + at + 4), 8);
		if (type != QCOW2_EXT_FEATURE_NAMES || names == WITH_NAMES) {
			if (to + bytes > limit)
				return false;
			memcpy(e->places.sector + to, cluster + at, bytes);
			if (type == QCOW2_EXT_BITMAPS)
				e->places.bitmaps_at = to;
			to += bytes;
		}
		at += bytes;
	}
	if (to + HEAD_BYTES <= limit)
		memset(e->places.sector + to, 0, HEAD_BYTES); /* END */
	return e->places.bitmaps_at && (to + HEAD_BYTES <= limit || to == end);
}

int cow_edit_load_places(struct cow_edit *e)
{
	struct cow_header h;
	uint8_t *cluster;
	if (!e->ext.has_bitmaps)
		return 0;
	int ret = cow_load_header(e->loop, e->file, &h, &cluster, e->err);
	if (ret)
		return ret;
	e->places.can = lay_out(e, cluster, WITH_NAMES) || lay_out(e, cluster, WITHOUT);
	free(cluster);
	return 0;
}

void cow_edit_place_bitmaps(struct cow_edit *e, uint64_t off)
{
	cow_assert(e->places.can && e->places.bitmaps_at && !e->committed);
	e->ext.bitmap_directory_off = off;
	cow_store64_be(e->places.sector + e->places.bitmaps_at + HEAD_BYTES + DATA_BYTES - 8, off);
	e->places.changed = true;
}
