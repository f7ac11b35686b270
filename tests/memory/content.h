/* SPDX-License-Identifier: MIT */
/*
 * The bytes of a file in memory, sparse as a host file is: a block that was never written, or zeroed
 * whole since, takes no space, and no memory if it never was.
 */
#ifndef COW_TEST_CONTENT_H
#define COW_TEST_CONTENT_H

#include <stdbool.h>
#include <stdint.h>

#define MEMORY_BLOCK_BYTES 16384u

/* All zeros before the first use; whoever copies to it or writes to it needs no init. */
struct memory_content {
	/*
	 * Capacity of them, zeros behind the end. To be read by anybody; what is put there without
	 * memory_content_write() must be in blocks that are in use, and in front of the end.
	 */
	uint8_t *bytes;
	uint64_t size_bytes;
	uint64_t capacity_bytes; /* the longest that it can become */
	uint64_t used_bytes;
	uint8_t *in_use;    /* per block */
	uint64_t end_block; /* none from here on ever was in use */
};

/* Empty. 0 or -ENOMEM. */
int memory_content_init(struct memory_content *c, uint64_t capacity_bytes);
void memory_content_fini(struct memory_content *c);
/* `to` is replaced; made with the same capacity if it is not there yet. */
void memory_content_copy(struct memory_content *to, const struct memory_content *from);
/* Beyond the end comes zero. */
void memory_content_read(const struct memory_content *c, uint64_t offset, void *buf,
			 uint64_t length);
/* Extends. Not beyond the capacity. */
void memory_content_write(struct memory_content *c, uint64_t offset, const void *buf,
			  uint64_t length);
void memory_content_zero(struct memory_content *c, uint64_t offset, uint64_t length);
/* Nothing can be written beyond the capacity, but the size may be larger. */
void memory_content_resize(struct memory_content *c, uint64_t size_bytes);
/* A write to the block around offset takes new space. */
bool memory_content_is_hole(const struct memory_content *c, uint64_t offset);
/* The same, and where the run of such blocks, or of the others, ends: at limit at the latest. */
bool memory_content_look(const struct memory_content *c, uint64_t offset, uint64_t limit,
			 uint64_t *end);
/* What a write there would take. */
uint64_t memory_content_new_bytes(const struct memory_content *c, uint64_t offset, uint64_t length);

#endif
