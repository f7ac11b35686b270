/* SPDX-License-Identifier: MIT */
/* Closing, for those who see the inside of an image; for all others: image.h. */
#ifndef COW_CLOSE_H
#define COW_CLOSE_H

#include "engine/base/result.h"
#include "engine/life/image.h"

/* One writeback pass, waited for. */
COW_MUST_CHECK int cow_image_write_back(struct cow_image *image, struct cow_loop *loop);

#endif
