/* SPDX-License-Identifier: MIT */
/*
 * A whole image, opened for writing and driven with requests. Nothing of it may crash, hang or fail
 * an assertion; and an image without corruptions has none afterwards.
 *
 * The input's last byte is the number of requests (25 values) and the options (the rest), before it
 * stand the requests (8 bytes each: kind, flags, 3 bytes offset in sectors, 2 bytes length in
 * sectors, fill), before them the image.
 *
 * Beside the image lie what it may name: an external data file "data", a raw file "base", and
 * "twin", the same image without a backing file of its own. An image that says it is LUKS gets a
 * LUKS area at LUKS_AREA_OFF (luks_area.h): no fuzzer comes past a key's derivation.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/base/log.h"
#include "engine/check/check.h"
#include "engine/format/format.h"
#include "engine/life/freeze.h"
#include "engine/life/image.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"
#include "engine/snapshot/snapshot.h"
#include "tests/fuzz/luks_area.h"
#include "tests/memory/memory_host.h"

#define MAX_BYTES LUKS_AREA_OFF
#define ROOM_BYTES (4u << 20)
#define MAX_REQUESTS 24u
#define REQUEST_BYTES 8u
#define MAX_LENGTH (128u << 10)
#define BASE_BYTES (96u << 10)
#define CRYPT_METHOD_OFF 32
#define BACKING_OFF 8 /* offset and length of the name */
#define BACKING_BYTES 12

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- a host with a few files ---- */

static bool is_luks(const uint8_t *image, size_t bytes)
{
	return bytes >= CRYPT_METHOD_OFF + 4 &&
	       cow_load32_be(image + CRYPT_METHOD_OFF) == QCOW2_CRYPT_LUKS;
}

static bool names_backing(const uint8_t *image, size_t bytes)
{
	return bytes >= BACKING_OFF + BACKING_BYTES && cow_load64_be(image + BACKING_OFF);
}

static struct memory_content *add_file(struct memory_host *m, const char *path, uint64_t capacity)
{
	m->disk.capacity_bytes = capacity;
	return &memory_disk_create(&m->disk, path)->now;
}

static void add_backing(struct memory_host *m, const uint8_t *image, size_t bytes)
{
	static uint8_t base[BASE_BYTES];
	memset(base, 0xba, sizeof(base));
	memory_content_write(add_file(m, "/base", BASE_BYTES), 0, base, BASE_BYTES);
	struct memory_content *twin = add_file(m, "/twin", LUKS_AREA_OFF + LUKS_AREA_BYTES);
	memory_content_write(twin, 0, image, bytes);
	memset(twin->bytes + BACKING_OFF, 0, BACKING_BYTES);
	if (is_luks(image, bytes))
		luks_area_put(twin);
}

static int make_host(struct memory_host *m, const uint8_t *image, size_t bytes)
{
	int ret = memory_host_init(m, image, bytes, bytes + ROOM_BYTES);
	if (ret)
		return ret;
	m->disk.one_file = false;
	if (is_luks(image, bytes))
		luks_area_put(&m->file->now);
	m->self.file.size_bytes = memory_size(m);
	add_file(m, "/data", ROOM_BYTES / 4);
	if (names_backing(image, bytes))
		add_backing(m, image, bytes);
	return 0;
}

/* ---- requests ---- */

static void run_request(struct cow_queue *queue, uint64_t disk_bytes, const uint8_t *p,
			uint8_t *buf)
{
	static const enum cow_op_kind kinds[] = {
		COW_OP_READ,  COW_OP_WRITE,   COW_OP_WRITE,
		COW_OP_FLUSH, COW_OP_DISCARD, COW_OP_WRITE_ZEROES
	};
	uint64_t offset = ((uint64_t)p[2] << 16 | (uint64_t)p[3] << 8 | p[4]) * 512;
	uint64_t length = ((uint64_t)p[5] << 8 | p[6]) * 512 % MAX_LENGTH + 512;
	if (disk_bytes < 512)
		return;
	offset %= disk_bytes;
	length = length < disk_bytes - offset ? length : disk_bytes - offset;
	enum cow_op_kind kind = kinds[p[0] % 8 % 6];
	unsigned flags = kind == COW_OP_WRITE	       ? p[1] & COW_OP_FUA
			 : kind == COW_OP_WRITE_ZEROES ? p[1] & 3
						       : 0;
	memset(buf, p[7], length);
	COW_IGNORE(cow_queue_do(queue, kind, flags, kind == COW_OP_FLUSH ? 0 : offset,
				kind == COW_OP_FLUSH ? 0 : length, buf));
}

static int create_snapshot(void *ctx, struct cow_loop *loop, struct cow_file *file,
			   struct cow_error *err)
{
	const struct cow_snapshot_date date = { .sec = 1 };
	return cow_snapshot_create(loop, file, ctx, &date, NULL, err);
}

static int delete_snapshot(void *ctx, struct cow_loop *loop, struct cow_file *file,
			   struct cow_error *err)
{
	const struct cow_snapshot_key key = { .text = ctx, .by = COW_SNAPSHOT_BY_ANY };
	return cow_snapshot_delete(loop, file, &key, err);
}

/* Snapshots "0" to "9", under a freeze. */
static void run_snapshot(struct cow_image *image, struct cow_loop *loop, const uint8_t *p)
{
	char name[2] = { (char)('0' + p[7] % 10), 0 };
	struct cow_error err = { 0 };
	int ret = cow_image_change_frozen(
		image, loop, p[0] % 8 == 6 ? create_snapshot : delete_snapshot, name, NULL, &err);
	cow_assert(!ret || (err.code && err.text[0]));
}

static void run_requests(struct cow_image *image, struct cow_loop *loop, const uint8_t *requests,
			 unsigned nr)
{
	struct cow_queue *queue;
	uint8_t *buf = cow_buf_alloc(MAX_LENGTH);
	cow_assert(buf && !cow_queue_new(image, loop, 4, &queue));
	for (unsigned i = 0; i < nr; i++)
		if (requests[i * REQUEST_BYTES] % 8 < 6)
			run_request(queue, cow_image_geometry(image)->size_bytes,
				    requests + i * REQUEST_BYTES, buf);
		else
			run_snapshot(image, loop, requests + i * REQUEST_BYTES);
	cow_queue_free(queue);
	free(buf);
}

static bool is_sound(struct memory_host *disk)
{
	struct cow_check_options options = { 0 };
	struct cow_check_result result;
	return !cow_check_file(&disk->loop, &disk->self.file, &options, &result, NULL) &&
	       !result.corruptions;
}

/* options: bits of enum, as the input says. */
static void set_options(struct cow_open_options *o, unsigned options)
{
	static const struct cow_secret *secret;
	static const char *const root = "/";
	if (!secret)
		secret = luks_area_secret();
	o->compress = options & 1;
	o->detect_zeroes = options & 2 ? COW_DETECT_ZEROES_UNMAP : COW_DETECT_ZEROES_OFF;
	o->no_discard = options & 4;
	o->reserve_bytes = options & 8 ? 1 : 0;
	o->secrets = &secret;
	o->nr_secrets = 1;
	o->write_legacy_aes = true;
	o->data_roots = &root;
	o->nr_data_roots = 1;
}

static void drive(struct memory_host *m, const uint8_t *requests, unsigned nr, unsigned options)
{
	struct cow_open_options open = { .writable = true, .cache_bytes = 64 << 10 };
	struct cow_image *image;
	struct cow_error err = { 0 };
	bool sound = is_sound(m);
	set_options(&open, options);
	if (cow_image_open(&m->host, &m->loop, m->file->path, &open, &image, &err)) {
		cow_assert(err.code && err.text[0]);
		return;
	}
	run_requests(image, &m->loop, requests, nr);
	COW_IGNORE(cow_image_close(image, &m->loop, &err));
	if (sound)
		cow_assert(is_sound(m));
}

static void no_log(enum cow_log_level level, const char *line)
{
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct memory_host m;
	if (size < 1 || size > MAX_BYTES)
		return 0;
	unsigned nr = data[size - 1] % (MAX_REQUESTS + 1);
	size_t tail = 1 + (size_t)nr * REQUEST_BYTES;
	if (size < tail)
		return 0;
	cow_log_set_sink(no_log, COW_LOG_ERR);
	if (make_host(&m, data, size - tail))
		return 0;
	drive(&m, data + size - tail, nr, data[size - 1] / (MAX_REQUESTS + 1));
	memory_host_fini(&m);
	return 0;
}
