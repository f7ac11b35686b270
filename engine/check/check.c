/* SPDX-License-Identifier: MIT */
/*
 * Check and repair: rounds over the image (see checker.h).
 *
 * Without repair, one round that writes nothing. With repair, first that round; then, while something
 * is left to repair and gets less, a round that fixes in silence and one that looks again. What is
 * reported as fixed is the difference of two looks, not what the fixing round believes.
 */
#include "engine/check/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/check/check_copied.h"
#include "engine/check/check_l2.h"
#include "engine/check/check_mark.h"
#include "engine/check/check_refcount.h"
#include "engine/check/checker.h"
#include "engine/check/repair_header.h"
#include "engine/check/repair_rebuild.h"
#include "engine/check/repair_snapshots.h"
#include "engine/loop/blocking.h"

#define MAX_ROUNDS 3

/* ---- one round ---- */

static int count_references(struct cow_checker *c)
{
	int ret = cow_check_mark_fixed(c);
	if (!ret)
		ret = cow_check_mark_l1_tables(c);
	if (!ret)
		ret = cow_check_mark_l2_tables(c);
	if (!ret)
		ret = cow_check_load_reftable(c);
	if (!ret)
		ret = cow_check_compare(c);
	return ret;
}

/* Refcounts are durable before flags that rely on them. */
static int fix_refcounts(struct cow_checker *c, struct cow_error *err)
{
	int ret = c->fix == COW_REPAIR_ALL ? cow_check_repair_l2_tables(c) : 0;
	if (!ret && c->fix == COW_REPAIR_ALL && c->need_rebuild)
		return cow_repair_rebuild(c, err);
	if (!ret)
		ret = cow_check_fix_refcounts(c);
	if (!ret)
		ret = cow_loop_sync(c->loop, c->file);
	return ret;
}

static int run_phases(struct cow_checker *c, struct cow_error *err)
{
	int ret = count_references(c);
	if (!ret && c->fix != COW_REPAIR_NONE)
		ret = fix_refcounts(c, err);
	if (!ret)
		ret = cow_check_copied(c);
	if (!ret && c->fix != COW_REPAIR_NONE)
		ret = cow_loop_sync(c->loop, c->file);
	return ret ? cow_error_set(err, ret, "check: cannot go on: %s", strerror(-ret)) : 0;
}

static int run_pass(struct cow_loop *loop, struct cow_file *file,
		    const struct cow_check_options *options, enum cow_repair fix,
		    struct cow_check_result *result, struct cow_error *err)
{
	struct cow_checker c;
	int ret = cow_checker_init(&c, loop, file, options, fix, err);
	if (ret)
		return ret;
	ret = run_phases(&c, err);
	*result = c.result;
	result->total_clusters = (c.header.size_bytes >> c.header.cluster_bits) +
				 !!(c.header.size_bytes & (cow_cluster_bytes(&c.header) - 1));
	result->image_end_offset = (c.last_cluster + 1) << c.header.cluster_bits;
	cow_checker_progress(&c, 1000);
	cow_checker_fini(&c);
	return ret;
}

/* ---- repair ---- */

static int repair_once(struct cow_loop *loop, struct cow_file *file,
		       const struct cow_check_options *options, struct cow_error *err)
{
	struct cow_check_result ignored;
	int ret = 0;
	if (options->repair == COW_REPAIR_ALL)
		ret = cow_repair_snapshots(loop, file, options, err);
	return ret ? ret : run_pass(loop, file, options, options->repair, &ignored, err);
}

static bool wants_repair(const struct cow_check_options *options, const struct cow_check_result *r)
{
	return options->repair == COW_REPAIR_ALL ? r->corruptions || r->leaks : r->leaks != 0;
}

static int repair(struct cow_loop *loop, struct cow_file *file,
		  const struct cow_check_options *options, struct cow_check_result *result,
		  struct cow_error *err)
{
	const struct cow_check_result found = *result;
	/*
	 * What was read may be in the host's cache only, if the one who wrote it was killed. A
	 * refcount that falls because an unlink was seen there must not reach the disk before the
	 * unlink does.
	 */
	int synced = wants_repair(options, result) ? cow_loop_sync(loop, file) : 0;
	if (synced)
		return cow_error_set(err, synced, "repair: cannot flush the image: %s",
				     strerror(-synced));
	for (int round = 0; round < MAX_ROUNDS && wants_repair(options, result); round++) {
		uint64_t before = result->corruptions + result->leaks;
		int ret = repair_once(loop, file, options, err);
		if (!ret)
			ret = run_pass(loop, file, options, COW_REPAIR_NONE, result, err);
		if (ret)
			return ret;
		if (result->corruptions + result->leaks >= before)
			break;
	}
	if (found.corruptions > result->corruptions)
		result->corruptions_fixed = found.corruptions - result->corruptions;
	if (found.leaks > result->leaks)
		result->leaks_fixed = found.leaks - result->leaks;
	return 0;
}

/* Nothing is wrong any more: the image says so too. */
static int clear_bits(struct cow_loop *loop, struct cow_file *file, struct cow_error *err)
{
	const uint64_t bits = QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT;
	struct cow_header h;
	uint8_t *cluster;
	int ret = cow_load_header_lenient(loop, file, &h, &cluster, err);
	if (ret)
		return ret;
	free(cluster);
	if (!(h.incompatible & bits))
		return 0;
	ret = cow_repair_clear_bits(loop, file, bits);
	return ret ? cow_error_set(err, ret, "repair: cannot write the header: %s", strerror(-ret))
		   : 0;
}

/* ---- entry ---- */

static int known_format(struct cow_loop *loop, struct cow_file *file, struct cow_error *err)
{
	uint8_t *sector = cow_buf_alloc(512);
	int ret = sector ? cow_loop_read(loop, file, 0, sector, 512) : -ENOMEM;
	if (ret)
		cow_error_set(err, ret, "check: cannot read: %s", strerror(-ret));
	else if (!cow_header_is_qcow2(sector, 512))
		ret = cow_format_refuse_other(sector, 512, -ENOTSUP, err);
	free(sector);
	return ret;
}

int cow_check_file(struct cow_loop *loop, struct cow_file *file,
		   const struct cow_check_options *options, struct cow_check_result *result,
		   struct cow_error *err)
{
	memset(result, 0, sizeof(*result));
	if (options->repair != COW_REPAIR_NONE && !file->writable)
		return cow_error_set(err, -EROFS, "repair: the file is opened read-only");
	int ret = known_format(loop, file, err);
	if (!ret)
		ret = run_pass(loop, file, options, COW_REPAIR_NONE, result, err);
	/* What is known by its magic but not understood cannot be checked. */
	if (ret == -ENOTSUP && err && err->code == -ENOTSUP && strncmp(err->text, "magic", 5))
		ret = err->code = -EINVAL;
	if (ret || options->repair == COW_REPAIR_NONE)
		return ret;
	ret = repair(loop, file, options, result, err);
	if (!ret && !result->corruptions && !result->check_errors)
		ret = clear_bits(loop, file, err);
	return ret;
}
