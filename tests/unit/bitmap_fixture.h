/* SPDX-License-Identifier: MIT */
/*
 * An image with dirty bitmaps on a host in memory that may lose power at any point. What must hold
 * then:
 *   - the image is sound (leaks are allowed), the header names the same backing file;
 *   - a command has happened or not;
 *   - an enabled bitmap that is not marked as in use covers all that differs from when it was last clear.
 */
#ifndef COW_TEST_BITMAP_FIXTURE_H
#define COW_TEST_BITMAP_FIXTURE_H

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
#include "engine/base/buf.h"
#include "engine/base/log.h"
#include "engine/base/math.h"
#include "engine/bitmap/bitmap.h"
#include "engine/check/check.h"
#include "engine/create/create.h"
#include "engine/core/load.h"
#include "engine/format/geometry.h"
#include "engine/format/reference.h"
#include "engine/life/image.h"
#include "engine/bitmap/tracking.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"
#include "tests/memory/memory_host.h"

#define DISK_BYTES (256u << 10)
#define CLUSTER 4096u
#define BACKING "base.raw"

struct fixture {
	struct memory_host *m;
	struct memory_content kept; /* the file, as it comes back */
	struct cow_error err;
};

static inline int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->m = memory_host_new();
	cow_loop_enter(&f->m->loop);
	*state = f;
	srand(1);
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;
	cow_loop_enter(NULL);
	memory_host_free(f->m);
	memory_content_fini(&f->kept);
	free(f);
	return 0;
}

/* ---- the image ---- */

static inline void create(struct fixture *f)
{
	struct cow_create_options options = { .size_bytes = DISK_BYTES,
					      .has_size = true,
					      .cluster_bytes = CLUSTER,
					      .overwrite = true };
	f->err = (struct cow_error){ 0 };
	if (cow_create(&f->m->host, &f->m->loop, "/disk", &options, &f->err))
		fail_msg("create: %s", f->err.text);
}

static inline struct cow_file *open_file(struct fixture *f)
{
	struct cow_file *file;
	assert_int_equal(f->m->host.ops->open(&f->m->host, "/disk", COW_OPEN_WRITE, &file, &f->err),
			 0);
	return file;
}

static inline int run(struct fixture *f, const struct cow_bitmap_change *change)
{
	struct cow_file *file = open_file(f);
	f->err = (struct cow_error){ 0 };
	int ret = cow_bitmap_run(&f->m->loop, file, change, &f->err);
	f->m->host.ops->close(file);
	return ret;
}

static inline int command(struct fixture *f, enum cow_bitmap_command what, const char *name)
{
	const struct cow_bitmap_change change = { .command = what,
						  .name = name,
						  .granularity_bits = 12 };
	return run(f, &change);
}

/* All of it, unless power went. */
static inline void succeeded(struct fixture *f, int ret)
{
	if (ret && !f->m->powered_off)
		fail_msg("%s: %s", strerror(-ret), f->err.text);
}

static inline void must(struct fixture *f, enum cow_bitmap_command what, const char *name)
{
	if (command(f, what, name))
		fail_msg("%s %s: %s", cow_bitmap_command_name(what), name, f->err.text);
}

struct state {
	struct cow_header header;
	struct cow_extensions ext;
	struct cow_bitmap *list;
	uint32_t nr;
	char backing[1024];
};

/* What the file says now; it must be decodable. */
static inline struct state state_of(struct fixture *f)
{
	struct state s = { .nr = 0 };
	struct cow_file *file = open_file(f);
	uint8_t *cluster;
	f->err = (struct cow_error){ 0 };
	int ret = cow_load_header(&f->m->loop, file, &s.header, &cluster, &f->err);
	if (!ret)
		ret = cow_extensions_decode(cluster, &s.header, &s.ext, &f->err);
	if (!ret)
		ret = cow_reference_backing_name(cluster, &s.header, s.backing, &f->err);
	if (!ret)
		ret = cow_load_bitmaps(&f->m->loop, file, &s.header, &s.ext, &s.list, &f->err);
	if (ret)
		fail_msg("cannot be decoded: %s", f->err.text);
	s.nr = s.ext.has_bitmaps ? s.ext.nr_bitmaps : 0;
	free(cluster);
	f->m->host.ops->close(file);
	return s;
}

static inline uint32_t nr_bitmaps(struct fixture *f)
{
	struct state s = state_of(f);
	free(s.list);
	return s.nr;
}

static inline void print_finding(void *ctx, const char *text)
{
	print_message("  %s\n", text);
}

static inline uint64_t assert_sound(struct fixture *f)
{
	struct cow_check_options options = { .finding = NULL };
	struct cow_check_result result;
	struct cow_file *file = open_file(f);
	int ret = cow_check_file(&f->m->loop, file, &options, &result, &f->err);
	options.finding = print_finding;
	if (!ret && result.corruptions + result.check_errors)
		COW_IGNORE(cow_check_file(&f->m->loop, file, &options, &result, &f->err));
	f->m->host.ops->close(file);
	assert_int_equal(ret, 0);
	assert_int_equal(result.corruptions + result.check_errors, 0);
	return result.leaks;
}

/* Granules of 4 KiB that are dirty, as letters; NULL: it cannot be read. */
static inline const char *dump(struct fixture *f, const char *name)
{
	static char text[DISK_BYTES / CLUSTER + 1];
	struct cow_file *file = open_file(f);
	struct cow_dirty d;
	uint64_t off = 0, bytes;
	f->err = (struct cow_error){ 0 };
	int ret = cow_bitmap_dump(&f->m->loop, file, name, &d, &f->err);
	f->m->host.ops->close(file);
	if (ret)
		return NULL;
	memset(text, '.', sizeof(text) - 1);
	for (; cow_dirty_next(&d, &off, &bytes); off += bytes)
		memset(text + off / CLUSTER, '#', (bytes + CLUSTER - 1) / CLUSTER);
	cow_dirty_fini(&d);
	return text;
}

/* ---- the disk ---- */

/* NULL if power went. */
static inline struct cow_image *open_image(struct fixture *f, bool writable)
{
	/* Opened over and over: what is allocated for the defaults would take longer than the test. */
	static const struct cow_limits limits = { .ring = 1024,
						  .ring_own = 128,
						  .release_batch = 64 };
	struct cow_open_options options = { .writable = writable,
					    .reserve_bytes = 16 * CLUSTER,
					    .limits = &limits };
	struct cow_image *image = NULL;
	f->err = (struct cow_error){ 0 };
	succeeded(f, cow_image_open(&f->m->host, &f->m->loop, "/disk", &options, &image, &f->err));
	if (f->m->powered_off && image) { /* at the last moment */
		COW_IGNORE(cow_image_close(image, &f->m->loop, &f->err));
		image = NULL;
	}
	return image;
}

static inline int do_op(struct fixture *f, struct cow_image *image, enum cow_op_kind kind,
			uint64_t off, uint64_t bytes, void *buf)
{
	struct cow_queue *queue;
	assert_int_equal(cow_queue_new(image, &f->m->loop, 4, &queue), 0);
	int ret = cow_queue_do(queue, kind, 0, off, bytes, buf);
	cow_queue_free(queue);
	return ret;
}

static inline int put(struct fixture *f, struct cow_image *image, uint64_t off, uint64_t bytes,
		      int value)
{
	uint8_t *buf = cow_buf_alloc(bytes);
	memset(buf, value, bytes);
	int ret = do_op(f, image, COW_OP_WRITE, off, bytes, buf);
	free(buf);
	return ret;
}

static inline void write_closed(struct fixture *f, uint64_t off, uint64_t bytes, int value)
{
	struct cow_image *image = open_image(f, true);
	if (!image)
		return;
	succeeded(f, put(f, image, off, bytes, value));
	succeeded(f, cow_image_close(image, &f->m->loop, &f->err));
}

static inline uint8_t *content(struct fixture *f)
{
	struct cow_image *image = open_image(f, false);
	uint8_t *buf = cow_buf_alloc(DISK_BYTES);
	assert_int_equal(do_op(f, image, COW_OP_READ, 0, DISK_BYTES, buf), 0);
	COW_IGNORE(cow_image_close(image, &f->m->loop, NULL));
	return buf;
}

/* ---- as it was ---- */

static inline void keep(struct fixture *f)
{
	memory_keep_changes(f->m);
	memory_content_copy(&f->kept, &f->m->file->now);
}

static inline void restore(struct fixture *f)
{
	memory_restore(f->m, &f->kept);
}

/* ---- judging ---- */

/* Sectors where two disks differ, but not in a dirty granule. */
static inline bool covered(const uint8_t *then, const uint8_t *now, const char *dirty)
{
	for (uint64_t off = 0; off < DISK_BYTES; off += 512)
		if (dirty[off / CLUSTER] != '#' && memcmp(then + off, now + off, 512))
			return false;
	return true;
}

/* Most of what is done here fails on purpose. */
static inline void quiet(enum cow_log_level level, const char *line)
{
}

/* ---- the header ---- */

static inline uint64_t put_extension(uint8_t *cluster, uint64_t off, uint32_t type, uint32_t bytes)
{
	cow_store32_be(cluster + off, type);
	cow_store32_be(cluster + off + 4, bytes);
	memset(cluster + off + 8, 0x5a, bytes);
	return off + 8 + ((bytes + 7) & ~7u);
}

/*
 * An unknown extension of some length, END, and gap bytes behind it the backing file's name (-1:
 * none). valid: bitmaps are said to be valid, but there are none.
 */
static inline void lay_out(struct fixture *f, uint32_t unknown_bytes, int gap, bool valid)
{
	create(f);
	uint8_t *cluster = f->m->bytes;
	struct cow_header h;
	assert_int_equal(cow_header_decode(cluster, 512, &h, NULL), 0);
	memset(cluster + h.header_bytes, 0, CLUSTER - h.header_bytes);
	uint64_t off = put_extension(cluster, h.header_bytes, QCOW2_EXT_BACKING_FORMAT, 0);
	off = put_extension(cluster, off, 0x12345678, unknown_bytes) + 8;
	h.autoclear = valid ? QCOW2_AUTOCLEAR_BITMAPS : 0;
	if (gap >= 0) {
		h.backing_name_off = off + (unsigned)gap;
		h.backing_name_bytes = strlen(BACKING);
		memcpy(cluster + h.backing_name_off, BACKING, h.backing_name_bytes);
	}
	cow_header_encode(&h, cluster, h.header_bytes);
}

static inline void assert_header(struct fixture *f, int gap, uint32_t most)
{
	struct state s = state_of(f);
	assert_string_equal(s.backing, gap < 0 ? "" : BACKING);
	assert_true(s.nr <= most);
	free(s.list);
	assert_sound(f);
}

#endif
