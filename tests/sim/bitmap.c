/* SPDX-License-Identifier: MIT */
#include "tests/sim/bitmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/life/live_bitmap.h"
#include "tests/sim/run.h"

#define TOP "/sim/top"
#define NAME "b"
#define UNKNOWN UINT64_MAX /* a sector that could not be read */

/* What the disk holds now. */
static void remember(struct sim_run *run, uint64_t *ids)
{
	for (uint64_t s = 0; s < run->model.nr_sectors; s++)
		ids[s] = run->model.cells[s].nr == 1 ? run->model.cells[s].versions[0].id : UNKNOWN;
}

static struct cow_bitmap_change change_of(const struct sim_run *run,
					  enum cow_bitmap_command command)
{
	return (struct cow_bitmap_change){ .command = command,
					   .name = NAME,
					   .granularity_bits =
						   (unsigned)run->script->config.bitmap };
}

static struct cow_file *open_file(struct sim_run *run, unsigned flags)
{
	struct cow_error err = { 0 };
	struct cow_file *file;
	if (run->world.host.ops->open(&run->world.host, TOP, flags, &file, &err))
		sim_fail("open for the bitmap: %s", err.text);
	return file;
}

void sim_bitmap_create(struct sim_run *run)
{
	const struct cow_bitmap_change change = change_of(run, COW_BITMAP_ADD);
	struct sim_bitmap *b = &run->bitmap;
	struct cow_error err = { 0 };
	if (!run->script->config.bitmap)
		return;
	struct cow_file *file = open_file(run, COW_OPEN_WRITE);
	int ret = cow_bitmap_run(&run->control->base, file, &change, &err);
	run->world.host.ops->close(file);
	if (ret == -ENOSPC) /* a header of 512 bytes that is full */
		return;
	if (ret)
		sim_fail("bitmap: %s", err.text);
	for (unsigned i = 0; i < 2; i++) {
		b->base[i] = calloc(run->model.nr_sectors, sizeof(*b->base[i]));
		cow_assert(b->base[i]);
		remember(run, b->base[i]);
	}
	b->dirty = calloc(run->model.nr_sectors, sizeof(*b->dirty));
	cow_assert(b->dirty);
	b->found = SIM_BITMAP_BELIEVED;
}

void sim_bitmap_fini(struct sim_run *run)
{
	free(run->bitmap.base[0]);
	free(run->bitmap.base[1]);
	free(run->bitmap.dirty);
}

/* ---- closed ---- */

static void take_extents(struct sim_bitmap *b, const struct cow_dirty *d, uint64_t nr_sectors)
{
	uint64_t off = 0, bytes;
	memset(b->dirty, 0, nr_sectors * sizeof(*b->dirty));
	for (; cow_dirty_next(d, &off, &bytes); off += bytes)
		for (uint64_t s = off / SIM_SECTOR; s < (off + bytes) / SIM_SECTOR; s++)
			b->dirty[s] = true;
}

void sim_bitmap_look(struct sim_run *run, bool clean)
{
	struct sim_bitmap *b = &run->bitmap;
	struct cow_error err = { 0 };
	struct cow_dirty d;
	if (!b->base[0])
		return;
	struct cow_file *file = open_file(run, 0);
	int ret = cow_bitmap_dump(&run->control->base, file, NAME, &d, &err);
	run->world.host.ops->close(file);
	if (!ret)
		take_extents(b, &d, run->model.nr_sectors);
	if (!ret)
		cow_dirty_fini(&d);
	if (run->world.powered_off)
		return;
	b->found = !ret		    ? SIM_BITMAP_BELIEVED
		   : ret == -ENOENT ? SIM_BITMAP_GONE
				    : SIM_BITMAP_INCONSISTENT;
	if (ret && !strstr(err.text, ret == -ENOENT ? "there is no" : "is inconsistent"))
		sim_fail("bitmap: %s", err.text);
	if (ret == -ENOENT && !b->may_be_gone && !run->world.faults.nr_injected &&
	    !run->world.faults.nr_full)
		sim_fail("the bitmap is gone");
	if (ret && clean && b->tracked)
		sim_fail("bitmap, after a clean close: %s", err.text);
	b->tracked = false;
}

/* ---- open ---- */

static bool covers(const struct sim_run *run, const uint64_t *base)
{
	for (uint64_t s = 0; s < run->model.nr_sectors; s++) {
		const struct sim_cell *cell = &run->model.cells[s];
		bool differs =
			cell->nr == 1 && base[s] != UNKNOWN && cell->versions[0].id != base[s];
		if (differs && !run->bitmap.dirty[s])
			return false;
	}
	return true;
}

/* False: it did not succeed, for a good reason. */
static bool command(struct sim_run *run, enum cow_bitmap_command what)
{
	const struct cow_bitmap_change change = change_of(run, what);
	struct cow_error err = { 0 };
	sim_loop_come(run->visitor);
	int ret = cow_image_change_bitmaps(run->image, &run->visitor->base, &change, NULL, &err);
	sim_loop_leave(run->visitor);
	if (ret && !run->world.powered_off && !sim_guest_excused(run))
		sim_fail("bitmap %s: %s", cow_bitmap_command_name(what), err.text);
	return !ret && !run->world.powered_off;
}

/*
 * Clear from now on, if the commands succeed; what comes of them otherwise is seen at the next
 * look.
 */
static void renew(struct sim_run *run)
{
	struct sim_bitmap *b = &run->bitmap;
	bool anew = b->found != SIM_BITMAP_BELIEVED, ok = true;
	remember(run, b->base[1]);
	b->may_be_gone |= anew;
	if (b->found == SIM_BITMAP_INCONSISTENT)
		ok = command(run, COW_BITMAP_REMOVE);
	if (ok)
		ok = command(run, anew ? COW_BITMAP_ADD : COW_BITMAP_CLEAR);
	b->tracked = ok;
	if (ok || anew)
		memcpy(b->base[0], b->base[1], run->model.nr_sectors * sizeof(*b->base[0]));
	if (ok)
		b->may_be_gone = false;
	run->stats.bitmaps += ok;
}

void sim_bitmap_judge(struct sim_run *run)
{
	struct sim_bitmap *b = &run->bitmap;
	if (!b->base[0] || run->world.powered_off)
		return;
	if (b->found == SIM_BITMAP_BELIEVED && !covers(run, b->base[0]) && !covers(run, b->base[1]))
		sim_fail("the bitmap is not in use, but does not cover what was written since it "
			 "was clear");
	run->stats.believed += b->found == SIM_BITMAP_BELIEVED;
	b->tracked = b->found == SIM_BITMAP_BELIEVED;
	if (!cow_image_failure(run->image) &&
	    (b->found != SIM_BITMAP_BELIEVED || sim_chance(&run->random, 25)))
		renew(run);
}
