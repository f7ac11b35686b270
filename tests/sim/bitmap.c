/* SPDX-License-Identifier: MIT */
#include "tests/sim/bitmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/bitmap/tracking.h"
#include "engine/life/live_bitmap.h"
#include "tests/sim/run.h"

#define TOP "/sim/top"
#define NAME "b"
#define UNKNOWN UINT64_MAX /* a sector that could not be read */

/* What a sector holds now. */
static uint64_t content(const struct sim_cell *cell)
{
	uint64_t id = UNKNOWN;
	unsigned alive = 0;
	for (unsigned i = 0; i < cell->nr; i++) {
		if (cell->versions[i].died != SIM_NEVER)
			continue;
		id = cell->versions[i].id;
		alive++;
	}
	return alive == 1 ? id : UNKNOWN;
}

static bool differs(const struct sim_run *run, const struct sim_bitmap_state *is, uint64_t sector)
{
	uint64_t now = content(&run->model.cells[sector]);
	return now != UNKNOWN && is->base[sector] != UNKNOWN && now != is->base[sector];
}

static void copy_state(const struct sim_run *run, struct sim_bitmap_state *to,
		       const struct sim_bitmap_state *from)
{
	to->present = from->present;
	to->enabled = from->enabled;
	memcpy(to->base, from->base, run->model.nr_sectors * sizeof(*to->base));
	memcpy(to->must, from->must, run->model.nr_sectors * sizeof(*to->must));
}

/* It becomes what a command makes of it. */
static void take_effect(const struct sim_run *run, struct sim_bitmap_state *is,
			enum cow_bitmap_command command)
{
	bool clear = command == COW_BITMAP_ADD || command == COW_BITMAP_CLEAR;
	if (command == COW_BITMAP_ADD || command == COW_BITMAP_REMOVE)
		is->present = is->enabled = command == COW_BITMAP_ADD;
	for (uint64_t s = 0; s < run->model.nr_sectors; s++) {
		if (command == COW_BITMAP_DISABLE)
			is->must[s] |= differs(run, is, s);
		if (clear)
			is->must[s] = false;
		if (clear || command == COW_BITMAP_ENABLE)
			is->base[s] = content(&run->model.cells[s]);
	}
	if (command == COW_BITMAP_DISABLE || command == COW_BITMAP_ENABLE)
		is->enabled = command == COW_BITMAP_ENABLE;
}

static void prepare(struct sim_run *run)
{
	struct sim_bitmap *b = &run->bitmap;
	if (b->dirty)
		return;
	for (unsigned i = 0; i < 2; i++) {
		b->is[i].base = calloc(run->model.nr_sectors, sizeof(*b->is[i].base));
		b->is[i].must = calloc(run->model.nr_sectors, sizeof(*b->is[i].must));
		cow_assert(b->is[i].base && b->is[i].must);
	}
	b->dirty = calloc(run->model.nr_sectors, sizeof(*b->dirty));
	cow_assert(b->dirty);
}

static struct cow_bitmap_change change_of(const struct sim_run *run,
					  enum cow_bitmap_command command)
{
	unsigned granularity = (unsigned)run->script->config.bitmap;
	return (struct cow_bitmap_change){ .command = command,
					   .name = NAME,
					   .granularity_bits = granularity ? granularity : 9 };
}

static struct cow_file *open_file(struct sim_run *run, unsigned flags)
{
	struct cow_error err = { 0 };
	struct cow_file *file;
	if (run->world.disk.host.ops->open(&run->world.disk.host, TOP, flags, &file, &err))
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
	run->world.disk.host.ops->close(file);
	if (ret == -ENOSPC) /* a header of 512 bytes that is full */
		return;
	if (ret)
		sim_fail("bitmap: %s", err.text);
	prepare(run);
	for (unsigned i = 0; i < 2; i++)
		take_effect(run, &b->is[i], COW_BITMAP_ADD);
	b->found = SIM_BITMAP_BELIEVED;
	b->found_enabled = true;
}

void sim_bitmap_fini(struct sim_run *run)
{
	for (unsigned i = 0; i < 2; i++) {
		free(run->bitmap.is[i].base);
		free(run->bitmap.is[i].must);
	}
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

/* Does the file call it enabled? */
static bool is_enabled(struct sim_run *run, struct cow_file *file)
{
	struct cow_tracking_directory dir;
	struct cow_error err = { 0 };
	bool enabled = false;
	int ret = cow_tracking_load_directory(&dir, &run->control->base, file, &err);
	for (uint32_t i = 0; !ret && i < dir.nr; i++)
		if (!strcmp(dir.list[i].name, NAME))
			enabled = dir.list[i].flags & COW_BITMAP_AUTO;
	free(dir.list);
	return enabled;
}

void sim_bitmap_look(struct sim_run *run, bool clean)
{
	struct sim_bitmap *b = &run->bitmap;
	struct cow_error err = { 0 };
	struct cow_dirty d;
	if (!b->dirty)
		return;
	bool may_be_there = b->is[0].present || b->is[1].present;
	bool may_be_gone = !b->is[0].present || !b->is[1].present;
	struct cow_file *file = open_file(run, 0);
	int ret = cow_bitmap_dump(&run->control->base, file, NAME, &d, &err);
	b->found_enabled = !ret && is_enabled(run, file);
	run->world.disk.host.ops->close(file);
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
	if (ret == -ENOENT && !may_be_gone && !run->world.faults.nr_injected &&
	    !run->world.faults.nr_full)
		sim_fail("the bitmap is gone");
	if (ret != -ENOENT && !may_be_there)
		sim_fail("the bitmap is there, although it was removed");
	if (ret && clean && b->tracked)
		sim_fail("bitmap, after a clean close: %s", err.text);
	b->tracked = false;
}

/* ---- open ---- */

void sim_bitmap_outlived(struct sim_run *run)
{
	struct sim_bitmap *b = &run->bitmap;
	struct cow_error err = { 0 };
	struct cow_dirty d;
	if (!b->dirty || b->found != SIM_BITMAP_INCONSISTENT)
		return;
	sim_loop_come(run->visitor);
	int ret = cow_image_dump_bitmap(run->image, &run->visitor->base, NAME, &d, &err);
	sim_loop_leave(run->visitor);
	if (ret && !run->outlive.twice && !sim_guest_excused(run))
		sim_fail("the bitmap of a killed process is lost: %s", err.text);
	if (ret)
		return;
	take_extents(b, &d, run->model.nr_sectors);
	cow_dirty_fini(&d);
	b->found = SIM_BITMAP_BELIEVED;
	b->found_enabled = true; /* else it were not kept */
	run->stats.bitmaps_outlived++;
}

static bool covers(const struct sim_run *run, const struct sim_bitmap_state *is)
{
	for (uint64_t s = 0; is->present && s < run->model.nr_sectors; s++) {
		bool must = is->must[s] || (is->enabled && differs(run, is, s));
		if (must && !run->bitmap.dirty[s])
			return false;
	}
	return is->present;
}

/* A header of one small cluster that is full, a device that is. */
static bool may_refuse(const struct sim_run *run, int error)
{
	const struct sim_config *c = &run->script->config;
	return error == -ENOSPC && (c->cluster_bits == 9 || c->block_device);
}

/* False: it did not succeed, for a good reason. */
static bool command(struct sim_run *run, enum cow_bitmap_command what)
{
	const struct cow_bitmap_change change = change_of(run, what);
	struct cow_error err = { 0 };
	sim_loop_come(run->visitor);
	int ret = cow_image_change_bitmaps(run->image, &run->visitor->base, &change, NULL, &err);
	sim_loop_leave(run->visitor);
	if (ret && !run->world.powered_off && !sim_guest_excused(run) && !may_refuse(run, ret))
		sim_fail("bitmap %s: %s", cow_bitmap_command_name(what), err.text);
	return !ret && !run->world.powered_off;
}

/* False: it did not succeed. What came of it then is seen at the next look. */
static bool change(struct sim_run *run, enum cow_bitmap_command what)
{
	struct sim_bitmap *b = &run->bitmap;
	copy_state(run, &b->is[1], &b->is[0]);
	take_effect(run, &b->is[1], what);
	bool ok = command(run, what);
	if (ok)
		copy_state(run, &b->is[0], &b->is[1]);
	b->tracked = ok && b->is[0].present;
	run->stats.bitmaps += ok;
	return ok;
}

/* Clear from now on, if the commands succeed. */
static void renew(struct sim_run *run)
{
	struct sim_bitmap *b = &run->bitmap;
	if (b->found == SIM_BITMAP_BELIEVED) {
		COW_IGNORE(change(run, COW_BITMAP_CLEAR));
		return;
	}
	b->is[0].present = false;
	if (b->found == SIM_BITMAP_INCONSISTENT && !command(run, COW_BITMAP_REMOVE))
		return;
	COW_IGNORE(change(run, COW_BITMAP_ADD));
}

void sim_bitmap_command(struct sim_run *run, const struct sim_action *a)
{
	struct sim_bitmap *b = &run->bitmap;
	if (cow_image_failure(run->image))
		return;
	prepare(run);
	bool present = b->is[0].present, enabled = b->is[0].enabled;
	switch (a->length % SIM_NR_BITMAP_WHATS) {
	case SIM_BITMAP_ADD:
		COW_IGNORE(change(run, present ? COW_BITMAP_CLEAR : COW_BITMAP_ADD));
		break;
	case SIM_BITMAP_TOGGLE:
		if (present)
			COW_IGNORE(change(run, enabled ? COW_BITMAP_DISABLE : COW_BITMAP_ENABLE));
		break;
	default:
		if (present)
			COW_IGNORE(change(run, COW_BITMAP_REMOVE));
	}
}

uint64_t sim_bitmap_hash(const struct sim_run *run)
{
	const struct sim_bitmap *b = &run->bitmap;
	uint64_t hash = b->tracked;
	for (unsigned i = 0; i < 2 && b->dirty; i++) {
		const struct sim_bitmap_state *is = &b->is[i];
		hash = sim_mix(hash + 4 + 2 * is->present + is->enabled);
		for (uint64_t s = 0; is->present && s < run->model.nr_sectors; s++)
			hash = sim_mix(hash ^ (2 * is->base[s] + is->must[s])) + s;
	}
	return hash;
}

/* Which of the two states a command that was cut off has left. */
static void settle(struct sim_run *run)
{
	struct sim_bitmap *b = &run->bitmap;
	bool gone = b->found == SIM_BITMAP_GONE, sure = b->found == SIM_BITMAP_BELIEVED || gone;
	for (unsigned i = 0; i < 2 && sure; i++) {
		const struct sim_bitmap_state *is = &b->is[i];
		if (is->present == gone || (!gone && is->enabled != b->found_enabled))
			continue;
		if (i)
			copy_state(run, &b->is[0], is);
		return;
	}
	/* What could not be read once was not kept, and is gone since the next write. */
	bool was_hit = run->world.faults.nr_injected || run->world.faults.nr_full;
	if (sure && !(gone && was_hit) && !sim_guest_excused(run))
		sim_fail("the bitmap is neither what it was before a command nor what that makes "
			 "of it");
	b->is[0].present &= !gone;
}

void sim_bitmap_judge(struct sim_run *run)
{
	struct sim_bitmap *b = &run->bitmap;
	bool wanted = b->is[0].present || b->is[1].present;
	if (!b->dirty || run->world.powered_off)
		return;
	if (b->found == SIM_BITMAP_BELIEVED && !covers(run, &b->is[0]) && !covers(run, &b->is[1]))
		sim_fail("the bitmap is not in use, but does not cover what was written since it "
			 "was clear");
	run->stats.believed += b->found == SIM_BITMAP_BELIEVED;
	b->tracked = b->found == SIM_BITMAP_BELIEVED;
	settle(run);
	if (wanted && !cow_image_failure(run->image) &&
	    (b->found != SIM_BITMAP_BELIEVED || sim_chance(&run->random, 25)))
		renew(run);
}
