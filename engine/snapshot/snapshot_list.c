/* SPDX-License-Identifier: MIT */
/* See snapshot_list.h. */
#include "engine/snapshot/snapshot_list.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"

#define EXTRA_BYTES 24u /* VM state size, disk size, instruction count: what QEMU writes */

/* ---- finding ---- */

static bool matches(const struct cow_snapshot *s, const struct cow_snapshot_key *key)
{
	return (key->by != COW_SNAPSHOT_BY_NAME && !strcmp(s->id, key->text)) ||
	       (key->by != COW_SNAPSHOT_BY_ID && !strcmp(s->name, key->text));
}

int cow_snapshot_find(const struct cow_snapshot *list, uint32_t nr,
		      const struct cow_snapshot_key *key, uint32_t *idx, struct cow_error *err)
{
	uint32_t found = 0;
	for (uint32_t i = 0; i < nr; i++) {
		if (!matches(&list[i], key))
			continue;
		*idx = i;
		found++;
	}
	if (!found)
		return cow_error_set(err, -ENOENT, "no snapshot has the %s '%s'",
				     key->by == COW_SNAPSHOT_BY_ID     ? "id"
				     : key->by == COW_SNAPSHOT_BY_NAME ? "name"
								       : "id or name",
				     key->text);
	if (found > 1)
		return cow_error_set(err, -EINVAL,
				     "'%s' fits %" PRIu32 " snapshots: say which by its id",
				     key->text, found);
	return 0;
}

/* The smallest that no snapshot has; 0: out of memory. */
static unsigned long free_id(const struct cow_snapshot *list, uint32_t nr)
{
	bool *taken = calloc(nr + 2ul, sizeof(*taken));
	unsigned long id = 1;
	if (!taken)
		return 0;
	for (uint32_t i = 0; i < nr; i++) {
		unsigned long n = strtoul(list[i].id, NULL, 10);
		if (n <= nr)
			taken[n] = true;
	}
	while (taken[id])
		id++;
	free(taken);
	return id;
}

/*
 * As QEMU numbers them: the largest and one more. Behind the largest number that there can be comes
 * the first that is free.
 */
static char *next_id(const struct cow_snapshot *list, uint32_t nr)
{
	unsigned long next = 0;
	char *id;
	for (uint32_t i = 0; i < nr; i++) {
		unsigned long n = strtoul(list[i].id, NULL, 10);
		next = n > next ? n : next;
	}
	if (++next == 0)
		next = free_id(list, nr);
	return !next || asprintf(&id, "%lu", next) < 0 ? NULL : id;
}

/* ---- adding and removing ---- */

int cow_snapshot_list_may_add(const struct cow_snapshot *list, const struct cow_header *h,
			      const char *name, struct cow_error *err)
{
	const struct cow_snapshot_key key = { .text = name, .by = COW_SNAPSHOT_BY_NAME };
	uint32_t idx;
	if (!name[0])
		return cow_error_set(err, -EINVAL, "the snapshot's name is empty");
	if (strlen(name) > COW_SNAPSHOT_MAX_NAME_BYTES)
		return cow_error_set(err, -EINVAL, "the snapshot's name is longer than %u bytes",
				     COW_SNAPSHOT_MAX_NAME_BYTES);
	if (cow_snapshot_find(list, h->nr_snapshots, &key, &idx, NULL) != -ENOENT)
		return cow_error_set(err, -EEXIST, "there is a snapshot '%s' already", name);
	if (h->nr_snapshots == QCOW2_MAX_SNAPSHOTS)
		return cow_error_set(err, -EFBIG,
				     "there are %u snapshots already, which is the most",
				     QCOW2_MAX_SNAPSHOTS);
	return 0;
}

/* Room for one more; it is nr_snapshots' from then on. */
static struct cow_snapshot *append(struct cow_snapshot **list, struct cow_header *h)
{
	struct cow_snapshot *more = reallocarray(*list, h->nr_snapshots + 1ul, sizeof(*more));
	if (!more)
		return NULL;
	*list = more;
	memset(&more[h->nr_snapshots], 0, sizeof(*more));
	return &more[h->nr_snapshots++];
}

int cow_snapshot_list_add(struct cow_snapshot **list, struct cow_header *h, const char *name,
			  const struct cow_snapshot_date *date, struct cow_error *err)
{
	char *id = next_id(*list, h->nr_snapshots), *copy = strdup(name);
	struct cow_snapshot *s = id && copy ? append(list, h) : NULL;
	if (!s) {
		free(id);
		free(copy);
		return cow_error_no_memory(err);
	}
	s->id = id;
	s->name = copy;
	s->date_sec = date->sec;
	s->date_nsec = date->nsec;
	s->disk_bytes = h->size_bytes;
	s->icount = UINT64_MAX;
	s->extra_bytes = EXTRA_BYTES;
	s->l1_entries = h->l1_entries;
	return 0;
}

void cow_snapshot_list_remove(struct cow_snapshot *list, struct cow_header *h, uint32_t idx)
{
	cow_assert(idx < h->nr_snapshots);
	free(list[idx].id);
	free(list[idx].name);
	h->nr_snapshots--;
	memmove(&list[idx], &list[idx + 1], (h->nr_snapshots - idx) * sizeof(*list));
}

uint64_t cow_snapshot_list_bytes(const struct cow_snapshot *list, uint32_t nr)
{
	uint64_t bytes = 0;
	for (uint32_t i = 0; i < nr; i++)
		bytes += cow_snapshot_bytes(&list[i]);
	return bytes;
}

void cow_snapshot_list_encode(const struct cow_snapshot *list, uint32_t nr, uint8_t *raw)
{
	for (uint32_t i = 0; i < nr; i++) {
		cow_snapshot_encode(&list[i], raw);
		raw += cow_snapshot_bytes(&list[i]);
	}
}
