/* SPDX-License-Identifier: MIT */
/*
 * A whole image, opened for writing and driven with requests. Nothing of it may crash, hang or fail an assertion; and an image
 * without corruptions has none afterwards.
 *
 * The input's last byte is the number of requests, before it stand the requests (8 bytes each: kind, flags, 3 bytes offset in sectors,
 * 2 bytes length in sectors, fill), before them the image.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/log.h"
#include "engine/check.h"
#include "engine/image.h"
#include "tests/fuzz/memory_disk.h"

#define MAX_BYTES (256u << 10)
#define ROOM_BYTES (4u << 20)
#define MAX_REQUESTS 24u
#define REQUEST_BYTES 8u
#define MAX_LENGTH (128u << 10)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- a host with one file ---- */

struct one_file_host {
	struct cow_host host;
	struct memory_disk disk;
};

static int host_open(struct cow_host *host, const char *path, unsigned flags, struct cow_file **out,
		     struct cow_error *err)
{
	struct one_file_host *h = (struct one_file_host *)host;
	if (strcmp(path, "/image"))
		return cow_error_set(err, -ENOENT, "%s: there is no other file", path);
	h->disk.file.host = host;
	*out = &h->disk.file;
	return 0;
}

static void host_close(struct cow_file *file)
{
}

static int host_realpath(struct cow_host *host, const char *path, char **out)
{
	*out = strdup(path);
	return *out ? 0 : -ENOMEM;
}

/* ---- requests ---- */

static void run_request(struct cow_queue *queue, uint64_t disk_bytes, const uint8_t *p, uint8_t *buf)
{
	static const enum cow_op_kind kinds[] = {COW_OP_READ, COW_OP_WRITE, COW_OP_WRITE, COW_OP_FLUSH,
						 COW_OP_DISCARD, COW_OP_WRITE_ZEROES};
	uint64_t offset = ((uint64_t)p[2] << 16 | (uint64_t)p[3] << 8 | p[4]) * 512;
	uint64_t length = ((uint64_t)p[5] << 8 | p[6]) * 512 % MAX_LENGTH + 512;
	if (disk_bytes < 512)
		return;
	offset %= disk_bytes;
	length = length < disk_bytes - offset ? length : disk_bytes - offset;
	enum cow_op_kind kind = kinds[p[0] % 6];
	unsigned flags = kind == COW_OP_WRITE ? p[1] & COW_OP_FUA : kind == COW_OP_WRITE_ZEROES ? p[1] & 3 : 0;
	memset(buf, p[7], length);
	cow_queue_do(queue, kind, flags, kind == COW_OP_FLUSH ? 0 : offset, kind == COW_OP_FLUSH ? 0 : length, buf);
}

static void run_requests(struct cow_image *image, struct cow_loop *loop, const uint8_t *requests, unsigned nr)
{
	struct cow_queue *queue;
	uint8_t *buf = cow_buf_alloc(MAX_LENGTH);
	cow_assert(buf && !cow_queue_new(image, loop, 4, &queue));
	for (unsigned i = 0; i < nr; i++)
		run_request(queue, cow_image_geometry(image)->size_bytes, requests + i * REQUEST_BYTES, buf);
	cow_queue_free(queue);
	free(buf);
}

static bool is_sound(struct memory_disk *disk)
{
	struct cow_check_options options = {0};
	struct cow_check_result result;
	return !cow_check_file(&disk->loop, &disk->file, &options, &result, NULL) && !result.corruptions;
}

static void drive(struct one_file_host *h, const uint8_t *requests, unsigned nr)
{
	const struct cow_open_options options = {.writable = true, .cache_bytes = 64 << 10};
	struct cow_image *image;
	struct cow_error err = {0};
	bool sound = is_sound(&h->disk);
	if (cow_image_open(&h->host, &h->disk.loop, "/image", &options, &image, &err)) {
		cow_assert(err.code && err.text[0]);
		return;
	}
	run_requests(image, &h->disk.loop, requests, nr);
	cow_image_close(image, &h->disk.loop, &err);
	if (sound)
		cow_assert(is_sound(&h->disk));
}

static void no_log(enum cow_log_level level, const char *line)
{
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct cow_host_ops ops = {.open = host_open, .close = host_close, .realpath = host_realpath};
	struct one_file_host h = {.host = {.ops = &ops}};
	if (size < 1 || size > MAX_BYTES)
		return 0;
	unsigned nr = data[size - 1] % (MAX_REQUESTS + 1);
	size_t tail = 1 + (size_t)nr * REQUEST_BYTES;
	if (size < tail || memory_disk_init(&h.disk, data, size - tail, size + ROOM_BYTES))
		return 0;
	cow_log_set_sink(no_log, COW_LOG_ERR);
	drive(&h, data + size - tail, nr);
	memory_disk_fini(&h.disk);
	return 0;
}
