/* SPDX-License-Identifier: MIT */
/*
 * Repair, cut off by a power failure at any point. Everything before the last completed sync is on disk; of what was written since, any
 * sectors. Whatever remains must
 *   - read as before, image and snapshot;
 *   - have no refcount too low that was not too low before, unless the dirty or corrupt bit keeps writers away;
 *   - be repaired by another repair, and clean then.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/be.h"
#include "engine/check.h"
#include "engine/format.h"
#include "tests/fuzz/memory_disk.h"
#include "tests/unit/tiny_image.h"

#define MAX_EVENTS 512
#define MAX_CLUSTERS (TINY_MAX_BYTES / TINY_CLUSTER)
#define CRASHES 3 /* per event */

struct event {
	bool sync;
	uint64_t offset, length;
	uint8_t *data;
};

struct record {
	struct event events[MAX_EVENTS];
	unsigned nr;
};

/* ---- breaking ---- */

static void zero_refblock(struct tiny_image *t)
{
	memset(t->bytes + t->refblocks, 0, TINY_CLUSTER);
}

static void zero_all_refcounts(struct tiny_image *t)
{
	memset(t->bytes + t->refblocks, 0, t->nr_refblocks * TINY_CLUSTER);
	t->bytes[79] |= QCOW2_INCOMPAT_DIRTY;
}

static void lose_refblock(struct tiny_image *t)
{
	cow_store64_be(t->bytes + t->reftable, 0);
}

static void lose_reftable(struct tiny_image *t)
{
	cow_store64_be(t->bytes + offsetof(struct qcow2_header_be, refcount_table_offset), 0);
}

static void reftable_over_l2(struct tiny_image *t)
{
	cow_store64_be(t->bytes + offsetof(struct qcow2_header_be, refcount_table_offset), t->l2);
}

static void set_refcount(struct tiny_image *t, uint64_t cluster, uint64_t value)
{
	uint64_t idx, block = tiny_refblock_of(t, cluster, &idx);
	cow_refcount_set(t->bytes + block, t->order, idx, value);
}

/* A shared cluster looks like the image's own: the next write would change the snapshot. */
static void understate(struct tiny_image *t)
{
	for (unsigned i = 1; i < 9; i++) {
		uint64_t off = t->data + i * TINY_CLUSTER;
		set_refcount(t, off / TINY_CLUSTER, 1);
		cow_store64_be(t->bytes + t->l2 + i * 8, off | QCOW2_COPIED);
	}
}

static void leak(struct tiny_image *t)
{
	set_refcount(t, t->data / TINY_CLUSTER, 2);
	set_refcount(t, t->l2 / TINY_CLUSTER, 3);
	/* The image's own cluster, as if it were still shared. */
	uint64_t own = t->data + TINY_GUEST_CLUSTERS * TINY_CLUSTER;
	set_refcount(t, own / TINY_CLUSTER, 2);
	cow_store64_be(t->bytes + t->l2, own);
}

static void wrong_flags(struct tiny_image *t)
{
	for (unsigned i = 0; i < TINY_GUEST_CLUSTERS; i++)
		t->bytes[t->l2 + i * 8] ^= 0x80;
	t->bytes[t->l1] ^= 0x80;
}

static void short_extra_data(struct tiny_image *t)
{
	uint8_t *p = t->bytes + t->snapshots;
	cow_store32_be(p + offsetof(struct qcow2_snapshot_be, extra_data_size), 8);
	memmove(p + 48, p + 64, 6); /* id and name follow */
}

static void several(struct tiny_image *t)
{
	understate(t);
	short_extra_data(t);
	lose_refblock(t);
	wrong_flags(t);
}

static const struct {
	const char *name;
	void (*fn)(struct tiny_image *t);
} breakages[] = {
	{"a refcount block of zeros", zero_refblock},
	{"all refcounts zero, dirty", zero_all_refcounts},
	{"a missing refcount block", lose_refblock},
	{"no refcount table", lose_reftable},
	{"a refcount table over an L2 table", reftable_over_l2},
	{"refcounts too low", understate},
	{"leaks", leak},
	{"wrong COPIED flags", wrong_flags},
	{"a snapshot entry with short extra data", short_extra_data},
	{"several of these", several},
};

/* ---- running ---- */

static void note(void *ctx, const struct cow_io *io)
{
	struct record *r = ctx;
	assert_true(r->nr < MAX_EVENTS);
	struct event *e = &r->events[r->nr++];
	*e = (struct event){.sync = io->kind == COW_IO_SYNC, .offset = io->offset};
	if (e->sync)
		return;
	assert_int_equal(io->kind, COW_IO_WRITE);
	assert_int_equal(io->nr_vec, 1);
	e->length = io->length;
	e->data = malloc(io->length);
	memcpy(e->data, io->vec[0].iov_base, io->length);
}

static void forget(struct record *r)
{
	for (unsigned i = 0; i < r->nr; i++)
		free(r->events[i].data);
	r->nr = 0;
}

/* Clusters in danger: the refcount is too low, or a COPIED flag invites to overwrite what is shared. */
struct low {
	bool cluster[MAX_CLUSTERS];
};

static void note_low(void *ctx, const char *text)
{
	struct low *low = ctx;
	unsigned long cluster, refcount, references;
	if (sscanf(text, "ERROR cluster %lu refcount=%lu reference=%lu", &cluster, &refcount, &references) == 3)
		low->cluster[cluster] = true;
	const char *entry = strstr(text, "_entry=");
	if (strstr(text, "OFLAG_COPIED") && strstr(text, "is not one") && sscanf(entry, "_entry=%lx", &cluster) == 1)
		low->cluster[(cluster & QCOW2_OFFSET_MASK) / TINY_CLUSTER] = true;
}

static int run_check(struct memory_disk *disk, enum cow_repair repair, struct low *low,
		     struct cow_check_result *result)
{
	struct cow_check_options options = {.repair = repair, .finding = low ? note_low : NULL, .ctx = low};
	struct cow_error err = {0};
	int ret = cow_check_file(&disk->loop, &disk->file, &options, result, &err);
	if (ret)
		print_message("%s\n", err.text);
	return ret;
}

static bool writers_kept_away(const uint8_t *bytes)
{
	return cow_load64_be(bytes + 72) & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
}

static void assert_repairs(const uint8_t *bytes, uint64_t size, const struct low *before)
{
	struct memory_disk disk;
	struct low low = {0};
	struct cow_check_result result;
	assert_true(tiny_image_reads(bytes, size));
	assert_int_equal(memory_disk_init(&disk, bytes, size, TINY_MAX_BYTES), 0);
	assert_int_equal(run_check(&disk, COW_REPAIR_NONE, &low, &result), 0);
	for (unsigned i = 0; i < MAX_CLUSTERS && !writers_kept_away(bytes); i++)
		assert_true(!low.cluster[i] || before->cluster[i]);
	assert_int_equal(run_check(&disk, COW_REPAIR_ALL, NULL, &result), 0);
	assert_int_equal(result.corruptions + result.leaks, 0);
	assert_true(tiny_image_reads(disk.bytes, disk.file.size_bytes));
	assert_false(writers_kept_away(disk.bytes));
	memory_disk_fini(&disk);
}

/* ---- crashing ---- */

static void apply(const struct event *e, uint8_t *bytes, uint64_t *size, bool torn)
{
	for (uint64_t at = 0; at < e->length; at += 512) {
		uint64_t n = e->length - at < 512 ? e->length - at : 512;
		if (torn && rand() % 2)
			continue;
		memcpy(bytes + e->offset + at, e->data + at, n);
		if (e->offset + at + n > *size)
			*size = e->offset + at + n;
	}
}

static unsigned last_sync_before(const struct record *r, unsigned end)
{
	while (end && !r->events[end - 1].sync)
		end--;
	return end;
}

static void crash_at(const struct tiny_image *t, const struct record *r, unsigned end, const struct low *before)
{
	static uint8_t bytes[TINY_MAX_BYTES];
	uint64_t size = t->size;
	unsigned durable = last_sync_before(r, end);
	memcpy(bytes, t->bytes, sizeof(bytes));
	for (unsigned i = 0; i < end; i++)
		if (!r->events[i].sync)
			apply(&r->events[i], bytes, &size, i >= durable);
	assert_repairs(bytes, size, before);
}

static void crash_everywhere(const struct tiny_image *t)
{
	static struct record r;
	struct memory_disk disk;
	struct low before = {0};
	struct cow_check_result result;
	assert_int_equal(memory_disk_init(&disk, t->bytes, t->size, TINY_MAX_BYTES), 0);
	assert_int_equal(run_check(&disk, COW_REPAIR_NONE, &before, &result), 0);
	assert_true(result.corruptions + result.leaks > 0);
	disk.hook = note;
	disk.ctx = &r;
	assert_int_equal(run_check(&disk, COW_REPAIR_ALL, NULL, &result), 0);
	assert_int_equal(result.corruptions + result.leaks, 0);
	assert_true(r.nr > 0);
	for (unsigned end = 0; end <= r.nr; end++)
		for (int i = 0; i < CRASHES; i++)
			crash_at(t, &r, end, &before);
	forget(&r);
	memory_disk_fini(&disk);
}

static void repair_survives_crashes(void **state)
{
	static struct tiny_image t;
	srand(1);
	for (unsigned i = 0; i < sizeof(breakages) / sizeof(breakages[0]); i++) {
		for (uint32_t order = 2; order <= 6; order++) {
			tiny_image_build(&t, order);
			breakages[i].fn(&t);
			crash_everywhere(&t);
		}
	}
}

/* The test's own tool: the image is sound, for every width of refcounts. */
static void tiny_image_is_clean(void **state)
{
	static struct tiny_image t;
	for (uint32_t order = 1; order <= 6; order++) {
		struct memory_disk disk;
		struct cow_check_result result;
		tiny_image_build(&t, order);
		assert_true(tiny_image_reads(t.bytes, t.size));
		assert_int_equal(memory_disk_init(&disk, t.bytes, t.size, TINY_MAX_BYTES), 0);
		assert_int_equal(run_check(&disk, COW_REPAIR_NONE, NULL, &result), 0);
		assert_int_equal(result.corruptions + result.leaks, 0);
		assert_int_equal(result.allocated_clusters, TINY_GUEST_CLUSTERS);
		memory_disk_fini(&disk);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tiny_image_is_clean),
		cmocka_unit_test(repair_survives_crashes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
