/* SPDX-License-Identifier: MIT */
/* See table.h. In this order: set-up; entries; writeback. */
#include "engine/meta/table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/be.h"
#include "engine/base/math.h"
#include "engine/format/geometry.h"
#include "engine/meta/outlive.h"

/* ---- set-up ---- */

static uint64_t blocks_of(uint64_t entries)
{
	return (entries + COW_TABLE_BLOCK_ENTRIES - 1) / COW_TABLE_BLOCK_ENTRIES;
}

/* Only touched where the table is. */
static int take_memory(struct cow_table *table, const struct cow_table_config *config)
{
	int ret = cow_shared_take(config->shared, table->capacity * sizeof(uint64_t),
				  &table->entries_part);
	if (!ret)
		ret = cow_shared_take(config->shared, blocks_of(table->capacity),
				      &table->state_part);
	if (ret)
		return ret;
	table->entries = table->entries_part.memory;
	table->state = table->state_part.memory;
	if (!config->shared)
		return 0;
	table->place = config->place;
	*table->place = (struct cow_outlive_table){
		.entries_off = table->entries_part.off,
		.state_off = table->state_part.off,
		.capacity = table->capacity,
		.off = config->off,
		.nr = config->nr,
	};
	return 0;
}

int cow_table_init(struct cow_table *table, const struct cow_table_config *config)
{
	memset(table, 0, sizeof(*table));
	cow_mutex_init(&table->lock, COW_RANK_L1);
	cow_waitlist_init(&table->limited);
	cow_waitlist_init(&table->warned);
	table->capacity =
		blocks_of(cow_max(config->capacity, config->nr) + 1) * COW_TABLE_BLOCK_ENTRIES;
	int ret = take_memory(table, config);
	table->off = config->off;
	table->nr = config->nr;
	table->max_dirty = config->max_dirty;
	table->need_writeback = config->need_writeback;
	table->ctx = config->ctx;
	return ret;
}

void cow_table_fini(struct cow_table *table)
{
	cow_shared_unmap(&table->entries_part);
	cow_shared_unmap(&table->state_part);
	table->entries = NULL;
	table->state = NULL;
}

void cow_table_load(struct cow_table *table, const uint8_t *be, uint64_t nr)
{
	cow_assert(nr <= table->capacity);
	for (uint64_t i = 0; i < nr; i++)
		atomic_store_explicit(&table->entries[i], cow_load64_be(be + i * 8),
				      memory_order_relaxed);
}

/* ---- entries ---- */

bool cow_table_may_set(struct cow_table *table, uint64_t idx, struct cow_task *task)
{
	struct cow_loop *loop = task->loop;
	uint8_t *state = &table->state[idx / COW_TABLE_BLOCK_ENTRIES];
	cow_mutex_lock(&table->lock);
	cow_assert(idx < table->nr);
	bool room = true;
	if (!*state) {
		room = table->nr_dirty < table->max_dirty;
		if (room)
			table->nr_dirty++;
	}
	if (room)
		*state |= COW_TABLE_DIRTY;
	else
		cow_waitlist_park(&table->limited, task,
				  "a writeback pass: too much of a table is dirty");
	cow_mutex_unlock(&table->lock);
	if (!room)
		table->need_writeback(table->ctx, loop);
	return room;
}

void cow_table_set(struct cow_table *table, uint64_t idx, uint64_t value)
{
	cow_mutex_lock(&table->lock);
	cow_assert(idx < table->nr);
	uint8_t *state = &table->state[idx / COW_TABLE_BLOCK_ENTRIES];
	if (!*state) /* captured and written between may_set and here: one block over the limit does not hurt */
		table->nr_dirty++;
	*state |= COW_TABLE_DIRTY;
	atomic_store_explicit(&table->entries[idx], value, memory_order_release);
	cow_mutex_unlock(&table->lock);
}

void cow_table_move(struct cow_table *table, uint64_t off, uint64_t nr)
{
	cow_mutex_lock(&table->lock);
	cow_assert(table->nr_dirty == 0 && nr <= table->capacity);
	table->off = off;
	table->nr = nr;
	if (table->place) {
		table->place->off = off;
		table->place->nr = nr;
		cow_outlive_order();
	}
	cow_mutex_unlock(&table->lock);
}

void cow_table_encode(const struct cow_table *table, uint64_t idx, uint64_t nr, uint8_t *be)
{
	for (uint64_t i = 0; i < nr; i++)
		cow_store64_be(be + i * 8, cow_table_get(table, idx + i));
}

/* ---- writeback ---- */

unsigned cow_table_capture(struct cow_table *table, uint8_t *buf, struct cow_table_block *out)
{
	unsigned nr = 0;
	cow_mutex_lock(&table->lock);
	uint64_t blocks = table->nr_dirty ? blocks_of(table->nr) : 0;
	for (uint64_t b = 0; b < blocks && nr < table->max_dirty + COW_TABLE_SLACK; b++) {
		if (!(table->state[b] & COW_TABLE_DIRTY))
			continue;
		cow_table_encode(table, b * COW_TABLE_BLOCK_ENTRIES, COW_TABLE_BLOCK_ENTRIES,
				 buf + (size_t)nr * COW_TABLE_BLOCK_BYTES);
		cow_assert(!(table->state[b] & COW_TABLE_WRITING)); /* one pass at a time */
		table->state[b] = COW_TABLE_WRITING;
		out[nr].idx = b;
		out[nr].off = table->off + b * COW_TABLE_BLOCK_BYTES;
		nr++;
	}
	cow_mutex_unlock(&table->lock);
	return nr;
}

void cow_table_complete(struct cow_table *table, const struct cow_table_block *blocks, unsigned nr,
			int error)
{
	struct cow_waitlist wake;
	cow_waitlist_init(&wake);
	cow_mutex_lock(&table->lock);
	for (unsigned i = 0; i < nr; i++) {
		uint8_t *state = &table->state[blocks[i].idx];
		cow_assert((*state & COW_TABLE_WRITING) && table->nr_dirty);
		if (error)
			*state |= COW_TABLE_DIRTY;
		cow_outlive_order();
		*state &= (uint8_t)~COW_TABLE_WRITING;
		if (!*state)
			table->nr_dirty--;
	}
	cow_waitlist_take(&table->warned, &wake);
	cow_waitlist_take(&table->limited, error == -ENOSPC ? &table->warned : &wake);
	struct cow_loop *loop = table->warned.head ? table->warned.head->loop : NULL;
	cow_mutex_unlock(&table->lock);
	if (loop)
		table->need_writeback(table->ctx, loop);
	cow_waitlist_wake(&wake, error);
}
