/* SPDX-License-Identifier: MIT */
/*
 * Snapshot commands on a host in memory: what they do to the image, that nothing in use is ever
 * written to before the header is switched, and that every failure on the way leaves the image
 * before or after, without leaks.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/buf.h"
#include "engine/create/create.h"
#include "engine/core/load.h"
#include "engine/life/image.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"
#include "engine/snapshot/snapshot.h"
#include "engine/snapshot/snapshot_list.h"
#include "tests/memory/memory_host.h"
#include "tests/unit/disk_fixture.h"

#define DISK_BYTES (1u << 20)
#define CHUNK 65536u
#define MAX_SNAPSHOTS 4u

struct fixture {
	struct memory_host *m;
	uint8_t *disk;		      /* what the active disk holds */
	uint8_t *held[MAX_SNAPSHOTS]; /* what the snapshots hold */
	const char *names[MAX_SNAPSHOTS];
	unsigned nr_uncut; /* failed commands that left the file longer */
};

static const struct cow_snapshot_date some_date = { .sec = 1700000000, .nsec = 7 };

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->m = memory_host_new();
	cow_loop_enter(&f->m->loop);
	f->disk = calloc(1, DISK_BYTES);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	cow_loop_enter(NULL);
	for (unsigned i = 0; i < MAX_SNAPSHOTS; i++)
		free(f->held[i]);
	free(f->disk);
	memory_host_free(f->m);
	free(f);
	return 0;
}

/* ---- the image ---- */

static void create(struct fixture *f, uint32_t cluster, uint32_t bits)
{
	struct cow_create_options options = { .size_bytes = DISK_BYTES,
					      .has_size = true,
					      .cluster_bytes = cluster,
					      .refcount_bits = bits,
					      .overwrite = true };
	struct cow_error err = { 0 };
	memset(f->disk, 0, DISK_BYTES);
	if (cow_create(&f->m->host, &f->m->loop, "/disk", &options, &err))
		fail_msg("create: %s", err.text);
}

static void fill(struct fixture *f, uint64_t off, uint64_t bytes, int value)
{
	struct cow_open_options options = { .writable = true };
	struct cow_error err = { 0 };
	struct cow_image *image;
	struct cow_queue *queue;
	uint8_t *buf = cow_buf_alloc(bytes);
	memset(buf, value, bytes);
	memset(f->disk + off, value, bytes);
	if (cow_image_open(&f->m->host, &f->m->loop, "/disk", &options, &image, &err))
		fail_msg("open: %s", err.text);
	assert_int_equal(cow_queue_new(image, &f->m->loop, 4, &queue), 0);
	assert_int_equal(cow_queue_do(queue, COW_OP_WRITE, 0, off, bytes, buf), 0);
	cow_queue_free(queue);
	assert_int_equal(cow_image_close(image, &f->m->loop, &err), 0);
	free(buf);
}

/* The disk, or a snapshot's, holds `expect`. */
static void assert_holds(struct fixture *f, const char *snapshot, const uint8_t *expect)
{
	struct cow_open_options options = { .snapshot = snapshot };
	struct cow_error err = { 0 };
	struct cow_image *image;
	struct cow_queue *queue;
	uint8_t *buf = cow_buf_alloc(CHUNK);
	if (cow_image_open(&f->m->host, &f->m->loop, "/disk", &options, &image, &err))
		fail_msg("open %s: %s", snapshot ? snapshot : "the disk", err.text);
	assert_int_equal(cow_queue_new(image, &f->m->loop, 4, &queue), 0);
	for (uint64_t off = 0; off < DISK_BYTES; off += CHUNK) {
		assert_int_equal(cow_queue_do(queue, COW_OP_READ, 0, off, CHUNK, buf), 0);
		if (memcmp(buf, expect + off, CHUNK))
			fail_msg("%s: wrong content at %llu", snapshot ? snapshot : "the disk",
				 (unsigned long long)off);
	}
	cow_queue_free(queue);
	COW_IGNORE(cow_image_close(image, &f->m->loop, NULL));
	free(buf);
}

static void assert_all(struct fixture *f)
{
	disk_expect_clean(f->m);
	assert_holds(f, NULL, f->disk);
	for (unsigned i = 0; i < MAX_SNAPSHOTS; i++)
		if (f->held[i])
			assert_holds(f, f->names[i], f->held[i]);
}

static struct cow_header header_of(struct fixture *f)
{
	struct cow_header h;
	struct cow_error err = { 0 };
	if (cow_header_decode(f->m->bytes, 4096, &h, &err))
		fail_msg("header: %s", err.text);
	return h;
}

/* ---- commands ---- */

enum command { CREATE, APPLY, DELETE };

static int command(struct fixture *f, enum command what, const char *name, struct cow_error *err)
{
	const struct cow_snapshot_key key = { .text = name };
	struct cow_file *file;
	int ret = f->m->host.ops->open(&f->m->host, "/disk", COW_OPEN_WRITE, &file, err);
	assert_int_equal(ret, 0);
	if (what == CREATE)
		ret = cow_snapshot_create(&f->m->loop, file, name, &some_date, NULL, err);
	else if (what == APPLY)
		ret = cow_snapshot_apply(&f->m->loop, file, &key, err);
	else
		ret = cow_snapshot_delete(&f->m->loop, file, &key, err);
	f->m->host.ops->close(file);
	return ret;
}

/* What the command means for what is held where. */
static void note(struct fixture *f, enum command what, unsigned i, const char *name)
{
	if (what == CREATE) {
		f->names[i] = name;
		f->held[i] = malloc(DISK_BYTES);
		memcpy(f->held[i], f->disk, DISK_BYTES);
	} else if (what == APPLY) {
		memcpy(f->disk, f->held[i], DISK_BYTES);
	} else {
		free(f->held[i]);
		f->held[i] = NULL;
	}
}

static void must(struct fixture *f, enum command what, unsigned i, const char *name)
{
	struct cow_error err = { 0 };
	if (command(f, what, name, &err))
		fail_msg("%s: %s", name, err.text);
	note(f, what, i, name);
	assert_all(f);
}

static void populate(struct fixture *f, uint32_t cluster, uint32_t bits)
{
	create(f, cluster, bits);
	fill(f, 0, 300 << 10, 1);
	fill(f, 500 << 10, 100 << 10, 2);
	must(f, CREATE, 0, "a");
	fill(f, 100 << 10, 100 << 10, 3);
	fill(f, 800 << 10, 64 << 10, 4);
	must(f, CREATE, 1, "b");
	fill(f, 150 << 10, 400 << 10, 5);
}

static void test_commands(void **state)
{
	struct fixture *f = *state;
	static const uint32_t shapes[][2] = {
		{ 512, 16 }, { 4096, 4 }, { 65536, 64 }, { 16384, 2 }
	};
	for (unsigned i = 0; i < 4; i++) {
		populate(f, shapes[i][0], shapes[i][1]);
		if (shapes[i][1] > 2) {
			must(f, APPLY, 0, "a");
			fill(f, 0, 64 << 10, 6);
			must(f, CREATE, 2, "c");
			must(f, APPLY, 1, "b");
			must(f, DELETE, 2, "c");
		}
		must(f, DELETE, 0, "a");
		fill(f, 0, DISK_BYTES, 7);
		must(f, DELETE, 1, "b");
		assert_int_equal(header_of(f).nr_snapshots, 0);
	}
}

/*
 * Only what both hold is shared: after the last snapshot is gone everything is written in place
 * again.
 */
static void test_sharing_ends(void **state)
{
	struct fixture *f = *state;
	populate(f, 4096, 16);
	must(f, DELETE, 0, "a");
	must(f, DELETE, 1, "b");
	uint64_t size = memory_size(f->m);
	for (unsigned i = 0; i < 20; i++)
		fill(f, 0, 300 << 10, 8 + (int)i);
	assert_true(memory_size(f->m) <= size + (64 << 10));
	assert_all(f);
}

/* ---- never in place ---- */

static bool is_used(const uint8_t *bytes, const struct cow_header *h, uint64_t off)
{
	uint64_t cluster = off >> h->cluster_bits,
		 per_block = (uint64_t)cow_cluster_bytes(h) * 8 >> h->refcount_order;
	uint64_t nr = (uint64_t)h->reftable_clusters << h->cluster_bits >> 3,
		 idx = cluster / per_block, block = 0;
	for (unsigned i = 0; idx < nr && i < 8; i++)
		block = block << 8 | bytes[h->reftable_off + idx * 8 + i];
	return block && cow_refcount_get(bytes + block, h->refcount_order, cluster % per_block);
}

/*
 * All writes before the header's go to clusters that were free, a sync lies before it and one
 * behind.
 */
static void assert_switched_once(struct fixture *f, const uint8_t *before, unsigned from)
{
	struct cow_header h;
	unsigned header = 0, synced = 0;
	assert_int_equal(cow_header_decode(before, 4096, &h, NULL), 0);
	for (unsigned i = from; i < f->m->nr_trace; i++) {
		const struct memory_event *e = &f->m->trace[i];
		if (e->kind == COW_IO_SYNC)
			synced = i;
		if (e->kind != COW_IO_WRITE && e->kind != COW_IO_PUNCH)
			continue;
		if (e->offset == 0) {
			assert_int_equal(e->length, 512);
			assert_int_equal(header, 0);
			assert_int_equal(synced + 1, i);
			header = i;
		} else if (!header) {
			assert_int_equal(e->kind, COW_IO_WRITE);
			for (uint64_t at = e->offset; at < e->offset + e->length; at += 512)
				assert_false(is_used(before, &h, at));
		} else {
			assert_int_equal(e->kind, COW_IO_PUNCH);
			assert_true(synced > header);
		}
	}
	assert_true(header);
}

static void test_never_in_place(void **state)
{
	struct fixture *f = *state;
	static const struct {
		enum command what;
		unsigned i;
		const char *name;
	} steps[] = {
		{ CREATE, 2, "c" }, { APPLY, 0, "a" },	{ DELETE, 1, "b" },
		{ DELETE, 0, "a" }, { DELETE, 2, "c" },
	};
	struct memory_content before = { 0 };
	populate(f, 512, 16);
	for (unsigned s = 0; s < 5; s++) {
		struct cow_error err = { 0 };
		memory_content_copy(&before, &f->m->file->now);
		f->m->nr_trace = 0;
		assert_int_equal(command(f, steps[s].what, steps[s].name, &err), 0);
		assert_switched_once(f, before.bytes, 0);
		note(f, steps[s].what, steps[s].i, steps[s].name);
		assert_all(f);
	}
	memory_content_fini(&before);
}

/* ---- failures ---- */

/*
 * The nth I/O of a kind fails; whatever comes of it, the image is before or after. Returns false
 * when there was no nth.
 */
static bool fail_nth(struct fixture *f, enum command what, unsigned i, const char *name,
		     enum cow_io_kind kind, unsigned nth, const struct memory_content *before)
{
	struct cow_error err = { 0 };
	memory_restore(f->m, before);
	uint64_t reftable = header_of(f).reftable_off;
	f->m->fail_error = kind == COW_IO_WRITE && nth % 2 ? -ENOSPC : -EIO;
	f->m->fail_kind = kind;
	f->m->fail_skip = nth;
	int ret = command(f, what, name, &err);
	bool hit = !f->m->fail_error;
	f->m->fail_error = 0;
	if (hit && kind != COW_IO_PUNCH && !ret)
		fail_msg("%s: I/O %u of kind %d failed and nobody noticed", name, nth, kind);
	assert_true(!ret || err.text[0]);
	uint8_t *disk = malloc(DISK_BYTES);
	memcpy(disk, f->disk, DISK_BYTES);
	uint8_t *held = f->held[i];
	bool switched = header_of(f).reftable_off != reftable;
	if (switched && what == DELETE)
		f->held[i] = NULL; /* for now */
	else if (switched)
		note(f, what, i, name);
	else
		f->nr_uncut += memory_size(f->m) != before->size_bytes;
	assert_all(f);
	if (switched && what == CREATE)
		free(f->held[i]);
	f->held[i] = held;
	memcpy(f->disk, disk, DISK_BYTES);
	free(disk);
	return hit;
}

static void fail_all(struct fixture *f, enum command what, unsigned i, const char *name)
{
	static const enum cow_io_kind kinds[] = { COW_IO_WRITE, COW_IO_SYNC, COW_IO_READ,
						  COW_IO_PUNCH };
	struct memory_content before = { 0 };
	memory_content_copy(&before, &f->m->file->now);
	f->nr_uncut = 0;
	for (unsigned k = 0; k < 4; k++) {
		unsigned nth = 0;
		while (fail_nth(f, what, i, name, kinds[k], nth, &before))
			nth++;
		assert_true(nth > 0);
	}
	/* when it was the header that could not be written: who knows */
	assert_true(f->nr_uncut <= 1);
	memory_restore(f->m, &before);
	memory_content_fini(&before);
}

static void test_failures(void **state)
{
	struct fixture *f = *state;
	populate(f, 4096, 16);
	fail_all(f, CREATE, 2, "c");
	fail_all(f, APPLY, 0, "a");
	fail_all(f, DELETE, 1, "b");
	must(f, DELETE, 0, "a");
	fail_all(f, DELETE, 1, "b");
}

/* A full host that refuses to overwrite the header too has changed nothing, and that is known. */
static void test_full_host(void **state)
{
	struct fixture *f = *state;
	struct cow_error err = { 0 };
	populate(f, 4096, 16);
	uint64_t size = memory_size(f->m);
	uint8_t before[512];
	memcpy(before, f->m->bytes, sizeof(before));
	for (unsigned nth = 0;; nth++) {
		f->m->fail_error = -ENOSPC;
		f->m->fail_kind = COW_IO_WRITE;
		f->m->fail_skip = nth;
		int ret = command(f, CREATE, "c", &err);
		if (f->m->fail_error)
			break;
		assert_int_equal(ret, -ENOSPC);
		assert_int_equal(memory_size(f->m), size);
		assert_memory_equal(f->m->bytes, before, sizeof(before));
		assert_all(f);
	}
	f->m->fail_error = 0;
}

static void test_overflow(void **state)
{
	struct fixture *f = *state;
	struct cow_error err = { 0 };
	struct memory_content before = { 0 };
	create(f, 65536, 1);
	fill(f, 0, 300 << 10, 1);
	memory_content_copy(&before, &f->m->file->now);
	f->m->nr_trace = 0;
	assert_int_equal(command(f, CREATE, "a", &err), -ERANGE);
	assert_memory_equal(before.bytes, f->m->bytes, before.size_bytes);
	for (unsigned i = 0; i < f->m->nr_trace; i++)
		assert_true(f->m->trace[i].kind != COW_IO_WRITE);
	memory_content_fini(&before);
	assert_all(f);
}

/* The refcount table becomes too small on the way. */
static void test_table_grows(void **state)
{
	struct fixture *f = *state;
	create(f, 512, 64);
	fill(f, 0, DISK_BYTES, 9);
	uint32_t clusters = header_of(f).reftable_clusters;
	must(f, CREATE, 0, "a");
	for (unsigned i = 1; i < MAX_SNAPSHOTS; i++) {
		fill(f, 0, DISK_BYTES, 10 + (int)i);
		must(f, CREATE, i, i == 1 ? "b" : i == 2 ? "c" : "d");
	}
	assert_true(header_of(f).reftable_clusters > clusters);
	must(f, DELETE, 2, "c");
	must(f, APPLY, 0, "a");
}

static void test_find(void **state)
{
	struct cow_snapshot list[3] = { { .id = (char *)"1", .name = (char *)"x" },
					{ .id = (char *)"2", .name = (char *)"1" },
					{ .id = (char *)"7", .name = (char *)"x" } };
	struct cow_snapshot_key key = { .text = "7" };
	uint32_t idx = 9;
	assert_int_equal(cow_snapshot_find(list, 3, &key, &idx, NULL), 0);
	assert_int_equal(idx, 2);
	key.text = "1";
	assert_int_equal(cow_snapshot_find(list, 3, &key, &idx, NULL), -EINVAL);
	key.by = COW_SNAPSHOT_BY_NAME;
	assert_int_equal(cow_snapshot_find(list, 3, &key, &idx, NULL), 0);
	assert_int_equal(idx, 1);
	key.text = "x";
	assert_int_equal(cow_snapshot_find(list, 3, &key, &idx, NULL), -EINVAL);
	key.by = COW_SNAPSHOT_BY_ID;
	assert_int_equal(cow_snapshot_find(list, 3, &key, &idx, NULL), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_commands, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sharing_ends, setup, teardown),
		cmocka_unit_test_setup_teardown(test_never_in_place, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_host, setup, teardown),
		cmocka_unit_test_setup_teardown(test_overflow, setup, teardown),
		cmocka_unit_test_setup_teardown(test_table_grows, setup, teardown),
		cmocka_unit_test(test_find),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
