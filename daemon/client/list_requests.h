/* SPDX-License-Identifier: MIT */
/* cowblk list --requests: each request in flight. */
#ifndef COW_LIST_REQUESTS_H
#define COW_LIST_REQUESTS_H

#include <stdbool.h>

#include "engine/base/result.h"

/* target: a device or an image; NULL: all devices whose daemon answers. The exit status. */
COW_MUST_CHECK int cow_list_requests(const char *target, bool json);

#endif
