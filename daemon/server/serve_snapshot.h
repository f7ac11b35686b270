/* SPDX-License-Identifier: MIT */
/* Snapshots of an attached image. */
#ifndef COW_SERVE_SNAPSHOT_H
#define COW_SERVE_SNAPSHOT_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/server/job.h"
#include "engine/life/image.h"
#include "engine/snapshot/snapshot.h"

/*
 * The daemon's side, a job of the device thread: {"cmd":"snapshot","action":"create|delete",
 * "snapshot":...,"by":0..2}; the reply has "id" and "pause_ms". With "freeze":true a line
 * {"ok":true,"ready":1} comes first, when the change can begin: the client freezes file systems and
 * sends {"go":true}, and it begins. loop: the device's, since a confined daemon can make no ring.
 */
void cow_serve_snapshot(struct cow_image *image, struct cow_loop *loop, struct cow_job *job);

#endif
