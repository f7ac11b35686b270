/* SPDX-License-Identifier: MIT */
#include "tests/sim/disk.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"

#define SECTOR 512u

static void free_change(struct sim_change *c)
{
	free(c->data);
	free(c);
}

static void drop_changes(struct sim_file *f)
{
	while (f->head) {
		struct sim_change *next = f->head->next;
		free_change(f->head);
		f->head = next;
	}
	f->tail = &f->head;
}

void sim_disk_fini(struct sim_disk *disk)
{
	while (disk->files) {
		struct sim_file *f = disk->files;
		disk->files = f->next;
		drop_changes(f);
		sim_store_fini(&f->now);
		sim_store_fini(&f->durable);
		sim_store_fini(&f->left);
		free(f->path);
		free(f);
	}
}

struct sim_file *sim_disk_find(struct sim_disk *disk, const char *path)
{
	struct sim_file *f = disk->files;
	while (f && strcmp(f->path, path))
		f = f->next;
	return f;
}

struct sim_file *sim_disk_create(struct sim_disk *disk, const char *path)
{
	struct sim_file *f = calloc(1, sizeof(*f));
	cow_assert(f);
	f->path = strdup(path);
	f->ino = ++disk->next_ino;
	f->tail = &f->head;
	f->next = disk->files;
	disk->files = f;
	return f;
}

/* ---- changes ---- */

static void apply(struct sim_store *s, const struct sim_change *c)
{
	switch (c->kind) {
	case SIM_WRITE:
		sim_store_write(s, c->offset, c->data, c->length);
		break;
	case SIM_PUNCH:
		sim_store_zero(s, c->offset, c->length);
		break;
	case SIM_RESIZE:
		sim_store_resize(s, c->offset);
		break;
	}
}

static struct sim_change *add(struct sim_file *f, enum sim_change_kind kind, uint64_t offset,
			      uint64_t length, const void *data, const void *owner)
{
	struct sim_change *c = calloc(1, sizeof(*c));
	cow_assert(c);
	c->kind = kind;
	c->offset = offset;
	c->length = length;
	c->owner = owner;
	c->delivered_at = SIM_NOT_DELIVERED;
	if (data) {
		c->data = malloc(length);
		cow_assert(c->data);
		memcpy(c->data, data, length);
	}
	apply(&f->now, c);
	*f->tail = c;
	f->tail = &c->next;
	return c;
}

void sim_file_write(struct sim_file *f, uint64_t offset, const void *data, uint64_t length,
		    const void *owner)
{
	if (offset + length > f->now.size_bytes)
		add(f, SIM_RESIZE, offset + length, f->now.size_bytes, NULL, owner);
	add(f, SIM_WRITE, offset, length, data, owner);
}

void sim_file_punch(struct sim_file *f, uint64_t offset, uint64_t length, const void *owner)
{
	if (offset < f->now.size_bytes) {
		uint64_t room = f->now.size_bytes - offset;
		add(f, SIM_PUNCH, offset, length < room ? length : room, NULL, owner);
	}
}

void sim_file_resize(struct sim_file *f, uint64_t size_bytes, const void *owner)
{
	add(f, SIM_RESIZE, size_bytes, f->now.size_bytes, NULL, owner);
}

void sim_file_delivered(struct sim_disk *disk, struct sim_file *f, const void *owner)
{
	uint64_t now = ++disk->clock;
	for (struct sim_change *c = f->head; c; c = c->next) {
		if (c->owner == owner && c->delivered_at == SIM_NOT_DELIVERED) {
			c->delivered_at = now;
			c->owner = NULL;
		}
	}
}

/* ---- syncs ---- */

uint64_t sim_disk_mark(struct sim_disk *disk)
{
	return ++disk->clock;
}

static void extent(const struct sim_change *c, uint64_t *start, uint64_t *end)
{
	*start = c->offset;
	*end = c->offset + c->length;
	if (c->kind == SIM_RESIZE) {
		*start = c->offset < c->length ? c->offset : c->length;
		*end = UINT64_MAX;
	}
}

static bool overlap(const struct sim_change *a, const struct sim_change *b)
{
	uint64_t a0, a1, b0, b1;
	extent(a, &a0, &a1);
	extent(b, &b0, &b1);
	return a0 < b1 && b0 < a1;
}

/*
 * What came before a covered change to the same bytes cannot come out after it: it is covered with
 * it, and so is what came before that.
 */
static void cover_predecessors(struct sim_file *f)
{
	bool again = true;
	while (again) {
		again = false;
		for (struct sim_change *c = f->head; c; c = c->next) {
			bool was = c->covered;
			for (struct sim_change *later = c->next; later && !c->covered;
			     later = later->next)
				c->covered = later->covered && overlap(c, later);
			again |= c->covered && !was;
		}
	}
}

static void mark_covered(struct sim_file *f, uint64_t mark)
{
	bool holes = false, any = false;
	for (struct sim_change *c = f->head; c; c = c->next) {
		c->covered = c->delivered_at < mark;
		any |= c->covered;
		holes |= !c->covered;
	}
	if (any && holes)
		cover_predecessors(f);
}

void sim_file_sync(struct sim_file *f, uint64_t mark, struct sim_random *r)
{
	struct sim_change **link = &f->head;
	mark_covered(f, mark);
	while (*link) {
		struct sim_change *c = *link;
		if (!c->covered) {
			link = &c->next;
			continue;
		}
		if (!c->doubtful || sim_chance(r, 50))
			apply(&f->durable, c);
		*link = c->next;
		free_change(c);
	}
	f->tail = link;
}

void sim_file_sync_failed(struct sim_file *f, uint64_t mark)
{
	mark_covered(f, mark);
	for (struct sim_change *c = f->head; c; c = c->next)
		c->doubtful |= c->covered;
	f->in_doubt = true;
}

bool sim_disk_in_doubt(const struct sim_disk *disk)
{
	for (const struct sim_file *f = disk->files; f; f = f->next)
		if (f->in_doubt)
			return true;
	return false;
}

/* ---- power loss ---- */

/*
 * Sectors of a write, each with the given chance, never beyond the end of the file as it came out.
 */
static void apply_torn(struct sim_store *s, const struct sim_change *c, unsigned percent,
		       struct sim_random *r)
{
	uint64_t pos = c->offset, end = c->offset + c->length;
	end = end < s->size_bytes ? end : s->size_bytes;
	while (pos < end) {
		uint64_t next = (pos / SECTOR + 1) * SECTOR;
		next = next < end ? next : end;
		if (percent == 100 || sim_chance(r, percent)) {
			if (c->kind == SIM_WRITE)
				sim_store_write(s, pos, c->data + (pos - c->offset), next - pos);
			else
				sim_store_zero(s, pos, next - pos);
		}
		pos = next;
	}
}

static void survive(struct sim_store *s, const struct sim_change *c, unsigned percent,
		    struct sim_random *r)
{
	if (c->kind == SIM_RESIZE) {
		if (sim_chance(r, percent))
			sim_store_resize(s, c->offset);
	} else if (sim_chance(r, 25)) {
		apply_torn(s, c, sim_chance(r, 50) ? percent : 50, r);
	} else if (sim_chance(r, percent)) {
		apply_torn(s, c, 100, r);
	}
}

void sim_disk_replace(struct sim_file *f, const struct sim_store *left)
{
	drop_changes(f);
	f->in_doubt = false;
	sim_store_copy(&f->durable, left);
	sim_store_copy(&f->now, left);
}

void sim_disk_crash(struct sim_disk *disk, enum sim_crash kind, struct sim_random *r)
{
	static const unsigned chances[] = { 0, 10, 50, 50, 90, 100 };
	for (struct sim_file *f = disk->files; f; f = f->next) {
		unsigned percent = chances[sim_below(r, sizeof(chances) / sizeof(chances[0]))];
		if (kind == SIM_CRASH_KILL)
			continue;
		for (struct sim_change *c = f->head; c; c = c->next)
			survive(&f->durable, c, percent, r);
		drop_changes(f);
		f->in_doubt = false;
		sim_store_copy(&f->now, &f->durable);
	}
	/* Whoever owned a change is gone with the process. */
	for (struct sim_file *f = disk->files; f; f = f->next) {
		for (struct sim_change *c = f->head; c; c = c->next) {
			c->owner = NULL;
			if (c->delivered_at == SIM_NOT_DELIVERED)
				c->delivered_at = ++disk->clock;
		}
	}
}
