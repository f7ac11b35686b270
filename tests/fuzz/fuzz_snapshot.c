/* SPDX-License-Identifier: MIT */
/*
 * Snapshot table and bitmap directory. First byte: which, and the version; then a count; then the
 * table.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/format/format.h"
#include "engine/format/bitmap_directory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/*
 * An accepted entry encodes to no more bytes than it took (its strings may end early at a NUL), and
 * decodes again.
 */
static void check_again(const struct cow_snapshot *s, const struct cow_header *h)
{
	struct cow_header one = *h;
	struct cow_snapshot *list;
	struct cow_error err = { 0 };
	uint64_t bytes = cow_snapshot_bytes(s), used;
	uint8_t *buf = malloc(bytes);
	cow_snapshot_encode(s, buf);
	one.nr_snapshots = 1;
	cow_assert(!cow_snapshots_decode(buf, bytes, 0, &one, &list, &used, &err) && used == bytes);
	cow_assert(!strcmp(list[0].name, s->name) && list[0].l1_off == s->l1_off);
	cow_assert(list[0].disk_bytes == s->disk_bytes && list[0].icount == s->icount);
	COW_IGNORE(cow_snapshot_verify_l1(s, h, 1 << 20, &err));
	cow_snapshots_free(list, 1);
	free(buf);
}

static void fuzz_snapshots(const uint8_t *table, size_t size, struct cow_header *h)
{
	struct cow_snapshot *list;
	struct cow_error err = { 0 };
	uint64_t used;
	if (!cow_snapshots_decode(table, size, 0x10000, h, &list, &used, &err)) {
		cow_assert(used <= size);
		for (uint32_t i = 0; i < h->nr_snapshots; i++)
			check_again(&list[i], h);
		cow_snapshots_free(list, h->nr_snapshots);
	}
}

static void fuzz_bitmaps(const uint8_t *dir, size_t size, const struct cow_header *h)
{
	struct cow_extensions ext = { .has_bitmaps = true,
				      .nr_bitmaps = h->nr_snapshots,
				      .bitmap_directory_bytes = size };
	struct cow_bitmap *list;
	struct cow_error err = { 0 };
	cow_assert(!cow_bitmaps_decode(dir, h, &ext, &list, &err) == !err.code);
	free(list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cow_header h = { .cluster_bits = 16, .size_bytes = 1 << 30 };
	if (size < 3)
		return 0;
	h.version = data[0] & 1 ? 3 : 2;
	h.nr_snapshots = data[1];
	/* A copy of the exact length: the sanitizer sees any byte read behind it. */
	uint8_t *copy = malloc(size - 2);
	memcpy(copy, data + 2, size - 2);
	if (data[0] & 2)
		fuzz_bitmaps(copy, size - 2, &h);
	else
		fuzz_snapshots(copy, size - 2, &h);
	free(copy);
	return 0;
}
