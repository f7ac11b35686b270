/* SPDX-License-Identifier: MIT */
#include "tests/sim/ways.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/math.h"

#define SECTOR 512u
#define FEW 5u	 /* changes of which every subset is tried */
#define MANY 24u /* the oldest and the newest half of it are tried alone and left out alone */

/* ---- the changes ---- */

static struct sim_way_change *add(struct sim_ways *ways, struct memory_file *f,
				  struct memory_change change)
{
	if (ways->nr_changes == ways->max_changes) {
		ways->max_changes = ways->max_changes * 2 + 32;
		ways->changes = realloc(ways->changes, ways->max_changes * sizeof(*ways->changes));
		cow_assert(ways->changes);
	}
	struct sim_way_change *c = &ways->changes[ways->nr_changes++];
	*c = (struct sim_way_change){ .file = f, .change = change };
	return c;
}

static void add_resize(struct sim_ways *ways, struct memory_file *f, uint64_t size_bytes)
{
	add(ways, f,
	    (struct memory_change){
		    .kind = MEMORY_RESIZE, .offset = size_bytes, .length = f->now.size_bytes });
}

static void add_in_flight(struct sim_ways *ways, const struct sim_pending *p)
{
	const struct cow_io *io = p->io;
	struct memory_file *f = p->io->file ? memory_file_of(io->file) : NULL;
	uint64_t off = memory_rest_offset(io), length = memory_rest_bytes(io);
	if (p->executed || !f)
		return;
	if (io->kind == COW_IO_RESIZE && !f->fixed) {
		add_resize(ways, f, io->offset);
	} else if (io->kind == COW_IO_PUNCH) {
		add(ways, f,
		    (struct memory_change){
			    .kind = MEMORY_PUNCH, .offset = io->offset, .length = io->length });
	} else if (io->kind == COW_IO_WRITE) {
		if (off + length > f->now.size_bytes && !f->fixed)
			add_resize(ways, f, off + length);
		uint8_t *data = memory_gather(io, length);
		add(ways, f,
		    (struct memory_change){
			    .kind = MEMORY_WRITE, .offset = off, .length = length, .data = data })
			->gathered = data;
	}
}

static void gather(struct sim_ways *ways)
{
	struct sim_world *world = ways->world;
	for (struct memory_file *f = world->disk.files; f; f = f->next)
		for (const struct memory_change *c = f->head; c; c = c->next)
			add(ways, f, *c);
	for (unsigned l = 0; l < world->nr_loops; l++)
		for (unsigned i = 0; i < world->loops[l]->nr_pending; i++)
			add_in_flight(ways, world->loops[l]->pending[i]);
}

/* ---- what differs ---- */

static struct sim_way_extent extent_of(const struct sim_way_change *way)
{
	const struct memory_change *c = &way->change;
	struct sim_way_extent e = { way->file, c->offset, c->offset + c->length };
	if (c->kind == MEMORY_RESIZE) {
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

/*
 * Of all words there, each at its place: sums of parts add up to that of the whole. Aligned to 8;
 * zeros count nothing.
 */
static uint64_t sum_left(const struct memory_file *f, uint64_t offset, uint64_t end)
{
	const struct memory_content *c = &f->left;
	uint64_t sum = 0, word, n;
	end = cow_min(end, c->end_block * MEMORY_BLOCK_BYTES);
	for (; offset < end; offset += n) {
		n = cow_min(MEMORY_BLOCK_BYTES - offset % MEMORY_BLOCK_BYTES, end - offset);
		bool hole = memory_content_is_hole(c, offset);
		for (uint64_t at = offset; !hole && at < offset + n; at += sizeof(word)) {
			memcpy(&word, c->bytes + at, sizeof(word));
			if (word)
				sum += sim_mix(word ^ sim_mix(at + (f->ino << 48)));
		}
	}
	return sum;
}

/* `left` becomes what is durable: at most moments it is so from the last one. Its sum. */
static uint64_t take_durable(struct memory_file *f)
{
	if (f->left_nr != f->nr_durable + 1) {
		memory_content_copy(&f->left, &f->durable);
		f->left_sum = sum_left(f, 0, f->left.size_bytes);
		f->left_nr = f->nr_durable + 1;
	}
	return f->left_sum;
}

static uint64_t sum_extents(const struct sim_ways *ways)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < ways->nr_extents; i++) {
		const struct sim_way_extent *e = &ways->extents[i];
		sum += sum_left(e->file, e->start, e->end);
	}
	return sum;
}

static uint64_t hash_left(const struct sim_ways *ways)
{
	uint64_t hash = sim_mix(ways->rest + sum_extents(ways));
	for (const struct memory_file *f = ways->world->disk.files; f; f = f->next)
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
	return c->change.kind != MEMORY_RESIZE && c->change.length > SECTOR;
}

static uint64_t nr_sectors(const struct sim_way_change *c)
{
	return c->change.kind == MEMORY_RESIZE ? 1 : (c->change.length + SECTOR - 1) / SECTOR;
}

/* Sectors first <= i < end of a change. */
static void apply(const struct sim_way_change *c, uint64_t first, uint64_t end)
{
	if (c->change.kind == MEMORY_RESIZE)
		memory_content_resize(&c->file->left, c->change.offset);
	else
		memory_change_apply_part(&c->change, &c->file->left, first * SECTOR,
					 cow_min(end * SECTOR, c->change.length));
}

static void apply_subset(struct sim_ways *ways, unsigned subset)
{
	for (unsigned i = 0; i < ways->nr_changes; i++)
		if (subset_has(subset, i, ways->nr_changes))
			apply(&ways->changes[i], 0, nr_sectors(&ways->changes[i]));
}

/* Half of one change, and all others. */
static void apply_torn(struct sim_ways *ways, unsigned torn)
{
	unsigned seen = 0;
	for (unsigned i = 0; i < ways->nr_changes; i++) {
		const struct sim_way_change *c = &ways->changes[i];
		uint64_t first = 0, end = nr_sectors(c);
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
		for (uint64_t s = 0; s < nr_sectors(c); s++)
			if (sim_chance(&r, 50))
				apply(c, s, s + 1);
	}
}

static void undo_extent(const struct sim_way_extent *e)
{
	struct memory_content *left = &e->file->left;
	const struct memory_content *durable = &e->file->durable;
	uint64_t end = cow_min(e->end, durable->size_bytes);
	for (uint64_t at = e->start, n; at < end; at += n) {
		uint64_t block = cow_round_down(at, MEMORY_BLOCK_BYTES);
		n = cow_min(block + MEMORY_BLOCK_BYTES, end) - at;
		if (memory_content_is_hole(durable, at))
			memory_content_zero(left, block, MEMORY_BLOCK_BYTES);
		else
			memory_content_write(left, at, durable->bytes + at, n);
	}
}

/* `left` becomes what is durable, where ways differ. */
static void undo(struct sim_ways *ways)
{
	for (struct memory_file *f = ways->world->disk.files; f; f = f->next)
		memory_content_resize(&f->left, f->durable.size_bytes);
	for (unsigned i = 0; i < ways->nr_extents; i++)
		undo_extent(&ways->extents[i]);
}

void sim_ways_begin(struct sim_ways *ways, struct sim_world *world)
{
	memset(ways, 0, sizeof(*ways));
	ways->world = world;
	gather(ways);
	find_extents(ways);
	for (struct memory_file *f = world->disk.files; f; f = f->next)
		ways->rest += take_durable(f);
	ways->rest -= sum_extents(ways);
	for (unsigned i = 0; i < ways->nr_changes; i++)
		ways->nr_torn += 2 * can_be_torn(&ways->changes[i]);
	ways->nr = nr_subsets(ways) + ways->nr_torn + 1;
}

void sim_ways_end(struct sim_ways *ways)
{
	undo(ways);
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
	for (struct memory_file *f = ways->world->disk.files; f; f = f->next)
		memory_file_replace(f, &f->left);
	sim_ways_end(ways);
}
