/* SPDX-License-Identifier: MIT */
/* The client's side of daemon/server/serve_requests.h. */
#ifndef COW_ASK_REQUESTS_H
#define COW_ASK_REQUESTS_H

#include <json-c/json.h>
#include <stdint.h>

#include "daemon/control/target.h"
#include "engine/base/result.h"

/* The daemon of the target is asked: *answer is the object it gave, to be put. An error is told; exit status. */
COW_MUST_CHECK int cow_ask_requests(struct cow_target target, struct json_object **answer);

#endif
