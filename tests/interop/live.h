/* SPDX-License-Identifier: MIT */
/* Snapshots and dirty bitmaps created, changed and deleted under running requests. */
#ifndef COW_TEST_LIVE_H
#define COW_TEST_LIVE_H

#include "engine/life/image.h"

/*
 * A thread that takes a snapshot and deletes an older one every now and then, until live_stop().
 * keep: how many stay.
 */
void live_start(struct cow_image *image, unsigned keep);
/*
 * The same with dirty bitmaps: added, cleared, merged, removed; none that was there before is
 * touched.
 */
void live_start_bitmaps(struct cow_image *image);
/*
 * Returns the number of snapshots taken (bitmaps added); the last `keep` are left in the image.
 * -errno if one failed.
 */
int live_stop(void);

#endif
