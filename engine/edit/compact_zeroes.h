/* SPDX-License-Identifier: MIT */
/* Compacting: clusters of data that hold only zeros are given up. See compact.h. */
#ifndef COW_COMPACT_ZEROES_H
#define COW_COMPACT_ZEROES_H

#include "engine/base/result.h"
#include "engine/edit/compact.h"
#include "engine/format/map.h"

struct cow_compact_step;
struct cow_edit;

/*
 * Without options->zeroes only those that are marked as zeros already, which costs no reading. All of
 * them in one edit, so that those who share a cluster give it up together. They read as zeros as
 * before: zero clusters, or none where no backing file would show. Left as it is: encrypted and
 * compressed data, an external data file's, and version 2 over a backing file.
 */
COW_MUST_CHECK int cow_compact_zeroes(struct cow_loop *loop, struct cow_file *file,
				      const struct cow_compact_options *options,
				      struct cow_compact_result *result, struct cow_error *err);

/* Can such an image say of a cluster that it holds zeros, without one? */
bool cow_compact_zeroes_may(const struct cow_compact_step *s);
bool cow_compact_zeroes_are(const uint8_t *buf, uint64_t bytes);
/* What reads the same as an entry whose cluster holds only zeros, without a cluster. */
struct cow_l2_entry cow_compact_zeroes_instead(const struct cow_edit *e, struct cow_l2_entry entry);

#endif
