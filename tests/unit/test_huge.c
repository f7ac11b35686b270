/* SPDX-License-Identifier: MIT */
/*
 * The first write to a huge image whose clusters are all taken: a handful of host I/Os, whatever
 * the size. The host is made up: a file of which the pages that are written are kept; what was
 * never written is zeros, or in a refcount block ones.
 */
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
#include "engine/format/format.h"
#include "engine/life/image.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"
#include "tests/memory/memory_host.h"

#define CLUSTER 65536ull
#define PAGE 4096u
#define MAX_PAGES 4096u
#define BLOCK_BYTES (CLUSTER / 2 * CLUSTER) /* what a refcount block of 16-bit refcounts covers */
#define RANGE (512ull << 20)		    /* what an L2 table maps */

static struct {
	uint64_t no;
	uint8_t *data;
} pages[MAX_PAGES];
static unsigned nr_pages, nr_ios, nr_reads;
static uint64_t blocks_off, blocks_end;

static uint8_t *page(uint64_t no, bool make)
{
	for (unsigned i = 0; i < nr_pages; i++)
		if (pages[i].no == no)
			return pages[i].data;
	if (!make)
		return NULL;
	assert_true(nr_pages < MAX_PAGES);
	pages[nr_pages].no = no;
	pages[nr_pages].data = calloc(1, PAGE);
	return pages[nr_pages++].data;
}

static void copy(uint64_t off, uint8_t *buf, uint64_t bytes, bool write)
{
	while (bytes) {
		uint64_t in = off % PAGE, n = PAGE - in < bytes ? PAGE - in : bytes;
		uint8_t *p = page(off / PAGE, write);
		if (write)
			memcpy(p + in, buf, n);
		else if (p)
			memcpy(buf, p + in, n);
		else
			for (uint64_t i = 0; i < n; i++)
				buf[i] = off >= blocks_off && off < blocks_end && (off + i) % 2;
		off += n;
		buf += n;
		bytes -= n;
	}
}

static void content(void *ctx, const struct cow_io *io)
{
	uint64_t off = io->offset;
	for (unsigned i = 0; i < io->nr_vec; off += io->vec[i++].iov_len)
		copy(off, io->vec[i].iov_base, io->vec[i].iov_len, io->kind == COW_IO_WRITE);
}

static void count_io(void *ctx, const struct cow_io *io)
{
	nr_ios += io->kind != COW_IO_TIMER;
	nr_reads += io->kind == COW_IO_READ;
}

/* header | refcount table | L1 | the refcount blocks */
static void make(struct memory_host *m, uint64_t bytes)
{
	uint64_t blocks = bytes / BLOCK_BYTES, table = blocks * 8 / CLUSTER + 1;
	uint64_t l1 = bytes / RANGE, l1_off = (1 + table) * CLUSTER;
	blocks_off = l1_off + (l1 * 8 + CLUSTER - 1) / CLUSTER * CLUSTER;
	blocks_end = blocks_off + blocks * CLUSTER;
	struct cow_header h = {
		.version = 3,
		.cluster_bits = 16,
		.size_bytes = bytes,
		.l1_entries = (uint32_t)l1,
		.l1_off = l1_off,
		.reftable_off = CLUSTER,
		.reftable_clusters = (uint32_t)table,
		.refcount_order = 4,
		.header_bytes = 112,
	};
	uint8_t head[512] = { 0 }, word[8];
	cow_header_encode(&h, head, sizeof(head));
	copy(0, head, sizeof(head), true);
	for (uint64_t i = 0; i < blocks; i++) {
		cow_store64_be(word, blocks_off + i * CLUSTER);
		copy(CLUSTER + i * 8, word, 8, true);
	}
	memory_set_size(m, bytes);
}

static unsigned first_write(uint64_t bytes)
{
	struct memory_host *m = memory_host_new();
	struct cow_open_options options = { .writable = true };
	struct cow_error err = { 0 };
	struct cow_image *image;
	struct cow_queue *queue;
	uint8_t *buf = cow_buf_alloc(PAGE);
	m->content = content;
	m->hook = count_io;
	cow_loop_enter(&m->loop);
	make(m, bytes);
	if (cow_image_open(&m->host, &m->loop, "/disk", &options, &image, &err))
		fail_msg("open: %s", err.text);
	assert_int_equal(cow_queue_new(image, &m->loop, 4, &queue), 0);
	nr_ios = nr_reads = 0;
	assert_int_equal(cow_queue_do(queue, COW_OP_WRITE, 0, 0, PAGE, buf), 0);
	unsigned ios = nr_ios;
	print_message("%llu TiB: %u host I/Os, %u of them reads\n",
		      (unsigned long long)(bytes >> 40), nr_ios, nr_reads);
	cow_queue_free(queue);
	assert_int_equal(cow_image_close(image, &m->loop, &err), 0);
	cow_loop_enter(NULL);
	free(buf);
	memory_host_free(m);
	for (unsigned i = 0; i < nr_pages; i++)
		free(pages[i].data);
	nr_pages = 0;
	return ios;
}

static void test_first_write(void **state)
{
	assert_true(first_write(1ull << 40) <= 16);
	assert_true(first_write(64ull << 40) <= 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_write),
	};
	return cmocka_run_group_tests_name("huge", tests, NULL, NULL);
}
