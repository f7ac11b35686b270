/* SPDX-License-Identifier: MIT */
/* Memory that direct I/O can use. */
#ifndef COW_BUF_H
#define COW_BUF_H

#include <stddef.h>

/* Page-aligned zeroed memory for I/O; NULL when out of memory. free() it. */
void *cow_buf_alloc(size_t bytes);

#endif
