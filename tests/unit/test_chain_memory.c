/* SPDX-License-Identifier: MIT */
/* A backing chain has one budget for its metadata caches, however long it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/create/create.h"
#include "engine/host/system.h"
#include "engine/image/state.h"
#include "engine/life/image.h"
#include "engine/loop/loop_plain.h"

#define LEVELS 32
#define TIB (1ull << 40)
/*
 * What a byte of ours costs in resident memory: TSan has several of its own for each, ASan keeps
 * what is freed for a while.
 */
#ifdef __SANITIZE_THREAD__
#define COST 6
#elif defined(__SANITIZE_ADDRESS__)
#define COST 2
#else
#define COST 1
#endif

static char directory[] = "/tmp/cowblk-chain.XXXXXX";

static char *path_of(unsigned level, char path[64])
{
	snprintf(path, 64, "%s/%u.qcow2", directory, level);
	return path;
}

static void make(struct cow_loop *loop, unsigned level)
{
	char path[64], backing[16];
	struct cow_error err = { 0 };
	snprintf(backing, sizeof(backing), "%u.qcow2", level - 1);
	const struct cow_create_options o = {
		.size_bytes = TIB,
		.has_size = true,
		.backing_file = level ? backing : NULL,
		.backing_format = level ? "qcow2" : NULL,
	};
	int ret = cow_create(cow_host_system(), loop, path_of(level, path), &o, &err);
	if (ret)
		fail_msg("%s", err.text);
}

static long resident_mib(void)
{
	long pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%*d %ld", &pages), 1);
	fclose(f);
	return pages * sysconf(_SC_PAGESIZE) >> 20;
}

static void nobody_grows(void *ctx)
{
}

static void assert_resident(const void *p, size_t bytes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), nr = (bytes + page - 1) / page;
	unsigned char *there = malloc(nr);
	assert_int_equal(mincore((void *)(uintptr_t)p, bytes, there), 0);
	for (size_t i = 0; i < nr; i++)
		assert_true(there[i] & 1);
	free(there);
}

/* All that a pass copies into: it must not wait for memory. */
static void assert_passes_have_memory(const struct cow_image *image)
{
	const struct cow_writeback *wb = &image->meta.writeback;
	size_t slice = image->core.g.slice_bytes;
	size_t table = (image->core.limits.dirty_blocks + COW_TABLE_SLACK) * COW_TABLE_BLOCK_BYTES;
	assert_resident(wb->l2_buf, image->meta.l2.max_dirty * slice);
	assert_resident(wb->refs_buf, image->meta.refs.max_dirty * slice);
	assert_resident(wb->l1_buf, table);
	assert_resident(wb->reftable_buf, table);
}

static long grown_mib(struct cow_loop *loop, uint64_t cache_bytes, bool keep)
{
	const struct cow_open_options options = {
		.cache_bytes = cache_bytes,
		.keep_memory = keep,
		.want_memory = nobody_grows,
		.writable = true,
	};
	struct cow_error err = { 0 };
	struct cow_image *image;
	char path[64];
	long before = resident_mib();
	if (cow_image_open(cow_host_system(), loop, path_of(LEVELS - 1, path), &options, &image,
			   &err))
		fail_msg("%s", err.text);
	long grown = resident_mib() - before;
	if (keep)
		assert_passes_have_memory(image);
	assert_int_equal(cow_image_close(image, loop, &err), 0);
	return grown;
}

static void whole_chain_has_one_budget(void **state)
{
	struct cow_loop *loop;
	char path[64];
	assert_int_equal(cow_loop_plain_new(&loop), 0);
	assert_non_null(mkdtemp(directory));
	for (unsigned i = 0; i < LEVELS; i++)
		make(loop, i);
	/* a least for each level, and what is not cache */
	long grown = grown_mib(loop, 0, false);
	if (grown > 24 * COST)
		fail_msg("%d images of 1 TiB take %ld MiB", LEVELS, grown);
	grown = grown_mib(loop, 1 << 30, false);
	if (grown > 28 * COST)
		fail_msg("with room for 1 GiB of cache, not used yet, they take %ld MiB", grown);
	/* 32 MiB, a quarter for refcounts, copies for writeback */
	grown = grown_mib(loop, 0, true);
	if (grown > 80 * COST || grown < 40)
		fail_msg("with all memory taken they take %ld MiB", grown);
	for (unsigned i = 0; i < LEVELS; i++)
		unlink(path_of(i, path));
	rmdir(directory);
	cow_loop_free(loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(whole_chain_has_one_budget) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
