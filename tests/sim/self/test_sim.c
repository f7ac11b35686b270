/* SPDX-License-Identifier: MIT */
/*
 * The simulator's own parts: what a crash may do to a file, what the model lets pass and what not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/memory/disk.h"
#include "tests/sim/model.h"
#include "tests/sim/world.h"

_Noreturn void sim_fail(const char *fmt, ...)
{
	char text[200];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fail_msg("%s", text);
	abort();
}

static uint8_t at(struct memory_file *f, uint64_t offset)
{
	uint8_t byte;
	memory_content_read(&f->now, offset, &byte, 1);
	return byte;
}

static uint64_t below(void *ctx, uint64_t n)
{
	return sim_below(ctx, n);
}

static void init(struct memory_disk *disk, struct sim_random *r)
{
	memory_disk_init(disk, 1u << 20);
	disk->volatile_cache = true;
	disk->below = below;
	disk->below_ctx = r;
}

/* Over many crashes: which values of one byte came out? */
static unsigned outcomes(void (*scene)(struct memory_disk *, struct memory_file *), uint64_t offset)
{
	unsigned seen = 0;
	for (unsigned seed = 0; seed < 300; seed++) {
		struct sim_random r = { .state = seed };
		struct memory_disk disk;
		init(&disk, &r);
		struct memory_file *f = memory_disk_create(&disk, "/sim/f");
		scene(&disk, f);
		memory_disk_crash(&disk, MEMORY_CRASH_POWER);
		seen |= 1u << at(f, offset);
		assert_null(f->head);
		memory_disk_fini(&disk);
	}
	return seen;
}

static void put(struct memory_file *f, uint64_t offset, uint8_t value, size_t length)
{
	uint8_t *buf = malloc(length);
	memset(buf, value, length);
	memory_file_write(f, offset, buf, length, buf);
	memory_file_delivered(f, buf);
	free(buf);
}

static void sync_all(struct memory_disk *disk, struct memory_file *f)
{
	memory_file_sync(f, memory_disk_mark(disk));
}

static void scene_plain(struct memory_disk *disk, struct memory_file *f)
{
	put(f, 0, 1, 4096);
	sync_all(disk, f);
	put(f, 0, 2, 4096);
	put(f, 0, 3, 4096);
}

static void scene_synced(struct memory_disk *disk, struct memory_file *f)
{
	scene_plain(disk, f);
	sync_all(disk, f);
}

/* Delivered after the sync was submitted: not covered. */
static void scene_late(struct memory_disk *disk, struct memory_file *f)
{
	put(f, 0, 1, 512);
	sync_all(disk, f);
	uint8_t buf[512];
	memset(buf, 2, sizeof(buf));
	memory_file_write(f, 0, buf, sizeof(buf), buf);
	uint64_t mark = memory_disk_mark(disk);
	memory_file_delivered(f, buf);
	memory_file_sync(f, mark);
}

static void scene_punch(struct memory_disk *disk, struct memory_file *f)
{
	put(f, 0, 1, 4096);
	sync_all(disk, f);
	memory_file_punch(f, 0, 2048, NULL);
}

static void scene_failed_sync(struct memory_disk *disk, struct memory_file *f)
{
	put(f, 0, 1, 512);
	sync_all(disk, f);
	put(f, 0, 2, 512);
	memory_file_sync_failed(f, memory_disk_mark(disk));
	sync_all(disk, f); /* succeeds, and means nothing */
}

static void scene_shrink(struct memory_disk *disk, struct memory_file *f)
{
	put(f, 0, 1, 4096);
	sync_all(disk, f);
	memory_file_resize(f, 1024, NULL);
	memory_file_resize(f, 4096, NULL);
}

static void test_crash(void **state)
{
	assert_int_equal(outcomes(scene_plain, 0), 1u << 1 | 1u << 2 | 1u << 3);
	assert_int_equal(outcomes(scene_synced, 0), 1u << 3);
	assert_int_equal(outcomes(scene_late, 0), 1u << 1 | 1u << 2);
	assert_int_equal(outcomes(scene_punch, 0), 1u << 0 | 1u << 1);
	assert_int_equal(outcomes(scene_punch, 2048), 1u << 1);
	assert_int_equal(outcomes(scene_failed_sync, 0), 1u << 1 | 1u << 2);
	assert_int_equal(outcomes(scene_shrink, 2000), 1u << 0 | 1u << 1);
	assert_int_equal(outcomes(scene_shrink, 100), 1u << 1);
}

/* Writes tear at sectors, not inside. */
static void test_torn(void **state)
{
	bool torn = false;
	for (unsigned seed = 0; seed < 300; seed++) {
		struct sim_random r = { .state = seed };
		struct memory_disk disk;
		init(&disk, &r);
		struct memory_file *f = memory_disk_create(&disk, "/sim/f");
		put(f, 0, 1, 4096);
		sync_all(&disk, f);
		put(f, 0, 2, 4096);
		memory_disk_crash(&disk, MEMORY_CRASH_POWER);
		for (unsigned s = 0; s < 8; s++)
			for (unsigned i = 1; i < 512; i++)
				assert_int_equal(at(f, s * 512 + i), at(f, s * 512));
		torn |= at(f, 0) != at(f, 4095);
		memory_disk_fini(&disk);
	}
	assert_true(torn);
}

/* ---- the model ---- */

static bool reads(struct sim_model *m, uint64_t start, uint64_t id, uint64_t of_sector)
{
	uint8_t buf[SIM_SECTOR];
	char text[512];
	sim_fill(buf, id, of_sector, 1);
	return sim_model_read_ok(m, start, 0, 1, buf, text, sizeof(text));
}

static bool may_read(struct sim_model *m, uint64_t id)
{
	return reads(m, sim_model_tick(m), id, 0);
}

static void write_done(struct sim_model *m, uint64_t id, bool sure, bool durable)
{
	uint64_t start = sim_model_write_begin(m, id, 0, 1);
	sim_model_write_end(m, start, 0, 1, sure, durable);
}

static void test_model_reads(void **state)
{
	struct sim_model m;
	sim_model_init(&m, 1);
	assert_true(may_read(&m, 0));
	write_done(&m, 1, true, false);
	assert_false(may_read(&m, 0));
	assert_true(may_read(&m, 1));
	assert_false(reads(&m, sim_model_tick(&m), 1, 7)); /* another sector's */
	uint64_t before = sim_model_tick(&m);
	uint64_t a = sim_model_write_begin(&m, 2, 0, 1), b = sim_model_write_begin(&m, 3, 0, 1);
	assert_true(may_read(&m, 1));
	assert_true(may_read(&m, 3));
	assert_true(may_read(&m, 2));
	sim_model_write_end(&m, a, 0, 1, true, false);
	sim_model_write_end(&m, b, 0, 1, true, false);
	assert_true(reads(&m, before, 1, 0)); /* it began before they ended */
	assert_false(may_read(&m, 1));
	assert_true(may_read(&m, 3));
	assert_false(may_read(&m, 2));	 /* settled by the reader before */
	write_done(&m, 4, false, false); /* failed */
	assert_true(may_read(&m, 3));
	assert_false(may_read(&m, 4));
	sim_model_fini(&m);
}

static unsigned survivors(struct sim_model *m)
{
	unsigned set = 0;
	sim_model_crash(m);
	for (unsigned i = 0; i < m->cells[0].nr; i++)
		set |= 1u << m->cells[0].versions[i].id;
	return set;
}

static void test_model_crash(void **state)
{
	struct sim_model m;
	sim_model_init(&m, 1);
	write_done(&m, 1, true, false);
	assert_int_equal(survivors(&m), 1u << 0 | 1u << 1);
	assert_true(may_read(&m, 1));
	write_done(&m, 2, true, false);
	uint64_t flush = sim_model_tick(&m);
	write_done(&m, 3, true, false);
	sim_model_flushed(&m, flush); /* covers 2, not 3 */
	assert_int_equal(survivors(&m), 1u << 2 | 1u << 3);
	write_done(&m, 4, true, true);
	assert_int_equal(survivors(&m), 1u << 4);
	(void)sim_model_write_begin(&m, 5, 0, 1);
	assert_int_equal(survivors(&m), 1u << 4 | 1u << 5);
	sim_model_fini(&m);
}

/* ---- blocking calls within each other ---- */

/*
 * Two threads. One waits for `last`, the other for what the first one's loop is to tell it when
 * `first` is through.
 */
struct scene {
	struct sim_world world;
	struct sim_loop *outer, *inner;
	struct cow_io first, last;
	struct cow_msg tell;
	bool told, over, within;
};

static struct scene *scene;

static void told(struct cow_msg *msg)
{
	scene->told = true;
}

static void first_done(struct cow_io *io)
{
	scene->tell.fn = told;
	cow_loop_post(&scene->inner->base, &scene->tell);
}

static void last_done(struct cow_io *io)
{
	scene->over = true;
}

/* The second thread comes while the first one waits, as a queue that leaves under a live command. */
static void other_waits(struct sim_world *world)
{
	if (scene->within)
		return;
	scene->within = true;
	assert_int_equal(cow_loop_run_until(&scene->inner->base, &scene->told), 0);
}

static void test_blocking_calls(void **state)
{
	for (unsigned seed = 1; seed <= 100; seed++) {
		struct cow_file *file;
		struct cow_error err = { 0 };
		scene = calloc(1, sizeof(*scene));
		sim_world_init(&scene->world, seed);
		scene->world.on_step = other_waits;
		scene->outer = sim_loop_new(&scene->world);
		scene->inner = sim_loop_new(&scene->world);
		assert_int_equal(memory_host_ops.open(&scene->world.disk.host, "/sim/f",
						      COW_OPEN_CREATE, &file, &err),
				 0);
		cow_io_prep(&scene->first, COW_IO_RESIZE, file, 4096, 0, first_done);
		cow_io_prep(&scene->last, COW_IO_RESIZE, file, 8192, 0, last_done);
		cow_loop_submit(&scene->outer->base, &scene->first);
		cow_loop_submit(&scene->outer->base, &scene->last);
		assert_int_equal(cow_loop_run_until(&scene->outer->base, &scene->over), 0);
		assert_true(scene->told);
		memory_host_ops.close(file);
		while (sim_world_step(&scene->world))
			;
		sim_world_fini(&scene->world);
		free(scene);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_crash),	       cmocka_unit_test(test_torn),
		cmocka_unit_test(test_model_reads),    cmocka_unit_test(test_model_crash),
		cmocka_unit_test(test_blocking_calls),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
