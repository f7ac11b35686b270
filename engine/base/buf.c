/* SPDX-License-Identifier: MIT */
#include "engine/base/buf.h"

#include <stdlib.h>
#include <string.h>

void *cow_buf_alloc(size_t bytes)
{
	void *p = NULL;
	size_t rounded = (bytes + 4095) & ~(size_t)4095;
	if (rounded < bytes || posix_memalign(&p, 4096, rounded ? rounded : 4096))
		return NULL;
	memset(p, 0, rounded ? rounded : 4096);
	return p;
}
