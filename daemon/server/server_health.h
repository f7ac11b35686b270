/* SPDX-License-Identifier: MIT */
/* How the host treats a device's image, for the answer to `status`. */
#ifndef COW_SERVER_HEALTH_H
#define COW_SERVER_HEALTH_H

#include <json-c/json.h>

#include "engine/life/image.h"

/*
 * Adds "errors", "last-error" and "discard-gives-space-back" to the reply. image NULL: it is being
 * closed, and nobody knows: all three are null.
 */
void cow_health_show(struct json_object *reply, const struct cow_image *image);

#endif
