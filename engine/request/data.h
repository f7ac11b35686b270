/* SPDX-License-Identifier: MIT */
/*
 * Guest data on its way to and from the file that holds it (the image file or its external data
 * file), in the clear or encrypted.
 *
 * Reads are decrypted in place when they complete. What is written is encrypted into a bounce
 * buffer first, so an encrypted image takes at most COW_BOUNCE_BYTES a time. Sectors of an
 * encrypted image that were never written hold no zeros but garbage: such an image never relies on
 * holes.
 */
#ifndef COW_DATA_H
#define COW_DATA_H

#include "engine/request/op.h"

/*
 * The rule that guest data at [host_off, +bytes) of the image file breaks, before it is written in
 * place; NULL.
 */
const char *cow_data_misplaced(struct cow_image *image, uint64_t host_off, uint64_t bytes);

/* Read from a level of the chain: guest_off (of that image) lies at host_off of its data file. */
void cow_data_read(struct cow_op *op, struct cow_piece *piece, struct cow_image *image,
		   uint64_t host_off, uint64_t guest_off, void *buf, uint64_t bytes);

/*
 * Write to the op's image. Encrypted: the op has a bounce buffer; it may hold the data already
 * (then it is encrypted in place). An error of the cipher fails the op.
 */
void cow_data_write(struct cow_op *op, struct cow_piece *piece, uint64_t host_off,
		    uint64_t guest_off, void *buf, uint64_t bytes);
/* The same; the bounce buffer goes with the piece, so that the op can go on with another one. */
void cow_data_write_on(struct cow_op *op, struct cow_piece *piece, uint64_t host_off,
		       uint64_t guest_off, void *buf, uint64_t bytes);

static inline bool cow_data_is_encrypted(const struct cow_image *image)
{
	return image->key != NULL;
}

/* May a partial write rely on the rest of a fresh host cluster reading as zeros? */
static inline bool cow_data_has_holes(const struct cow_image *image)
{
	return !image->key && !image->core.g.data_file;
}

/* Largest piece to be written at once. */
static inline uint64_t cow_data_max_bytes(const struct cow_image *image)
{
	return image->key ? COW_BOUNCE_BYTES : UINT64_MAX;
}

#endif
