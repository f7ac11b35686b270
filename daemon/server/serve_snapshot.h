/* SPDX-License-Identifier: MIT */
/* Snapshots of an attached image. */
#ifndef COW_SERVE_SNAPSHOT_H
#define COW_SERVE_SNAPSHOT_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/life/image.h"
#include "engine/snapshot/snapshot.h"

/*
 * The daemon's side: {"cmd":"snapshot","action":"create|delete","snapshot":...,"by":0..2}; the
 * reply has "id" and "pause_ms".
 */
struct json_object *cow_live_handle(struct cow_image *image, struct json_object *request);

/*
 * The client's side: asks the daemon of /dev/ublkb<id>. freeze: its mounted file systems are frozen
 * around it. Prints what there is to say; the exit status.
 */
int cow_live_ask(uint32_t id, const char *action, const struct cow_snapshot_key *key, bool freeze);

#endif
