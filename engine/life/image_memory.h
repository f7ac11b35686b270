/* SPDX-License-Identifier: MIT */
/*
 * The memory of an open image's chain that grows with use: its metadata caches, and what writeback
 * copies of them. See want_memory in image.h; one thread, which may sleep for memory, that
 * serves no requests.
 */
#ifndef COW_IMAGE_MEMORY_H
#define COW_IMAGE_MEMORY_H

#include <stdbool.h>

struct cow_image;
struct cow_open_options;

/* At the end of opening, as options->want_memory and keep_memory say. */
void cow_image_start_memory(struct cow_image *image, const struct cow_open_options *options);

/* Takes what was wanted, step by step. */
void cow_image_grow(struct cow_image *image);
/* Takes all, wanted or not, and keeps it: for swap. */
void cow_image_keep(struct cow_image *image);
/* Gives back what was grown and not used since the last call. True: everything is small. */
bool cow_image_rest(struct cow_image *image);

#endif
