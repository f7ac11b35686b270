/* SPDX-License-Identifier: MIT */
/* See replay.h. In this order: caches; tables; all of it. */
#include "engine/meta/replay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/base/log.h"
#include "engine/core/core.h"
#include "engine/loop/blocking.h"
#include "engine/meta/cache.h"
#include "engine/meta/outlive.h"
#include "engine/meta/table.h"

/*
 * Who filled the memory had met a hostile image: nothing in it is believed that could lead elsewhere
 * than into the image.
 */
#define MOST_SLOTS (1ull << 28)
#define MOST_ENTRIES (1ull << 28)

struct replay {
	struct cow_core *core;
	struct cow_loop *loop;
	int fd;
	uint8_t *buf;	    /* of a slice, or a block of a table */
	uint64_t nr_writes; /* in this phase */
	uint64_t nr_slices, nr_blocks;
};

static int sync_files(struct replay *r)
{
	int ret = cow_loop_sync(r->loop, r->core->file);
	if (!ret && r->core->data != r->core->file)
		ret = cow_loop_sync(r->loop, r->core->data);
	return ret;
}

/* A barrier before the first write of a phase. */
static int write_at(struct replay *r, uint64_t off, const void *data, size_t bytes)
{
	int ret = r->nr_writes++ ? 0 : sync_files(r);
	if (ret)
		return ret;
	uint64_t size = r->core->file->size_bytes;
	if (off % bytes || off > size || bytes > size - off)
		return -EUCLEAN; /* never of ours */
	memcpy(r->buf, data, bytes);
	return cow_loop_write(r->loop, r->core->file, off, r->buf, bytes);
}

/* ---- caches ---- */

/* Their locks are gone with those who held them. */
COW_NO_ANALYSIS
static int write_slots(struct replay *r, const struct cow_outlive_cache *place,
		       const struct cow_slot *slots, const uint8_t *data)
{
	int ret = 0;
	for (uint64_t i = 0; i < place->nr_slots && !ret; i++) {
		const struct cow_slot *slot = &slots[i];
		if (slot->state != COW_SLOT_READY || !(slot->dirty || slot->writing))
			continue;
		r->nr_slices++;
		ret = write_at(r, slot->key, data + i * place->slice_bytes, place->slice_bytes);
	}
	return ret;
}

static int write_cache(struct replay *r, const struct cow_outlive_cache *place)
{
	r->nr_writes = 0;
	if (place->slot_bytes != sizeof(struct cow_slot) || !place->nr_slots ||
	    place->nr_slots > MOST_SLOTS || place->slice_bytes < 512 ||
	    place->slice_bytes > 1u << QCOW2_MAX_CLUSTER_BITS ||
	    (place->slice_bytes & (place->slice_bytes - 1)))
		return -EUCLEAN;
	size_t slots_bytes = place->nr_slots * sizeof(struct cow_slot);
	size_t data_bytes = place->nr_slots * place->slice_bytes;
	const void *slots = cow_shared_map_left(r->fd, place->slots_off, slots_bytes);
	const void *data = cow_shared_map_left(r->fd, place->data_off, data_bytes);
	r->buf = cow_buf_alloc(place->slice_bytes);
	int ret = !r->buf ? -ENOMEM : slots && data ? 0 : -EUCLEAN;
	if (!ret)
		ret = write_slots(r, place, slots, data);
	free(r->buf);
	cow_shared_unmap_left(slots, slots_bytes);
	cow_shared_unmap_left(data, data_bytes);
	return ret;
}

/* ---- tables ---- */

static void encode_block(const uint64_t *entries, uint8_t *block)
{
	for (unsigned i = 0; i < COW_TABLE_BLOCK_ENTRIES; i++)
		cow_store64_be(block + i * 8, entries[i]);
}

static int write_blocks(struct replay *r, const struct cow_outlive_table *place,
			const uint64_t *entries, const uint8_t *state)
{
	uint8_t block[COW_TABLE_BLOCK_BYTES];
	int ret = 0;
	for (uint64_t i = 0; i < place->capacity / COW_TABLE_BLOCK_ENTRIES && !ret; i++) {
		if (!state[i])
			continue;
		r->nr_blocks++;
		encode_block(entries + i * COW_TABLE_BLOCK_ENTRIES, block);
		ret = write_at(r, place->off + i * COW_TABLE_BLOCK_BYTES, block, sizeof(block));
	}
	return ret;
}

static int write_table(struct replay *r, const struct cow_outlive_table *place)
{
	if (!place->capacity || place->capacity > MOST_ENTRIES)
		return -EUCLEAN;
	size_t entries_bytes = place->capacity * sizeof(uint64_t);
	size_t state_bytes = place->capacity / COW_TABLE_BLOCK_ENTRIES;
	r->nr_writes = 0;
	const void *entries = cow_shared_map_left(r->fd, place->entries_off, entries_bytes);
	const void *state = cow_shared_map_left(r->fd, place->state_off, state_bytes);
	r->buf = cow_buf_alloc(COW_TABLE_BLOCK_BYTES);
	int ret = !r->buf ? -ENOMEM : entries && state ? 0 : -EUCLEAN;
	if (!ret)
		ret = write_blocks(r, place, entries, state);
	free(r->buf);
	cow_shared_unmap_left(entries, entries_bytes);
	cow_shared_unmap_left(state, state_bytes);
	return ret;
}

/* ---- all of it ---- */

static int write_all(struct replay *r, const struct cow_outlive_head *head)
{
	int ret = write_cache(r, &head->refs);
	if (!ret)
		ret = write_table(r, &head->reftable);
	if (!ret)
		ret = write_cache(r, &head->l2);
	if (!ret)
		ret = write_table(r, &head->l1);
	return ret ? ret : sync_files(r);
}

static int replay(struct replay *r, const struct cow_outlive_head *head, struct cow_error *err)
{
	if (atomic_load(&head->failed))
		return cow_error_set(err, -ENOTRECOVERABLE,
				     "the image was in doubt before its daemon died: see the log");
	int ret = write_all(r, head);
	if (ret)
		return cow_error_set(err, ret,
				     "cannot write what the daemon that died had changed: %s",
				     strerror(-ret));
	cow_log(COW_LOG_INFO,
		"%s: wrote what was only in the memory of the daemon that died: "
		"%llu pieces of L2 tables and refcount blocks, %llu of other tables",
		r->core->path, (unsigned long long)r->nr_slices, (unsigned long long)r->nr_blocks);
	return 0;
}

int cow_replay(struct cow_core *core, struct cow_loop *loop, int fd, bool *left,
	       struct cow_error *err)
{
	struct replay r = { .core = core, .loop = loop, .fd = fd };
	const struct cow_outlive_head *head = cow_shared_map_left(fd, 0, sizeof(*head));
	int ret = 0;
	bool open = head && atomic_load(&head->magic) == COW_OUTLIVE_MAGIC;
	*left = open || (head && atomic_load(&head->leaks));
	if (open && head->version != COW_OUTLIVE_VERSION)
		ret = cow_error_set(err, -ENOTSUP, "the daemon that died was of another version");
	else if (open)
		ret = replay(&r, head, err);
	cow_shared_unmap_left(head, sizeof(*head));
	return ret;
}
