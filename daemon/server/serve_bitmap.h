/* SPDX-License-Identifier: MIT */
/*
 * Dirty bitmaps of an attached image.
 *
 *   {"cmd":"bitmap","action":"list"}                    {"ok":true,"bytes":N}, then N bytes of JSON: cow_show_bitmaps()
 *   {"cmd":"bitmap","action":"dump","name":...}         {"ok":true,"bytes":N,"size":...,"granularity-bits":...}, then N bytes:
 *                                                       the bits as the format has them
 *   {"cmd":"bitmap","action":"add|remove|clear|enable|disable|merge","name":...,"granularity-bits":...,"disabled":...,
 *    "sources":[...]}                                   {"ok":true,"pause_ms":...}
 */
#ifndef COW_SERVE_BITMAP_H
#define COW_SERVE_BITMAP_H

#include <json-c/json.h>
#include <stdint.h>

#include "daemon/server/job.h"
#include "engine/bitmap/bitmap.h"
#include "engine/life/image.h"

/* The daemon's side, a job of the device thread: the answer to job->request. */
void cow_serve_bitmap(struct cow_image *image, struct cow_loop *loop, struct cow_job *job);

#define COW_BITMAP_MAX_SOURCES 64u /* of a merge, in one request */

#endif
