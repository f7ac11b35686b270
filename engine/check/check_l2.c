/* SPDX-License-Identifier: MIT */
/*
 * Every L2 table once, in the order of the host file, however many L1 entries lead to it: its
 * entries count as often as the table itself. That keeps the work proportional to the file even
 * when a hostile image shares tables a thousandfold.
 *
 * What breaks a rule and can be put right without guessing is: a COPIED flag where none may be, the
 * bitmap of a compressed entry, the misplaced preallocation of a cluster that reads as zeros.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "engine/base/be.h"
#include "engine/check/check_l2.h"
#include "engine/check/checker.h"
#include "engine/format/map.h"

/* An entry under examination. */
struct entry {
	uint64_t table_off;
	uint32_t idx;
	uint32_t refs;
	uint64_t word, bitmap; /* bitmap: extended L2, else 0 */
	bool unfixable;
};

#define ALLOC_BITS(bitmap) ((uint32_t)(bitmap))
#define ZERO_BITS(bitmap) ((uint32_t)((bitmap) >> 32))

static bool misplaced(const struct cow_checker *c, uint64_t off)
{
	return off & (cow_cluster_bytes(&c->header) - 1);
}

static bool holds_data(const struct cow_checker *c, const struct entry *e)
{
	return c->extended_l2 ? ALLOC_BITS(e->bitmap) : !(e->word & QCOW2_ZERO);
}

/* Has a host cluster; in a data file offset 0 is one. */
static bool is_allocated(const struct cow_checker *c, const struct entry *e)
{
	return (e->word & QCOW2_OFFSET_MASK) || (c->has_data_file && (e->word & QCOW2_COPIED));
}

/* The entry as it ought to be, as far as that needs no guessing. */
static void fix_entry(const struct cow_checker *c, struct entry *e)
{
	if (e->word & QCOW2_COMPRESSED) {
		e->word &= ~QCOW2_COPIED;
		e->bitmap = 0;
	} else if (!is_allocated(c, e)) {
		e->word &= ~QCOW2_COPIED;
	} else if (misplaced(c, e->word & QCOW2_OFFSET_MASK) && !holds_data(c, e)) {
		e->word &= QCOW2_ZERO;
	}
}

static void corrupt(struct cow_checker *c, const struct entry *e, const char *why)
{
	cow_checker_corrupt(c, "ERROR L2 table at 0x%" PRIx64 " entry %" PRIu32 ": %s: 0x%" PRIx64,
			    e->table_off, e->idx, why, e->word);
}

static void hopeless(struct cow_checker *c, struct entry *e, const char *why)
{
	corrupt(c, e, why);
	e->unfixable = true;
}

static int mark(struct cow_checker *c, struct entry *e, uint64_t off, uint64_t bytes,
		enum cow_check_kind kind)
{
	bool usable;
	int ret = cow_checker_mark(c, off, bytes, kind, e->refs, &usable);
	if (!usable)
		e->unfixable = true;
	return ret;
}

static int check_compressed(struct cow_checker *c, struct entry *e)
{
	struct cow_compressed data = cow_compressed_decode(e->word, c->header.cluster_bits);
	if (e->word & QCOW2_COPIED)
		corrupt(c, e, "COPIED flag of a compressed cluster");
	if (e->bitmap)
		corrupt(c, e, "subcluster bitmap of a compressed cluster");
	if (!c->has_data_file)
		return mark(c, e, data.off, data.bytes, COW_KIND_COMPRESSED);
	hopeless(c, e, "compressed cluster in an image with a data file");
	return 0;
}

static int check_unallocated(struct cow_checker *c, struct entry *e)
{
	if (e->word & QCOW2_COPIED)
		corrupt(c, e, "COPIED flag without a cluster");
	if (ALLOC_BITS(e->bitmap))
		hopeless(c, e, "allocated subclusters without a cluster");
	return 0;
}

static int check_allocated(struct cow_checker *c, struct entry *e)
{
	uint64_t off = e->word & QCOW2_OFFSET_MASK;
	if (misplaced(c, off) && !holds_data(c, e)) {
		corrupt(c, e, "preallocated zero cluster is not cluster-aligned");
		return 0;
	}
	if (misplaced(c, off))
		hopeless(c, e, "data is not cluster-aligned");
	if (c->has_data_file)
		return 0;
	return mark(c, e, off, cow_cluster_bytes(&c->header), COW_KIND_DATA);
}

static int check_entry(struct cow_checker *c, struct entry *e)
{
	uint64_t reserved = QCOW2_L2_RESERVED;
	if (e->word & QCOW2_COMPRESSED)
		return check_compressed(c, e);
	if (c->header.version < 3 || c->extended_l2)
		reserved |= QCOW2_ZERO;
	if (e->word & reserved)
		hopeless(c, e, "reserved bits set");
	if (ALLOC_BITS(e->bitmap) & ZERO_BITS(e->bitmap))
		hopeless(c, e, "subclusters both allocated and zero");
	return is_allocated(c, e) ? check_allocated(c, e) : check_unallocated(c, e);
}

/* ---- tables ---- */

static uint32_t entry_bytes(const struct cow_checker *c)
{
	return c->extended_l2 ? 16 : 8;
}

static struct entry load_entry(const struct cow_checker *c, const struct cow_l2_ref *ref,
			       uint32_t at)
{
	const uint8_t *p = c->cluster + at;
	return (struct entry){
		.table_off = ref->off,
		.idx = at / entry_bytes(c),
		.refs = ref->refs,
		.word = cow_load64_be(p),
		.bitmap = c->extended_l2 ? cow_load64_be(p + 8) : 0,
	};
}

/* True if that changed it. */
static bool load_fixed(const struct cow_checker *c, const struct cow_l2_ref *ref, uint32_t at,
		       struct entry *e)
{
	const struct entry old = load_entry(c, ref, at);
	*e = old;
	fix_entry(c, e);
	return e->word != old.word || e->bitmap != old.bitmap;
}

/*
 * A table with hopeless entries may be no L2 table at all: it is left as it is, and nothing is
 * freed on its word.
 */
static int note_suspect(struct cow_checker *c, const struct cow_l2_ref *ref)
{
	c->incomplete = true;
	cow_check_cells_at(&c->cells, ref->off >> c->header.cluster_bits)->suspect = 1;
	return 0;
}

static int check_table(struct cow_checker *c, struct cow_l2_ref *ref)
{
	uint32_t bytes = cow_cluster_bytes(&c->header);
	bool suspect = false;
	int ret = cow_checker_read(c, ref->off, c->cluster, bytes);
	for (uint32_t at = 0; at < bytes && !ret; at += entry_bytes(c)) {
		struct entry fixed, e = load_entry(c, ref, at);
		if (!e.word && !e.bitmap)
			continue;
		ret = check_entry(c, &e);
		suspect |= e.unfixable;
		ref->fixable |= load_fixed(c, ref, at, &fixed);
	}
	return !ret && suspect ? note_suspect(c, ref) : ret;
}

static int fix_table(struct cow_checker *c, const struct cow_l2_ref *ref)
{
	uint32_t bytes = cow_cluster_bytes(&c->header);
	uint64_t first = UINT64_MAX, end = 0;
	int ret = cow_checker_read(c, ref->off, c->cluster, bytes);
	for (uint32_t at = 0; at < bytes && !ret; at += entry_bytes(c)) {
		struct entry e;
		if (!load_fixed(c, ref, at, &e))
			continue;
		cow_store64_be(c->cluster + at, e.word);
		if (c->extended_l2)
			cow_store64_be(c->cluster + at + 8, e.bitmap);
		first = at < first ? at : first;
		end = at + entry_bytes(c);
	}
	return ret ? ret : cow_checker_write_changed(c, ref->off, c->cluster, first, end);
}

/* Once all is marked: a table that turned out to be something else too is not written to. */
int cow_check_repair_l2_tables(struct cow_checker *c)
{
	for (uint64_t i = 0; i < c->nr_l2; i++) {
		struct cow_check_cell cell =
			cow_check_cells_get(&c->cells, c->l2[i].off >> c->header.cluster_bits);
		if (!c->l2[i].fixable || cell.suspect || cell.conflict)
			continue;
		int ret = fix_table(c, &c->l2[i]);
		if (ret)
			return ret;
	}
	return 0;
}

static int add_l2(struct cow_checker *c, uint64_t off, uint32_t refs)
{
	if (c->nr_l2 == c->max_l2) {
		uint64_t max = c->max_l2 ? c->max_l2 * 2 : 256;
		struct cow_l2_ref *more = reallocarray(c->l2, max, sizeof(*more));
		if (!more)
			return -ENOMEM;
		c->l2 = more;
		c->max_l2 = max;
	}
	c->l2[c->nr_l2++] = (struct cow_l2_ref){ .off = off, .refs = refs };
	return 0;
}

/* Before data is marked: then an L2 table's count is the number of L1 entries that lead to it. */
static int collect_tables(struct cow_checker *c)
{
	for (uint64_t i = cow_check_cells_next(&c->cells, 0); i != UINT64_MAX;
	     i = cow_check_cells_next(&c->cells, i + 1)) {
		struct cow_check_cell cell = cow_check_cells_get(&c->cells, i);
		if (cell.kind != COW_KIND_L2 || cell.conflict)
			continue;
		int ret = add_l2(c, i << c->header.cluster_bits, cell.refs);
		if (ret)
			return ret;
	}
	return 0;
}

int cow_check_mark_l2_tables(struct cow_checker *c)
{
	int ret = collect_tables(c);
	for (uint64_t i = 0; i < c->nr_l2 && !ret; i++) {
		ret = check_table(c, &c->l2[i]);
		if (i % 64 == 0)
			cow_checker_progress(c, (unsigned)(600 * i / c->nr_l2));
	}
	return ret;
}
