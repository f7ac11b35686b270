/* SPDX-License-Identifier: MIT */
/*
 * cow_io: single requests on an image through the engine, for scripts.
 *
 *   cow_io [OPTIONS] IMAGE COMMAND [ARGS] [-- COMMAND [ARGS]]...
 *     write OFFSET LENGTH BYTE     fill with BYTE
 *     zero OFFSET LENGTH [keep]    WRITE_ZEROES, keep: NOUNMAP
 *     discard OFFSET LENGTH
 *     flush
 *     verify OFFSET LENGTH BYTE    fails unless all is BYTE
 *     convert FILE                 the whole disk into a raw file
 *     load FILE                    a raw file onto the disk
 *     size                         prints the disk's size in bytes
 *     die                          SIGKILL to itself: nothing is closed
 *   Options: --read-only --sync-loop --no-discard --detect-zeroes MODE --backing-root DIR --no-backing --key-file FILE
 *            --write-legacy-aes
 *     --snapshot SNAPSHOT (with --read-only)
 * Numbers take k, M, G suffixes.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/crypt/secret.h"
#include "engine/host/system.h"
#include "engine/life/image.h"
#include "engine/loop/loop_plain.h"
#include "engine/loop/loop_uring.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"

#define CHUNK_BYTES (1u << 20)
#define MAX_ROOTS 8
#define MAX_SECRETS 8

struct session {
	struct cow_queue *queue;
	uint64_t size;
	uint8_t *buf; /* CHUNK_BYTES */
};

struct command {
	const char *name;
	int min_args, max_args;
	int (*fn)(struct session *s, char **args, int nr);
};

static int complain(const char *what, const char *why)
{
	fprintf(stderr, "cow_io: %s: %s\n", what, why);
	return 1;
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 0);
	unsigned shift = *end == 'k' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
	if (end == text || end[shift ? 1 : 0]) {
		complain(text, "not a number");
		exit(2);
	}
	return value << shift;
}

static int result_of(const char *what, int ret)
{
	return ret ? complain(what, strerror(-ret)) : 0;
}

/* ---- commands ---- */

static int cmd_write(struct session *s, char **args, int nr)
{
	uint64_t offset = number(args[0]), left = number(args[1]);
	memset(s->buf, (int)number(args[2]), CHUNK_BYTES);
	while (left) {
		uint64_t n = left < CHUNK_BYTES ? left : CHUNK_BYTES;
		int ret = cow_queue_do(s->queue, COW_OP_WRITE, 0, offset, n, s->buf);
		if (ret)
			return result_of("write", ret);
		offset += n;
		left -= n;
	}
	return 0;
}

static int cmd_verify(struct session *s, char **args, int nr)
{
	uint64_t offset = number(args[0]), left = number(args[1]);
	uint8_t byte = (uint8_t)number(args[2]);
	while (left) {
		uint64_t n = left < CHUNK_BYTES ? left : CHUNK_BYTES;
		int ret = cow_queue_do(s->queue, COW_OP_READ, 0, offset, n, s->buf);
		if (ret)
			return result_of("read", ret);
		for (uint64_t i = 0; i < n; i++) {
			if (s->buf[i] == byte)
				continue;
			fprintf(stderr, "cow_io: verify: offset %" PRIu64 ": read %u, not %u\n",
				offset + i, s->buf[i], byte);
			return 1;
		}
		offset += n;
		left -= n;
	}
	return 0;
}

static int cmd_zero(struct session *s, char **args, int nr)
{
	unsigned flags = nr > 2 && !strcmp(args[2], "keep") ? COW_OP_NOUNMAP : 0;
	return result_of("zero", cow_queue_do(s->queue, COW_OP_WRITE_ZEROES, flags, number(args[0]),
					      number(args[1]), NULL));
}

static int cmd_discard(struct session *s, char **args, int nr)
{
	return result_of("discard", cow_queue_do(s->queue, COW_OP_DISCARD, 0, number(args[0]),
						 number(args[1]), NULL));
}

static int cmd_flush(struct session *s, char **args, int nr)
{
	return result_of("flush", cow_queue_do(s->queue, COW_OP_FLUSH, 0, 0, 0, NULL));
}

static bool is_zero(const uint8_t *buf, uint64_t n)
{
	return !buf[0] && !memcmp(buf, buf + 1, n - 1);
}

static int convert_chunk(struct session *s, int fd, uint64_t offset, uint64_t n)
{
	int ret = cow_queue_do(s->queue, COW_OP_READ, 0, offset, n, s->buf);
	if (ret)
		return result_of("read", ret);
	if (!is_zero(s->buf, n) && pwrite(fd, s->buf, n, (off_t)offset) != (ssize_t)n)
		return complain("convert", strerror(errno));
	return 0;
}

static int cmd_convert(struct session *s, char **args, int nr)
{
	int fd = open(args[0], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, (off_t)s->size))
		return complain(args[0], strerror(errno));
	int ret = 0;
	for (uint64_t offset = 0; offset < s->size && !ret; offset += CHUNK_BYTES)
		ret = convert_chunk(s, fd, offset,
				    s->size - offset < CHUNK_BYTES ? s->size - offset
								   : CHUNK_BYTES);
	close(fd);
	return ret;
}

static int cmd_load(struct session *s, char **args, int nr)
{
	int fd = open(args[0], O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return complain(args[0], strerror(errno));
	int ret = 0;
	for (uint64_t offset = 0; offset < s->size && !ret; offset += CHUNK_BYTES) {
		ssize_t n = pread(fd, s->buf, CHUNK_BYTES, (off_t)offset);
		if (n <= 0)
			break;
		ret = cow_queue_do(s->queue, COW_OP_WRITE, 0, offset, (uint64_t)n, s->buf);
	}
	close(fd);
	return result_of("load", ret);
}

static int cmd_size(struct session *s, char **args, int nr)
{
	printf("%" PRIu64 "\n", s->size);
	return 0;
}

static int cmd_die(struct session *s, char **args, int nr)
{
	kill(getpid(), SIGKILL);
	return 1;
}

static const struct command commands[] = {
	{ "write", 3, 3, cmd_write }, { "verify", 3, 3, cmd_verify },
	{ "zero", 2, 3, cmd_zero },   { "discard", 2, 2, cmd_discard },
	{ "flush", 0, 0, cmd_flush }, { "convert", 1, 1, cmd_convert },
	{ "load", 1, 1, cmd_load },   { "size", 0, 0, cmd_size },
	{ "die", 0, 0, cmd_die },
};

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
}

/* COMMAND ARGS [-- COMMAND ARGS]... until one fails. */
static int run_commands(struct session *s, char **args, int nr)
{
	while (nr > 0) {
		int len = 0;
		while (len < nr && strcmp(args[len], "--"))
			len++;
		const struct command *command = len ? find_command(args[0]) : NULL;
		if (!command || len - 1 < command->min_args || len - 1 > command->max_args)
			return complain(len ? args[0] : "--",
					"no such command, or wrong arguments") +
			       1;
		int ret = command->fn(s, args + 1, len - 1);
		if (ret)
			return ret;
		args += len < nr ? len + 1 : len;
		nr -= len < nr ? len + 1 : len;
	}
	return 0;
}

/* ---- start ---- */

static int run_on_image(struct cow_loop *loop, struct cow_image *image, char **args, int nr)
{
	struct session s = { .size = cow_image_geometry(image)->size_bytes,
			     .buf = cow_buf_alloc(CHUNK_BYTES) };
	int ret = cow_queue_new(image, loop, 2, &s.queue);
	if (ret)
		return result_of("queue", ret);
	ret = run_commands(&s, args, nr);
	cow_queue_free(s.queue);
	free(s.buf);
	return ret;
}

static int run(struct cow_loop *loop, const char *path, const struct cow_open_options *options,
	       char **args, int nr)
{
	struct cow_error err = { 0 };
	struct cow_image *image;
	int ret = cow_image_open(cow_host_system(), loop, path, options, &image, &err);
	if (ret)
		return complain("open", err.text[0] ? err.text : strerror(-ret));
	int failed = run_on_image(loop, image, args, nr);
	ret = cow_image_close(image, loop, &err);
	if (ret)
		return complain("close", err.text);
	return failed;
}

/* The file's whole content is the passphrase, as QEMU's secret objects take it. */
static const struct cow_secret *read_key(const char *path)
{
	struct cow_secret *s = cow_secret_new();
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = s && fd >= 0 ? read(fd, s->data, sizeof(s->data)) : -1;
	if (n < 0)
		exit(complain(path, "cannot read the key"));
	s->bytes = (size_t)n;
	close(fd);
	return s;
}

static int parse_options(int argc, char **argv, struct cow_open_options *o, bool *sync_loop)
{
	static const char *roots[MAX_ROOTS], *const data_root = "/";
	static const struct cow_secret *secrets[MAX_SECRETS];
	int i = 1;
	o->writable = true;
	o->backing_roots = roots;
	o->data_roots = &data_root;
	o->nr_data_roots = 1;
	o->secrets = secrets;
	for (; i < argc && !strncmp(argv[i], "--", 2); i++) {
		if (!strcmp(argv[i], "--read-only"))
			o->writable = false;
		else if (!strcmp(argv[i], "--sync-loop"))
			*sync_loop = true;
		else if (!strcmp(argv[i], "--no-discard"))
			o->no_discard = true;
		else if (!strcmp(argv[i], "--write-legacy-aes"))
			o->write_legacy_aes = true;
		else if (!strcmp(argv[i], "--key-file") && i + 1 < argc &&
			 o->nr_secrets < MAX_SECRETS)
			secrets[o->nr_secrets++] = read_key(argv[++i]);
		else if (!strcmp(argv[i], "--no-backing"))
			o->no_backing = true;
		else if (!strcmp(argv[i], "--snapshot") && i + 1 < argc)
			o->snapshot = argv[++i];
		else if (!strcmp(argv[i], "--backing-root") && i + 1 < argc &&
			 o->nr_backing_roots < MAX_ROOTS)
			roots[o->nr_backing_roots++] = argv[++i];
		else if (!strcmp(argv[i], "--detect-zeroes") && i + 1 < argc)
			o->detect_zeroes = !strcmp(argv[++i], "unmap") ? COW_DETECT_ZEROES_UNMAP
								       : COW_DETECT_ZEROES_ON;
		else
			exit(complain(argv[i], "no such option") + 1);
	}
	return i;
}

int main(int argc, char **argv)
{
	struct cow_open_options options = { 0 };
	bool sync_loop = false;
	int first = parse_options(argc, argv, &options, &sync_loop);
	if (first >= argc)
		return complain("usage",
				"cow_io [OPTIONS] IMAGE COMMAND [ARGS] [-- COMMAND [ARGS]]...") +
		       1;
	struct cow_loop *loop;
	int ret = sync_loop ? cow_loop_plain_new(&loop) : cow_loop_uring_new(16, &loop);
	if (ret)
		return result_of("loop", ret);
	ret = run(loop, argv[first], &options, argv + first + 1, argc - first - 1);
	cow_loop_free(loop);
	return ret;
}
