/* SPDX-License-Identifier: MIT */
/* From a pointer to a member back to the struct around it. */
#ifndef COW_CONTAINER_H
#define COW_CONTAINER_H

#include <stddef.h>

#define cow_container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#endif
