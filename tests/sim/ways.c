/* SPDX-License-Identifier: MIT */
#include "tests/sim/ways.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"

#define SECTOR 512u
#define FEW 5u	 /* changes of which every subset is tried */
#define MANY 24u /* the oldest and the newest half of it are tried alone and left out alone */

/* ---- the changes ---- */

static struct sim_way_change *add(struct sim_ways *ways, struct sim_file *f,
				  enum sim_change_kind kind, uint64_t offset, uint64_t length)
{
	if (ways->nr_changes == ways->max_changes) {
		ways->max_changes = ways->max_changes * 2 + 32;
		ways->changes = realloc(ways->changes, ways->max_changes * sizeof(*ways->changes));
		cow_assert(ways->changes);
	}
	struct sim_way_change *c = &ways->changes[ways->nr_changes++];
	*c = (struct sim_way_change){ .file = f, .kind = kind, .offset = offset, .length = length };
	return c;
}

static void add_in_flight(struct sim_ways *ways, const struct sim_pending *p)
{
	const struct cow_io *io = p->io;
	struct sim_file *f = p->io->file ? sim_file_of(io->file) : NULL;
	uint64_t off = io->offset, length = io->length;
	if (p->executed || !f)
		return;
	if (io->kind == COW_IO_RESIZE && !f->fixed) {
		add(ways, f, SIM_RESIZE, off, f->now.size_bytes);
	} else if (io->kind == COW_IO_PUNCH) {
		add(ways, f, SIM_PUNCH, off, length);
	} else if (io->kind == COW_IO_WRITE) {
		off += io->progress_bytes;
		length -= io->progress_bytes;
		if (off + length > f->now.size_bytes && !f->fixed)
			add(ways, f, SIM_RESIZE, off + length, f->now.size_bytes);
		struct sim_way_change *c = add(ways, f, SIM_WRITE, off, length);
		c->data = c->gathered = sim_gather(io);
	}
}

static void gather(struct sim_ways *ways)
{
	struct sim_world *world = ways->world;
	for (struct sim_file *f = world->disk.files; f; f = f->next)
		for (const struct sim_change *c = f->head; c; c = c->next)
			add(ways, f, c->kind, c->offset, c->length)->data = c->data;
	for (unsigned l = 0; l < world->nr_loops; l++)
		for (unsigned i = 0; i < world->loops[l]->nr_pending; i++)
			add_in_flight(ways, world->loops[l]->pending[i]);
}

/* ---- what differs ---- */

static struct sim_way_extent extent_of(const struct sim_way_change *c)
{
	struct sim_way_extent e = { c->file, c->offset, c->offset + c->length };
	if (c->kind == SIM_RESIZE) {
		e.start = c->offset < c->length ? c->offset : c->length;
		e.end = c->offset < c->length ? c->length : c->offset;
	}
	e.start -= e.start % SECTOR;
	e.end += (SECTOR - e.end % SECTOR) % SECTOR;
	return e;
}

static int compare(const void *pa, const void *pb)
{
	const struct sim_way_extent *a = pa, *b = pb;
	if (a->file != b->file)
		return a->file->ino < b->file->ino ? -1 : 1;
	return a->start < b->start ? -1 : a->start > b->start;
}

static void find_extents(struct sim_ways *ways)
{
	unsigned nr = 0;
	ways->extents = calloc(ways->nr_changes + 1, sizeof(*ways->extents));
	cow_assert(ways->extents);
	for (unsigned i = 0; i < ways->nr_changes; i++)
		ways->extents[i] = extent_of(&ways->changes[i]);
	qsort(ways->extents, ways->nr_changes, sizeof(*ways->extents), compare);
	for (unsigned i = 0; i < ways->nr_changes; i++) {
		struct sim_way_extent e = ways->extents[i];
		struct sim_way_extent *last = nr ? &ways->extents[nr - 1] : NULL;
		if (last && last->file == e.file && e.start <= last->end)
			last->end = e.end > last->end ? e.end : last->end;
		else
			ways->extents[nr++] = e;
	}
	ways->nr_extents = nr;
}

static uint64_t sum_files(const struct sim_ways *ways)
{
	uint64_t sum = 0;
	for (const struct sim_file *f = ways->world->disk.files; f; f = f->next)
		sum += sim_store_sum(&f->left, 0, f->left.size_bytes, f->ino);
	return sum;
}

static uint64_t sum_extents(const struct sim_ways *ways)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < ways->nr_extents; i++) {
		const struct sim_way_extent *e = &ways->extents[i];
		sum += sim_store_sum(&e->file->left, e->start, e->end - e->start, e->file->ino);
	}
	return sum;
}

static uint64_t hash_left(const struct sim_ways *ways)
{
	uint64_t hash = sim_mix(ways->rest + sum_extents(ways));
	for (const struct sim_file *f = ways->world->disk.files; f; f = f->next)
		hash = sim_mix(hash ^ f->left.size_bytes) + f->ino;
	return hash;
}

/* ---- the ways ---- */

static unsigned nr_subsets(const struct sim_ways *ways)
{
	unsigned nr = ways->nr_changes;
	return nr <= FEW ? 1u << nr : 2 + 2 * (nr < MANY ? nr : MANY);
}

static bool subset_has(unsigned subset, unsigned idx, unsigned nr)
{
	unsigned tried = nr < MANY ? nr : MANY;
	if (nr <= FEW)
		return subset >> idx & 1;
	if (subset < 2)
		return subset;
	unsigned of = (subset - 2) % tried;
	if (of >= tried / 2)
		of += nr - tried;
	return (of == idx) == (subset - 2 < tried);
}

static bool can_be_torn(const struct sim_way_change *c)
{
	return c->kind != SIM_RESIZE && c->length > SECTOR;
}

/* Sectors first <= i < end of a change, never beyond the end of the file as it came out. */
static void apply(const struct sim_way_change *c, uint64_t first, uint64_t end)
{
	struct sim_store *s = &c->file->left;
	uint64_t from = first * SECTOR, to = end * SECTOR < c->length ? end * SECTOR : c->length;
	if (c->kind == SIM_RESIZE) {
		sim_store_resize(s, c->offset);
		return;
	}
	if (c->offset + to > s->size_bytes)
		to = s->size_bytes > c->offset ? s->size_bytes - c->offset : 0;
	if (from < to && c->kind == SIM_WRITE)
		sim_store_write(s, c->offset + from, c->data + from, to - from);
	else if (from < to)
		sim_store_zero(s, c->offset + from, to - from);
}

static void apply_subset(struct sim_ways *ways, unsigned subset)
{
	for (unsigned i = 0; i < ways->nr_changes; i++)
		if (subset_has(subset, i, ways->nr_changes))
			apply(&ways->changes[i], 0, UINT64_MAX / SECTOR);
}

/* Half of one change, and all others. */
static void apply_torn(struct sim_ways *ways, unsigned torn)
{
	unsigned seen = 0;
	for (unsigned i = 0; i < ways->nr_changes; i++) {
		const struct sim_way_change *c = &ways->changes[i];
		uint64_t first = 0, end = (c->length + SECTOR - 1) / SECTOR;
		bool it = can_be_torn(c) && seen++ == torn / 2;
		if (it && torn % 2)
			first = end / 2;
		else if (it)
			end /= 2;
		apply(c, first, end);
	}
}

static void apply_random(struct sim_ways *ways)
{
	struct sim_random r = { .state = ways->rest ^ ways->nr_changes };
	for (unsigned i = 0; i < ways->nr_changes; i++) {
		const struct sim_way_change *c = &ways->changes[i];
		uint64_t nr = c->kind == SIM_RESIZE ? 1 : (c->length + SECTOR - 1) / SECTOR;
		for (uint64_t s = 0; s < nr; s++)
			if (sim_chance(&r, 50))
				apply(c, s, s + 1);
	}
}

/* `left` becomes what is durable, where ways differ. */
static void undo(struct sim_ways *ways)
{
	static uint8_t buf[4096];
	for (struct sim_file *f = ways->world->disk.files; f; f = f->next)
		sim_store_resize(&f->left, f->durable.size_bytes);
	for (unsigned i = 0; i < ways->nr_extents; i++) {
		const struct sim_way_extent *e = &ways->extents[i];
		uint64_t size = e->file->durable.size_bytes, end = e->end < size ? e->end : size;
		for (uint64_t at = e->start; at < end; at += sizeof(buf)) {
			uint64_t n = end - at < sizeof(buf) ? end - at : sizeof(buf);
			sim_store_read(&e->file->durable, at, buf, n);
			sim_store_write(&e->file->left, at, buf, n);
		}
	}
}

void sim_ways_begin(struct sim_ways *ways, struct sim_world *world)
{
	memset(ways, 0, sizeof(*ways));
	ways->world = world;
	gather(ways);
	find_extents(ways);
	for (struct sim_file *f = world->disk.files; f; f = f->next)
		sim_store_copy(&f->left, &f->durable);
	ways->rest = sum_files(ways) - sum_extents(ways);
	for (unsigned i = 0; i < ways->nr_changes; i++)
		ways->nr_torn += 2 * can_be_torn(&ways->changes[i]);
	ways->nr = nr_subsets(ways) + ways->nr_torn + 1;
}

void sim_ways_end(struct sim_ways *ways)
{
	for (unsigned i = 0; i < ways->nr_changes; i++)
		free(ways->changes[i].gathered);
	free(ways->changes);
	free(ways->extents);
	memset(ways, 0, sizeof(*ways));
}

uint64_t sim_ways_leave(struct sim_ways *ways, unsigned idx)
{
	unsigned subsets = nr_subsets(ways);
	cow_assert(idx < ways->nr);
	undo(ways);
	if (idx < subsets)
		apply_subset(ways, idx);
	else if (idx < subsets + ways->nr_torn)
		apply_torn(ways, idx - subsets);
	else
		apply_random(ways);
	return hash_left(ways);
}

void sim_ways_settle(struct sim_ways *ways, unsigned idx)
{
	sim_ways_leave(ways, idx);
	for (struct sim_file *f = ways->world->disk.files; f; f = f->next)
		sim_disk_replace(f, &f->left);
	sim_ways_end(ways);
}
