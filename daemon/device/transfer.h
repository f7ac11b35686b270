/* SPDX-License-Identifier: MIT */
/*
 * How a request's data gets between the kernel's pages and the tag's buffer. Chosen once, when the
 * device is added; the loop that serves requests calls through the table and asks nothing.
 */
#ifndef COW_TRANSFER_H
#define COW_TRANSFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/result.h"

struct cow_guest;
struct cow_tag;

struct cow_transfer_ops {
	const char *name;
	uint64_t device_flags; /* UB_F_* that ADD_DEV must grant */
	/*
	 * The kernel registers each request's pages as buffer `tag` of the queue's ring, and host I/O
	 * goes straight there: write_begin and read_end are for what must be looked at.
	 */
	bool registers;
	/* What FETCH and COMMIT_AND_FETCH carry as the tag's address. */
	uint64_t (*fetch_addr)(const struct cow_tag *tag);
	/* Before a WRITE goes to the engine: its data is in tag->buf afterwards. 0 or -errno. */
	int (*write_begin)(struct cow_tag *tag, uint32_t bytes);
	/* After the engine's READ: the data leaves tag->buf. 0 or -errno. */
	int (*read_end)(struct cow_tag *tag, uint32_t bytes);
};

/* The functions of a tag's cow_guest: by user copy. */
COW_MUST_CHECK int cow_transfer_fetch(const struct cow_guest *guest, uint64_t off, uint64_t bytes);
COW_MUST_CHECK int cow_transfer_store(const struct cow_guest *guest, uint64_t off, uint64_t bytes);

/* The kernel copies when a request is fetched and committed. Every kernel. */
extern const struct cow_transfer_ops cow_transfer_copy;

/* "copy", "user-copy", "zero-copy"; NULL if there is none of that name. */
const struct cow_transfer_ops *cow_transfer_find(const char *name);

#endif
