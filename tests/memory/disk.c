/* SPDX-License-Identifier: MIT */
#include "tests/memory/disk.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/math.h"
#include "tests/memory/handle.h"

#define SECTOR 512u

static void free_change(struct memory_change *c)
{
	free(c->data);
	free(c);
}

static void drop_changes(struct memory_file *f)
{
	while (f->head) {
		struct memory_change *next = f->head->next;
		free_change(f->head);
		f->head = next;
	}
	f->tail = &f->head;
}

static uint64_t any_below(void *ctx, uint64_t n)
{
	return (uint64_t)rand() % n;
}

void memory_disk_init(struct memory_disk *disk, uint64_t capacity_bytes)
{
	*disk = (struct memory_disk){ .host.ops = &memory_host_ops,
				      .capacity_bytes = capacity_bytes,
				      .below = any_below };
}

void memory_disk_fini(struct memory_disk *disk)
{
	while (disk->files) {
		struct memory_file *f = disk->files;
		disk->files = f->next;
		drop_changes(f);
		memory_content_fini(&f->now);
		memory_content_fini(&f->durable);
		memory_content_fini(&f->left);
		free(f->path);
		free(f);
	}
}

struct memory_file *memory_disk_find(const struct memory_disk *disk, const char *path)
{
	struct memory_file *f = disk->files;
	while (f && !disk->one_file && strcmp(f->path, path))
		f = f->next;
	return f;
}

struct memory_file *memory_disk_create(struct memory_disk *disk, const char *path)
{
	struct memory_file *f = calloc(1, sizeof(*f));
	cow_assert(f && !memory_content_init(&f->now, disk->capacity_bytes));
	if (disk->volatile_cache)
		cow_assert(!memory_content_init(&f->durable, disk->capacity_bytes));
	f->disk = disk;
	f->path = strdup(path);
	f->ino = ++disk->last_ino;
	f->tail = &f->head;
	f->next = disk->files;
	disk->files = f;
	return f;
}

/* ---- changes ---- */

static void apply(struct memory_content *s, const struct memory_change *c)
{
	switch (c->kind) {
	case MEMORY_WRITE:
		memory_content_write(s, c->offset, c->data, c->length);
		break;
	case MEMORY_PUNCH:
		memory_content_zero(s, c->offset, c->length);
		break;
	case MEMORY_RESIZE:
		memory_content_resize(s, c->offset);
		break;
	}
}

/* c->data becomes the file's. */
static void add(struct memory_file *f, struct memory_change c)
{
	apply(&f->now, &c);
	if (!f->disk->volatile_cache) {
		free(c.data);
		return;
	}
	c.delivered_at = MEMORY_NOT_DELIVERED;
	struct memory_change *kept = malloc(sizeof(*kept));
	cow_assert(kept);
	*kept = c;
	*f->tail = kept;
	f->tail = &kept->next;
}

void memory_file_give(struct memory_file *f, uint64_t offset, uint8_t *data, uint64_t length,
		      const void *owner)
{
	if (offset + length > f->now.size_bytes)
		memory_file_resize(f, offset + length, owner);
	add(f, (struct memory_change){ .kind = MEMORY_WRITE,
				       .offset = offset,
				       .length = length,
				       .data = data,
				       .owner = owner });
}

void memory_file_write(struct memory_file *f, uint64_t offset, const void *data, uint64_t length,
		       const void *owner)
{
	uint8_t *copy = malloc(length ? length : 1);
	cow_assert(copy);
	memcpy(copy, data, length);
	memory_file_give(f, offset, copy, length, owner);
}

void memory_file_punch(struct memory_file *f, uint64_t offset, uint64_t length, const void *owner)
{
	if (offset < f->now.size_bytes)
		add(f,
		    (struct memory_change){ .kind = MEMORY_PUNCH,
					    .offset = offset,
					    .length = cow_min(length, f->now.size_bytes - offset),
					    .owner = owner });
}

void memory_file_resize(struct memory_file *f, uint64_t size_bytes, const void *owner)
{
	add(f, (struct memory_change){ .kind = MEMORY_RESIZE,
				       .offset = size_bytes,
				       .length = f->now.size_bytes,
				       .owner = owner });
}

void memory_file_delivered(struct memory_file *f, const void *owner)
{
	uint64_t now = ++f->disk->clock;
	for (struct memory_change *c = f->head; c; c = c->next) {
		if (c->owner == owner && c->delivered_at == MEMORY_NOT_DELIVERED) {
			c->delivered_at = now;
			c->owner = NULL;
		}
	}
}

/* ---- syncs ---- */

uint64_t memory_disk_mark(struct memory_disk *disk)
{
	return ++disk->clock;
}

static void extent(const struct memory_change *c, uint64_t *start, uint64_t *end)
{
	*start = c->offset;
	*end = c->offset + c->length;
	if (c->kind == MEMORY_RESIZE) {
		*start = c->offset < c->length ? c->offset : c->length;
		*end = UINT64_MAX;
	}
}

static bool overlap(const struct memory_change *a, const struct memory_change *b)
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
static void cover_predecessors(struct memory_file *f)
{
	bool again = true;
	while (again) {
		again = false;
		for (struct memory_change *c = f->head; c; c = c->next) {
			bool was = c->covered;
			for (struct memory_change *later = c->next; later && !c->covered;
			     later = later->next)
				c->covered = later->covered && overlap(c, later);
			again |= c->covered && !was;
		}
	}
}

static void mark_covered(struct memory_file *f, uint64_t mark)
{
	bool holes = false, any = false;
	for (struct memory_change *c = f->head; c; c = c->next) {
		c->covered = c->delivered_at < mark;
		any |= c->covered;
		holes |= !c->covered;
	}
	if (any && holes)
		cover_predecessors(f);
}

static bool chance(const struct memory_disk *disk, unsigned percent)
{
	return disk->below(disk->below_ctx, 100) < percent;
}

void memory_file_sync(struct memory_file *f, uint64_t mark)
{
	struct memory_change **link = &f->head;
	mark_covered(f, mark);
	f->nr_durable++;
	while (*link) {
		struct memory_change *c = *link;
		if (!c->covered) {
			link = &c->next;
			continue;
		}
		if (!c->doubtful || chance(f->disk, 50))
			apply(&f->durable, c);
		*link = c->next;
		free_change(c);
	}
	f->tail = link;
}

void memory_file_sync_failed(struct memory_file *f, uint64_t mark)
{
	mark_covered(f, mark);
	for (struct memory_change *c = f->head; c; c = c->next)
		c->doubtful |= c->covered;
	f->in_doubt = true;
}

bool memory_disk_in_doubt(const struct memory_disk *disk)
{
	for (const struct memory_file *f = disk->files; f; f = f->next)
		if (f->in_doubt)
			return true;
	return false;
}

/* ---- power loss ---- */

void memory_change_apply_part(const struct memory_change *c, struct memory_content *content,
			      uint64_t from, uint64_t to)
{
	uint64_t size = content->size_bytes;
	to = cow_min(to, size > c->offset ? size - c->offset : 0);
	if (from < to && c->kind == MEMORY_WRITE)
		memory_content_write(content, c->offset + from, c->data + from, to - from);
	else if (from < to)
		memory_content_zero(content, c->offset + from, to - from);
}

/* Sectors of it, each with the given chance. */
static void apply_torn(struct memory_file *f, const struct memory_change *c, unsigned percent)
{
	uint64_t end =
		cow_min(c->length,
			f->durable.size_bytes > c->offset ? f->durable.size_bytes - c->offset : 0);
	for (uint64_t at = 0, next; at < end; at = next) {
		next = cow_min(at + SECTOR - (c->offset + at) % SECTOR, end);
		if (percent == 100 || chance(f->disk, percent))
			memory_change_apply_part(c, &f->durable, at, next);
	}
}

static void survive(struct memory_file *f, const struct memory_change *c, unsigned percent)
{
	const struct memory_disk *disk = f->disk;
	if (c->kind == MEMORY_RESIZE) {
		if (chance(disk, percent))
			memory_content_resize(&f->durable, c->offset);
	} else if (chance(disk, 25)) {
		apply_torn(f, c, chance(disk, 50) ? percent : 50);
	} else if (chance(disk, percent)) {
		apply_torn(f, c, 100);
	}
}

void memory_file_settle(struct memory_file *f)
{
	drop_changes(f);
	f->in_doubt = false;
	f->nr_durable++;
	if (f->disk->volatile_cache)
		memory_content_copy(&f->durable, &f->now);
}

void memory_file_replace(struct memory_file *f, const struct memory_content *left)
{
	memory_content_copy(&f->now, left);
	memory_file_settle(f);
}

void memory_disk_crash(struct memory_disk *disk, enum memory_crash kind)
{
	static const unsigned chances[] = { 0, 10, 50, 50, 90, 100 };
	cow_assert(disk->volatile_cache);
	for (struct memory_file *f = disk->files; f; f = f->next) {
		unsigned percent =
			chances[disk->below(disk->below_ctx, sizeof(chances) / sizeof(chances[0]))];
		if (kind == MEMORY_CRASH_KILL)
			continue;
		for (struct memory_change *c = f->head; c; c = c->next)
			survive(f, c, percent);
		drop_changes(f);
		f->in_doubt = false;
		f->nr_durable++;
		memory_content_copy(&f->now, &f->durable);
	}
	/* Whoever owned a change is gone with the process. */
	for (struct memory_file *f = disk->files; f; f = f->next) {
		for (struct memory_change *c = f->head; c; c = c->next) {
			c->owner = NULL;
			if (c->delivered_at == MEMORY_NOT_DELIVERED)
				c->delivered_at = ++disk->clock;
		}
	}
}
