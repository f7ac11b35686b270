/* SPDX-License-Identifier: MIT */
/* A disk whose host cannot read parts of it: which ranges are lost, to the sector, and that all others are not. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/be.h"
#include "engine/create/create.h"
#include "engine/tool/convert.h"
#include "engine/tool/salvage.h"
#include "tests/memory/handle.h"
#include "tests/memory/memory_host.h"

#define DISK_BYTES (3u << 20)

struct bad {
	struct memory_host *host; /* whose reads fail, with this, where they touch one of: */
	int error;
	unsigned nr;
	struct cow_lost at[8];
};

static int64_t fault(void *ctx, const struct cow_io *io)
{
	const struct bad *bad = ctx;
	if (io->kind != COW_IO_READ || memory_file_of(io->file) != bad->host->file)
		return 0;
	for (unsigned i = 0; i < bad->nr; i++)
		if (io->offset < bad->at[i].off + bad->at[i].bytes &&
		    bad->at[i].off < io->offset + io->length)
			return bad->error;
	return 0;
}

static void pattern(struct memory_host *m, uint64_t bytes)
{
	memory_fill(m, 0, 1, bytes);
	for (uint64_t i = 0; i < bytes; i++)
		m->bytes[i] = (uint8_t)(1 + i % 251);
}

static struct cow_disk *open_disk(struct memory_host *m, struct cow_loop *loop,
				  enum cow_disk_format format, bool writable)
{
	const struct cow_disk_spec spec = {
		.path = "/disk",
		.format = format,
		.open = { .writable = writable, .salvage = !writable, .cache_bytes = 1 << 20 },
	};
	struct cow_disk *disk;
	assert_int_equal(cow_disk_open(&m->host, loop, &spec, &disk, NULL), 0);
	return disk;
}

/* Converts to a raw file; the loop is the source's, and so are the faults. */
static int convert(struct memory_host *from, enum cow_disk_format format, struct memory_host *to,
		   struct bad *bad, struct cow_salvage *s)
{
	from->fault = fault;
	from->ctx = bad;
	bad->host = from;
	struct cow_disk *source = open_disk(from, &from->loop, format, false);
	memory_set_size(to, cow_disk_bytes(source));
	struct cow_disk *target = open_disk(to, &from->loop, COW_DISK_RAW, true);
	const struct cow_concat all = { .disks = &source, .nr = 1 };
	struct cow_convert c = {
		.source = &all,
		.target = target,
		.target_is_zero = true,
		.sparse_bytes = 4096,
		.salvage = s,
		.loop = &from->loop,
	};
	int ret = cow_convert(&c);
	cow_salvage_finish(s);
	assert_int_equal(cow_disk_close(target, &from->loop, NULL), 0);
	assert_int_equal(cow_disk_close(source, &from->loop, NULL), 0);
	return ret;
}

static void expect(const struct cow_salvage *s, unsigned nr, const struct cow_lost *want)
{
	assert_int_equal(s->nr, nr);
	for (unsigned i = 0; i < nr; i++) {
		assert_int_equal(s->ranges[i].off, want[i].off);
		assert_int_equal(s->ranges[i].bytes, want[i].bytes);
	}
}

static bool is_lost(const struct cow_salvage *s, uint64_t at)
{
	for (size_t i = 0; i < s->nr; i++)
		if (at >= s->ranges[i].off && at < s->ranges[i].off + s->ranges[i].bytes)
			return true;
	return false;
}

/* Sectors here and there: at both ends, over a piece's end, alone. */
static void sectors(void **state)
{
	struct memory_host *from = memory_host_new(), *to = memory_host_new();
	const struct cow_lost want[] = {
		{ 0, 512 },
		{ 70144, 1024 },
		{ (1 << 20) - 512, 1536 },
		{ DISK_BYTES - 512, 512 },
	};
	struct bad bad = { .error = -EIO, .nr = 4 };
	struct cow_salvage s;
	memcpy(bad.at, want, sizeof(want));
	bad.at[1].bytes = 513; /* a sector fails as a whole */
	cow_salvage_init(&s);
	pattern(from, DISK_BYTES);
	assert_int_equal(convert(from, COW_DISK_RAW, to, &bad, &s), 0);
	expect(&s, 4, want);
	assert_int_equal(s.bytes, 3584);
	for (uint64_t i = 0; i < DISK_BYTES; i++)
		assert_int_equal(to->bytes[i], is_lost(&s, i) ? 0 : from->bytes[i]);
	cow_salvage_fini(&s);
	memory_host_free(to);
	memory_host_free(from);
}

/* What is not the disk's fault ends it all the same. */
static void no_memory(void **state)
{
	struct memory_host *from = memory_host_new(), *to = memory_host_new();
	struct bad bad = { .error = -ENOMEM, .nr = 1, .at = { { 4096, 512 } } };
	struct cow_salvage s;
	cow_salvage_init(&s);
	pattern(from, DISK_BYTES);
	assert_int_equal(convert(from, COW_DISK_RAW, to, &bad, &s), -ENOMEM);
	expect(&s, 0, NULL);
	cow_salvage_fini(&s);
	memory_host_free(to);
	memory_host_free(from);
}

/* An L2 table, and a sector of the L1 table, that cannot be read: what they map. */
static void tables(void **state)
{
	struct memory_host *from = memory_host_new(), *to = memory_host_new();
	struct cow_create_options options = { .size_bytes = DISK_BYTES,
					      .has_size = true,
					      .cluster_bytes = 512,
					      .preallocation = COW_PREALLOC_FULL };
	struct bad bad = { .error = -EIO };
	struct cow_salvage s;
	cow_salvage_init(&s);
	assert_int_equal(cow_create(&from->host, &from->loop, "/disk", &options, NULL), 0);
	uint64_t l1 = cow_load64_be(from->bytes + 40);
	uint64_t l2 = cow_load64_be(from->bytes + l1 + 8) & 0x00fffffffffffe00;
	bad.nr = 2;
	bad.at[0] = (struct cow_lost){ l2, 512 };	/* 64 clusters of 512 bytes */
	bad.at[1] = (struct cow_lost){ l1 + 512, 512 }; /* 64 tables */
	assert_int_equal(convert(from, COW_DISK_QCOW2, to, &bad, &s), 0);
	const struct cow_lost want[] = { { 32768, 32768 },
					 { 64 * 32768, DISK_BYTES - 64 * 32768 } };
	expect(&s, 2, want);
	cow_salvage_fini(&s);
	memory_host_free(to);
	memory_host_free(from);
}

/* The list: in any order, twice, more than it takes. */
static void list(void **state)
{
	struct cow_salvage s;
	const struct cow_lost want[] = { { 512, 2048 }, { 8192, 512 } };
	cow_salvage_init(&s);
	assert_int_equal(cow_salvage_note(&s, 8192, 512), 0);
	assert_int_equal(cow_salvage_note(&s, 1536, 1024), 0);
	assert_int_equal(cow_salvage_note(&s, 512, 512), 0);
	assert_int_equal(cow_salvage_note(&s, 1024, 512), 0);
	assert_int_equal(cow_salvage_note(&s, 512, 1024), 0);
	cow_salvage_finish(&s);
	expect(&s, 2, want);
	assert_int_equal(s.bytes, 2560);
	assert_false(s.too_many);
	for (uint64_t i = 0; i <= COW_SALVAGE_MOST; i++)
		assert_int_equal(cow_salvage_note(&s, 1 << 20 | i << 21, 512), 0);
	cow_salvage_finish(&s);
	assert_true(s.too_many);
	assert_int_equal(s.nr, COW_SALVAGE_MOST);
	cow_salvage_fini(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sectors),
		cmocka_unit_test(no_memory),
		cmocka_unit_test(tables),
		cmocka_unit_test(list),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
