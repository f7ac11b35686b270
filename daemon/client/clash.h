/* SPDX-License-Identifier: MIT */
/* Which device has an image that is to be attached. */
#ifndef COW_CLASH_H
#define COW_CLASH_H

#include <stdbool.h>

#include "daemon/device/device.h"

/* True after an error line that names it. The image's lock, which decides, could not say it as well. */
bool cow_clash_find(const char *image, const struct cow_device_config *ours);

#endif
