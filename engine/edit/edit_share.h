/* SPDX-License-Identifier: MIT */
/* What an L1 table leads to, in an edit: references and COPIED flags. */
#ifndef COW_EDIT_SHARE_H
#define COW_EDIT_SHARE_H

#include "engine/base/result.h"
#include "engine/edit/edit.h"

/* Plus delta for every L2 table and cluster, once for each path. 0: only verifies. */
COW_MUST_CHECK int cow_edit_share(struct cow_edit *e, const uint64_t *l1, uint64_t nr, int delta);
/*
 * COPIED flags of e->l1 and its tables as the refcounts want them. A table that changes moves;
 * `paths` of the references to it, those of e->l1 and of copies that the caller will make of it,
 * move along.
 */
COW_MUST_CHECK int cow_edit_fix_copied(struct cow_edit *e, int paths);

#endif
