/* SPDX-License-Identifier: MIT */
/*
 * The name space of files in memory, an open one, and what an I/O does to it. Paths are flat and
 * absolute, a folder is what some path leads through, locks are counts.
 */
#ifndef COW_TEST_HANDLE_H
#define COW_TEST_HANDLE_H

#include "engine/loop/guest.h"
#include "engine/loop/io.h"
#include "tests/memory/disk.h"

struct memory_handle {
	struct cow_file file; /* first */
	struct memory_file *of;
	bool locked;
};

/* Of a struct memory_disk. */
extern const struct cow_host_ops memory_host_ops;
struct memory_file *memory_file_of(const struct cow_file *file);

/* The rest of a resumed transfer. */
static inline uint64_t memory_rest_offset(const struct cow_io *io)
{
	return io->offset + io->progress_bytes;
}

static inline uint64_t memory_rest_bytes(const struct cow_io *io)
{
	return io->length - io->progress_bytes;
}

/* A request's pages (guest.h), which only these hosts and fetch and store reach. */
struct memory_guest {
	struct cow_guest guest; /* first */
	uint8_t *pages;
};

/* Both of so many bytes, the caller's; what is at base is nothing to be believed. */
void memory_guest_init(struct memory_guest *guest, uint8_t *pages, uint8_t *base, uint64_t bytes);
/* Where the bytes of the I/O's i-th buffer are. */
uint8_t *memory_place(const struct cow_io *io, unsigned i);

/* What is still to be written, its first bytes, as one piece (free). */
uint8_t *memory_gather(const struct cow_io *io, uint64_t bytes);
/*
 * The effect of an I/O, no SYNC and no TIMER, and what the host says: bytes or -errno. Of a READ or
 * WRITE the first `bytes` of the rest: a read ends at the end of the file. owner: of the changes.
 */
int64_t memory_perform(const struct cow_io *io, uint64_t bytes, const void *owner);

#endif
