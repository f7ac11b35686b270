/* SPDX-License-Identifier: MIT */
/*
 * The content of a disk to a pipe or the like, which is written from its beginning to its end and never
 * read. The bytes in front of an error are what they would be without it; -EPIPE without a signal is
 * the caller's care.
 */
#ifndef COW_CONVERT_STREAM_H
#define COW_CONVERT_STREAM_H

#include "engine/base/result.h"
#include "engine/create/create.h"
#include "engine/tool/convert.h"

/*
 * Of struct cow_convert only source, sparse_bytes, salvage, rate, nr_threads, cancel and progress count, and
 * the results. Raw: all zeros included.
 */
COW_MUST_CHECK int cow_convert_stream_raw(struct cow_convert *c, int fd);

/*
 * A qcow2 image: its source is read twice, for where data is and for the data, so that header, refcounts
 * and tables can be written first. size_bytes is set; without encryption, data file, backing file,
 * preallocation. An error of the options comes with a text, one of reading or writing without.
 *
 * Memory: a bit for each cluster that an L2 table with data maps, 8 bytes for each L2 table.
 */
COW_MUST_CHECK int cow_convert_stream_qcow2(struct cow_convert *c,
					    const struct cow_create_options *options, int fd,
					    struct cow_error *err);

#endif
