/* SPDX-License-Identifier: MIT */
/* Where the header's extensions lead, in an edit: changed with the header's sector, or not at all. */
#ifndef COW_EDIT_PLACES_H
#define COW_EDIT_PLACES_H

#include "engine/base/result.h"
#include "engine/edit/edit.h"

/*
 * Can they be changed? e->places.can: they lie in the header's sector, or do so without the features'
 * names, which nobody needs.
 */
COW_MUST_CHECK int cow_edit_load_places(struct cow_edit *e);
/* Of the image as it will be: the bitmap directory is there. */
void cow_edit_place_bitmaps(struct cow_edit *e, uint64_t off);

#endif
