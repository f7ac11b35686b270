/* SPDX-License-Identifier: MIT */
/* See salvage.h. In this order: the list; what stands there instead; reading. */
#include "engine/tool/salvage.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/math.h"

#define SECTOR 512u

/* ---- the list ---- */

void cow_salvage_init(struct cow_salvage *s)
{
	*s = (struct cow_salvage){ 0 };
	cow_mutex_init(&s->lock, COW_RANK_WALK);
}

void cow_salvage_fini(struct cow_salvage *s)
{
	cow_mutex_fini(&s->lock);
	free(s->noted);
	*s = (struct cow_salvage){ 0 };
}

bool cow_salvage_takes(int error)
{
	return error && error != -ENOMEM && error != -ECANCELED;
}

static int by_offset(const void *a, const void *b)
{
	uint64_t x = ((const struct cow_lost *)a)->off, y = ((const struct cow_lost *)b)->off;
	return (x > y) - (x < y);
}

/* In order, and ranges that touch are one. */
static void join_locked(struct cow_salvage *s) COW_REQUIRES(findings, s->lock);
static void join_locked(struct cow_salvage *s)
{
	size_t n = 0;
	if (s->nr_noted)
		qsort(s->noted, s->nr_noted, sizeof(*s->noted), by_offset);
	for (size_t i = 0; i < s->nr_noted; i++) {
		struct cow_lost *r = &s->noted[i], *last = n ? &s->noted[n - 1] : NULL;
		if (last && r->off <= last->off + last->bytes)
			last->bytes =
				cow_max(last->off + last->bytes, r->off + r->bytes) - last->off;
		else
			s->noted[n++] = *r;
	}
	s->nr_noted = n;
}

static int make_room_locked(struct cow_salvage *s) COW_REQUIRES(findings, s->lock);
static int make_room_locked(struct cow_salvage *s)
{
	if (s->nr_noted < s->room || s->overflowed)
		return 0;
	join_locked(s);
	if (s->nr_noted < s->room / 2 || s->room == COW_SALVAGE_MOST)
		return 0;
	size_t room = s->room ? s->room * 2 : 64;
	struct cow_lost *more = reallocarray(s->noted, room, sizeof(*more));
	if (!more)
		return -ENOMEM;
	s->noted = more;
	s->room = room;
	return 0;
}

static bool append_locked(struct cow_salvage *s, uint64_t off, uint64_t bytes)
	COW_REQUIRES(findings, s->lock);
static bool append_locked(struct cow_salvage *s, uint64_t off, uint64_t bytes)
{
	struct cow_lost *last = s->nr_noted ? &s->noted[s->nr_noted - 1] : NULL;
	if (last && last->off + last->bytes == off) {
		last->bytes += bytes;
		return true;
	}
	if (s->nr_noted == s->room)
		return false;
	s->noted[s->nr_noted++] = (struct cow_lost){ off, bytes };
	return true;
}

int cow_salvage_note(struct cow_salvage *s, uint64_t off, uint64_t bytes)
{
	cow_assert(bytes);
	cow_mutex_lock(&s->lock);
	int ret = make_room_locked(s);
	if (!ret && !append_locked(s, off, bytes))
		s->overflowed = true;
	cow_mutex_unlock(&s->lock);
	return ret;
}

void cow_salvage_finish(struct cow_salvage *s)
{
	cow_mutex_alone(&s->lock);
	join_locked(s);
	s->ranges = s->noted;
	s->nr = s->nr_noted;
	s->too_many = s->overflowed;
	s->bytes = 0;
	for (size_t i = 0; i < s->nr; i++)
		s->bytes += s->ranges[i].bytes;
}

/* ---- what stands there instead ---- */

void cow_salvage_fill(const struct cow_salvage *s, uint64_t off, uint64_t bytes, uint8_t *buf)
{
	cow_assert(!(off % SECTOR) && !(bytes % SECTOR));
	memset(buf, 0, bytes);
	for (uint64_t at = 0; s->mark && at < bytes; at += SECTOR)
		snprintf((char *)buf + at, SECTOR, "cowblk convert: lost: sector at %" PRIu64 "\n",
			 off + at);
}

/* ---- reading ---- */

static int lose(struct cow_salvage *s, uint64_t off, uint64_t bytes, uint8_t *buf)
{
	cow_salvage_fill(s, off, bytes, buf);
	return cow_salvage_note(s, off, bytes);
}

/* Halves of it, down to sectors: what can be read is read. At most 20 deep. */
static int narrow(struct cow_salvage *s, struct cow_concat_lane *lane, uint64_t off, uint64_t bytes,
		  uint8_t *buf)
{
	int ret = cow_concat_lane_read(lane, off, bytes, buf);
	if (!ret)
		return 0;
	if (!cow_salvage_takes(ret))
		return ret;
	if (bytes <= SECTOR)
		return lose(s, off, bytes, buf);
	uint64_t half = cow_round_up(bytes / 2, SECTOR);
	ret = narrow(s, lane, off, half, buf);
	return ret ? ret : narrow(s, lane, off + half, bytes - half, buf + half);
}

/* What the mapping has in one piece: up to *bytes, which become those that are done. */
static int read_extent(struct cow_salvage *s, struct cow_concat_lane *lane, uint64_t off,
		       uint64_t *bytes, uint8_t *buf)
{
	struct cow_extent e;
	int ret = cow_concat_lane_extent(lane, off, *bytes, &e);
	if (ret && !cow_salvage_takes(ret))
		return ret;
	cow_assert(e.bytes && e.bytes <= *bytes);
	*bytes = e.bytes;
	if (ret)
		return lose(s, off, e.bytes, buf);
	if (!e.packed)
		return narrow(s, lane, off, e.bytes, buf);
	ret = cow_concat_lane_read(lane, off, e.bytes, buf);
	return cow_salvage_takes(ret) ? lose(s, off, e.bytes, buf) : ret;
}

int cow_salvage_read(struct cow_salvage *s, struct cow_concat_lane *lane, uint64_t off,
		     uint64_t bytes, uint8_t *buf)
{
	int ret = cow_concat_lane_read(lane, off, bytes, buf);
	if (!cow_salvage_takes(ret))
		return ret;
	ret = 0;
	for (uint64_t n; bytes && !ret; off += n, buf += n, bytes -= n) {
		n = bytes;
		ret = read_extent(s, lane, off, &n, buf);
	}
	return ret;
}
