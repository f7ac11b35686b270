/* SPDX-License-Identifier: MIT */
/* The client's side of daemon/server/serve_bitmap.h. */
#ifndef COW_ASK_BITMAP_H
#define COW_ASK_BITMAP_H

#include <json-c/json.h>
#include <stdint.h>

#include "daemon/control/target.h"

#include "daemon/server/serve_bitmap.h"
#include "engine/base/result.h"
#include "engine/bitmap/bitmap.h"

/* The target's daemon is asked. An error is told; the exit status. */
COW_MUST_CHECK int cow_ask_bitmap_change(struct cow_target target,
					 const struct cow_bitmap_change *change);
COW_MUST_CHECK int cow_ask_bitmap_list(struct cow_target target, struct json_object **list);
COW_MUST_CHECK int cow_ask_bitmap_dump(struct cow_target target, const char *name,
				       struct cow_dirty *d);

#endif
