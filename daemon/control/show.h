/* SPDX-License-Identifier: MIT */
/* What several subcommands show alike, with the names and columns of qemu-img. */
#ifndef COW_SHOW_H
#define COW_SHOW_H

#include <json-c/json.h>
#include <stdint.h>

#include "engine/format/format.h"
#include "engine/format/bitmap_directory.h"

/*
 * A copy of a text from outside, fit for a terminal: bytes that are not printable ASCII or
 * well-formed UTF-8 become '?'.
 */
char *cow_show_clean(const char *text);

/* Adds text from an image. Bytes that are no UTF-8 become "\xNN", all else stays what it is. */
void cow_show_string(struct json_object *to, const char *key, const char *text);
void cow_show_u64(struct json_object *to, const char *key, uint64_t value);

/* "1.5 GiB" */
void cow_show_bytes(uint64_t bytes, char out[32]);

/* An array with the fields of `qemu-img info --output=json`. */
struct json_object *cow_show_snapshots(const struct cow_snapshot *list, uint32_t nr);
/* The same array as a table on standard output. */
void cow_show_snapshots_text(struct json_object *list);

/* An array of "name", "granularity" and "state" (enabled, disabled, inconsistent). */
struct json_object *cow_show_bitmaps(const struct cow_bitmap *list, uint32_t nr);
void cow_show_bitmaps_text(struct json_object *list);

#endif
