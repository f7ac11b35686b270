/* SPDX-License-Identifier: MIT */
/*
 * One file in memory and a loop that does each I/O at the next drain, in order. Small and quick to
 * make: for fuzzing, and for tests that watch every change (the hook runs after each write, sync
 * and resize).
 */
#ifndef COW_TEST_MEMORY_DISK_H
#define COW_TEST_MEMORY_DISK_H

#include "engine/loop/loop.h"

struct memory_disk {
	struct cow_file file; /* first; any disk's loop does I/O on it */
	struct cow_loop loop;
	uint8_t *bytes;
	uint64_t capacity; /* the largest file that the host takes: -EFBIG beyond */
	struct cow_io *head, **tail;
	uint64_t clock_ns; /* a timer moves it on and is done at once */
	void (*hook)(void *ctx, const struct cow_io *io); /* may be NULL; io as it was submitted */
	/*
	 * May be NULL. Before each I/O: 0, or what the host says instead: -errno, or the bytes that
	 * it does of a READ or WRITE.
	 */
	int64_t (*fault)(void *ctx, const struct cow_io *io);
	void *ctx;
};

/* Holds a copy of bytes[size]; grows up to capacity. */
int memory_disk_init(struct memory_disk *disk, const uint8_t *bytes, uint64_t size,
		     uint64_t capacity);
void memory_disk_fini(struct memory_disk *disk);

#endif
