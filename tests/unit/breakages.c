/* SPDX-License-Identifier: MIT */
#include "tests/unit/breakages.h"

#include <stddef.h>
#include <string.h>

#include "engine/base/be.h"
#include "engine/format/format.h"

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

static void misplaced_snapshot_l1(struct tiny_image *t)
{
	cow_store64_be(t->bytes + t->snapshots, t->snapshot_l1 + 8);
}

static void snapshot_l1_past_end(struct tiny_image *t)
{
	cow_store64_be(t->bytes + t->snapshots, t->size + TINY_CLUSTER);
}

static void snapshot_l1_too_large(struct tiny_image *t)
{
	cow_store32_be(t->bytes + t->snapshots + offsetof(struct qcow2_snapshot_be, l1_size),
		       (4 << 20) + 1);
}

static void snapshot_l1_over_active(struct tiny_image *t)
{
	cow_store64_be(t->bytes + t->snapshots, t->l1);
}

static void misplaced_snapshot_table(struct tiny_image *t)
{
	cow_store64_be(t->bytes + offsetof(struct qcow2_header_be, snapshots_offset),
		       t->snapshots + 8);
}

static void too_many_snapshots(struct tiny_image *t)
{
	cow_store32_be(t->bytes + offsetof(struct qcow2_header_be, nb_snapshots), 1 << 24 | 1);
}

static void no_snapshot_table(struct tiny_image *t)
{
	cow_store64_be(t->bytes + offsetof(struct qcow2_header_be, snapshots_offset),
		       t->size + TINY_CLUSTER);
}

/* The size is wrong, not the data. */
static void long_extra_data(struct tiny_image *t)
{
	cow_store32_be(t->bytes + t->snapshots +
			       offsetof(struct qcow2_snapshot_be, extra_data_size),
		       1025);
}

static void several(struct tiny_image *t)
{
	understate(t);
	short_extra_data(t);
	lose_refblock(t);
	wrong_flags(t);
}

const struct breakage breakages[] = {
	{ "a refcount block of zeros", zero_refblock, SNAPSHOT_READS, false },
	{ "all refcounts zero, dirty", zero_all_refcounts, SNAPSHOT_READS, false },
	{ "a missing refcount block", lose_refblock, SNAPSHOT_READS, false },
	{ "no refcount table", lose_reftable, SNAPSHOT_READS, false },
	{ "a refcount table over an L2 table", reftable_over_l2, SNAPSHOT_READS, false },
	{ "refcounts too low", understate, SNAPSHOT_READS, false },
	{ "leaks", leak, SNAPSHOT_READS, false },
	{ "wrong COPIED flags", wrong_flags, SNAPSHOT_READS, false },
	{ "a snapshot entry with short extra data", short_extra_data, SNAPSHOT_READS, true },
	{ "a snapshot table that is not aligned", misplaced_snapshot_table, SNAPSHOT_SAVED, false },
	{ "more snapshots than there can be", too_many_snapshots, SNAPSHOT_SAVED, false },
	{ "a snapshot entry with too much extra data", long_extra_data, SNAPSHOT_SAVED, false },
	{ "several of these", several, SNAPSHOT_READS, false },
	{ "a snapshot's L1 table that is not aligned", misplaced_snapshot_l1, SNAPSHOT_LOST,
	  false },
	{ "a snapshot's L1 table past the end", snapshot_l1_past_end, SNAPSHOT_LOST, false },
	{ "a snapshot's L1 table that is too large", snapshot_l1_too_large, SNAPSHOT_LOST, false },
	{ "a snapshot's L1 table over the active one", snapshot_l1_over_active, SNAPSHOT_LOST,
	  false },
	{ "a snapshot table past the end", no_snapshot_table, SNAPSHOT_LOST, false },
};
const unsigned nr_breakages = sizeof(breakages) / sizeof(breakages[0]);
