/* SPDX-License-Identifier: MIT */
/*
 * Repair, cut off by a power failure at any point, or by an I/O that fails. Everything before the
 * last completed sync is on disk; of what was written since, any sectors. Whatever remains must
 *   - read as before, image and snapshot;
 *   - have no refcount too low that was not too low before, unless the dirty or corrupt bit keeps writers away;
 *   - be repaired by another repair, and clean then.
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

#include "engine/base/be.h"
#include "engine/check/check.h"
#include "engine/format/format.h"
#include "tests/memory/memory_host.h"
#include "tests/unit/breakages.h"

#define MAX_CLUSTERS (TINY_MAX_BYTES / TINY_CLUSTER)
#define CRASHES 3 /* per change or sync */

/*
 * Clusters in danger: the refcount is too low, or a COPIED flag invites to overwrite what is
 * shared.
 */
struct low {
	bool cluster[MAX_CLUSTERS];
};

static void note_low(void *ctx, const char *text)
{
	struct low *low = ctx;
	unsigned long cluster, refcount, references;
	if (sscanf(text, "ERROR cluster %lu refcount=%lu reference=%lu", &cluster, &refcount,
		   &references) == 3)
		low->cluster[cluster] = true;
	const char *entry = strstr(text, "_entry=");
	if (strstr(text, "OFLAG_COPIED") && strstr(text, "is not one") &&
	    sscanf(entry, "_entry=%lx", &cluster) == 1)
		low->cluster[(cluster & QCOW2_OFFSET_MASK) / TINY_CLUSTER] = true;
}

static void ignore(void *ctx, const char *text)
{
}

static int run_check(struct memory_host *disk, enum cow_repair repair, struct low *low,
		     struct cow_check_result *result)
{
	struct cow_check_options options = { .repair = repair,
					     .finding = low ? note_low : ignore,
					     .ctx = low };
	struct cow_error err = { 0 };
	int ret = cow_check_file(&disk->loop, &disk->self.file, &options, result, &err);
	if (ret && !disk->powered_off)
		print_message("%s\n", err.text);
	return ret;
}

static bool writers_kept_away(const uint8_t *bytes)
{
	return bytes[7] >= 3 &&
	       cow_load64_be(bytes + 72) & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
}

static bool reads(const uint8_t *bytes, uint64_t size, bool with_snapshot)
{
	return with_snapshot ? tiny_image_reads(bytes, size) : tiny_image_active_reads(bytes, size);
}

static void assert_repairs(const struct breakage *b, const uint8_t *bytes, uint64_t size,
			   const struct low *before)
{
	struct memory_host disk;
	struct low low = { 0 };
	struct cow_check_result result;
	assert_true(reads(bytes, size, b->fate == SNAPSHOT_READS));
	assert_int_equal(memory_host_init(&disk, bytes, size, TINY_MAX_BYTES), 0);
	assert_int_equal(run_check(&disk, COW_REPAIR_NONE, &low, &result), 0);
	for (unsigned i = 0; i < MAX_CLUSTERS && !writers_kept_away(bytes); i++)
		assert_true(!low.cluster[i] || before->cluster[i]);
	assert_int_equal(run_check(&disk, COW_REPAIR_ALL, NULL, &result), 0);
	assert_int_equal(result.corruptions + result.leaks, 0);
	assert_true(reads(disk.bytes, memory_size(&disk), b->fate != SNAPSHOT_LOST));
	assert_false(writers_kept_away(disk.bytes));
	memory_host_fini(&disk);
}

/* ---- crashing ---- */

/* Power goes before the given change or sync. False: there was none. */
static bool crash_at(struct memory_host *disk, const struct breakage *b, unsigned nr,
		     const struct low *before)
{
	struct cow_check_result result;
	memory_power_off_after(disk, nr);
	int ret = run_check(disk, COW_REPAIR_ALL, NULL, &result);
	bool went = disk->powered_off;
	assert_int_equal(ret != 0, went);
	assert_true(ret || result.corruptions + result.leaks == 0);
	memory_power_on(disk);
	assert_repairs(b, disk->bytes, memory_size(disk), before);
	return went;
}

static void crash_everywhere(const struct breakage *b, const struct tiny_image *t)
{
	struct memory_host disk;
	struct memory_content kept = { 0 };
	struct low before = { 0 };
	struct cow_check_result result;
	unsigned nr = 0;
	assert_int_equal(memory_host_init(&disk, t->bytes, t->size, TINY_MAX_BYTES), 0);
	memory_content_copy(&kept, &disk.file->now);
	memory_keep_changes(&disk);
	assert_int_equal(run_check(&disk, COW_REPAIR_NONE, &before, &result), 0);
	assert_true(result.corruptions + result.leaks > 0);
	while (crash_at(&disk, b, nr / CRASHES, &before)) {
		memory_restore(&disk, &kept);
		nr++;
	}
	assert_true(nr > 0);
	memory_content_fini(&kept);
	memory_host_fini(&disk);
}

static void repair_survives_crashes(void **state)
{
	static struct tiny_image t;
	srand(1);
	for (unsigned i = 0; i < nr_breakages; i++) {
		for (uint32_t order = 2; order <= 6; order++) {
			tiny_image_build(&t, order);
			breakages[i].apply(&t);
			crash_everywhere(&breakages[i], &t);
		}
	}
}

/* ---- a host that fails ---- */

/*
 * The nr-th I/O fails: writes leave some of their sectors, a failed sync may have thrown away what
 * was written since the last.
 */
struct failing {
	struct memory_host *disk;
	uint8_t durable[TINY_MAX_BYTES];
	unsigned nr, seen;
	int error; /* 0: none fails, all transfers are cut short */
};

static void write_some(struct failing *f, const struct cow_io *io)
{
	uint8_t *data = io->vec[0].iov_base;
	for (uint64_t at = 0;
	     at < io->length && io->offset + io->length <= f->disk->file->now.capacity_bytes;
	     at += 512) {
		if (rand() % 2)
			continue;
		memory_put(f->disk, io->offset + at, data + at, 512);
	}
}

static void lose_some(struct failing *f)
{
	for (uint64_t at = 0; at < TINY_MAX_BYTES; at += 512)
		if (rand() % 2)
			memcpy(f->disk->bytes + at, f->durable + at, 512);
}

static int64_t fault(void *ctx, const struct cow_io *io)
{
	struct failing *f = ctx;
	if (!f->error)
		return io->kind == COW_IO_SYNC ? 0 : 512;
	if (f->seen++ != f->nr) {
		if (io->kind == COW_IO_SYNC)
			memcpy(f->durable, f->disk->bytes, TINY_MAX_BYTES);
		return 0;
	}
	if (io->kind == COW_IO_WRITE)
		write_some(f, io);
	if (io->kind == COW_IO_SYNC)
		lose_some(f);
	return f->error;
}

/*
 * True: there was an nr-th I/O. Either way what is said must be true, and another repair must do
 * it.
 */
static bool fail_at(const struct breakage *b, const struct tiny_image *t, unsigned nr, int error,
		    const struct low *before)
{
	static struct failing f;
	struct memory_host disk;
	struct cow_check_result said, found;
	assert_int_equal(memory_host_init(&disk, t->bytes, t->size, TINY_MAX_BYTES), 0);
	f = (struct failing){ .disk = &disk, .nr = nr, .error = error };
	memcpy(f.durable, t->bytes, sizeof(f.durable));
	disk.fault = fault;
	disk.ctx = &f;
	struct cow_check_options options = { .repair = COW_REPAIR_ALL, .finding = ignore };
	struct cow_error err = { 0 };
	int ret = cow_check_file(&disk.loop, &disk.self.file, &options, &said, &err);
	disk.fault = NULL;
	bool failed = error && f.seen > nr;
	assert_int_equal(ret != 0, failed);
	if (ret)
		assert_true(err.code == ret && strlen(err.text) > 8);
	assert_int_equal(run_check(&disk, COW_REPAIR_NONE, NULL, &found), 0);
	if (!ret)
		assert_int_equal(said.corruptions + said.leaks + found.corruptions + found.leaks,
				 0);
	assert_repairs(b, disk.bytes, memory_size(&disk), before);
	memory_host_fini(&disk);
	return failed;
}

static void fail_everywhere(const struct breakage *b, const struct tiny_image *t)
{
	struct memory_host disk;
	struct low before = { 0 };
	struct cow_check_result result;
	unsigned nr = 0;
	assert_int_equal(memory_host_init(&disk, t->bytes, t->size, TINY_MAX_BYTES), 0);
	assert_int_equal(run_check(&disk, COW_REPAIR_NONE, &before, &result), 0);
	memory_host_fini(&disk);
	while (fail_at(b, t, nr, -EIO, &before) && fail_at(b, t, nr, -ENOSPC, &before))
		nr++;
	assert_true(nr > 20);
	assert_false(fail_at(b, t, 0, 0, &before));
}

static void repair_survives_a_failing_host(void **state)
{
	static struct tiny_image t;
	srand(1);
	for (unsigned i = 0; i < nr_breakages; i++) {
		for (uint32_t order = 3; order <= 4; order++) {
			tiny_image_build(&t, order);
			breakages[i].apply(&t);
			fail_everywhere(&breakages[i], &t);
		}
	}
}

/* Without bits that keep writers away. */
static void version_2_survives_both(void **state)
{
	static struct tiny_image t;
	srand(1);
	for (unsigned i = 0; i < nr_breakages; i++) {
		if (breakages[i].fine_in_version_2)
			continue;
		tiny_image_build(&t, 4);
		breakages[i].apply(&t);
		tiny_image_downgrade(&t);
		crash_everywhere(&breakages[i], &t);
		fail_everywhere(&breakages[i], &t);
	}
}

/* The test's own tool: the image is sound, for every width of refcounts. */
static void tiny_image_is_clean(void **state)
{
	static struct tiny_image t;
	for (uint32_t order = 1; order <= 6; order++) {
		struct memory_host disk;
		struct cow_check_result result;
		tiny_image_build(&t, order);
		assert_true(tiny_image_reads(t.bytes, t.size));
		assert_int_equal(memory_host_init(&disk, t.bytes, t.size, TINY_MAX_BYTES), 0);
		assert_int_equal(run_check(&disk, COW_REPAIR_NONE, NULL, &result), 0);
		assert_int_equal(result.corruptions + result.leaks, 0);
		assert_int_equal(result.allocated_clusters, TINY_GUEST_CLUSTERS);
		memory_host_fini(&disk);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tiny_image_is_clean),
		cmocka_unit_test(repair_survives_crashes),
		cmocka_unit_test(repair_survives_a_failing_host),
		cmocka_unit_test(version_2_survives_both),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
