/* SPDX-License-Identifier: MIT */
/*
 * How a request's data gets between the kernel's pages and the tag's buffer. Chosen once, when the
 * device is added; the loop that serves requests calls through the table and asks nothing.
 */
#ifndef COW_TRANSFER_H
#define COW_TRANSFER_H

#include <stddef.h>
#include <stdint.h>

struct cow_tag;

struct cow_transfer_ops {
	const char *name;
	uint64_t device_flags; /* UB_F_* that ADD_DEV must grant */
	/* What FETCH and COMMIT_AND_FETCH carry as the tag's address. */
	uint64_t (*fetch_addr)(const struct cow_tag *tag);
	/* Before a WRITE goes to the engine: its data is in tag->buf afterwards. 0 or -errno. */
	int (*write_begin)(struct cow_tag *tag, uint32_t bytes);
	/* After the engine's READ: the data leaves tag->buf. 0 or -errno. */
	int (*read_end)(struct cow_tag *tag, uint32_t bytes);
};

/* The kernel copies when a request is fetched and committed. Every kernel. */
extern const struct cow_transfer_ops cow_transfer_copy;

/* "copy", "user-copy"; NULL if there is none of that name. */
const struct cow_transfer_ops *cow_transfer_find(const char *name);

#endif
