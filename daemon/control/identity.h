/* SPDX-License-Identifier: MIT */
/*
 * Which file a path leads to, whatever it is called and wherever it is mounted: what records say
 * and what users name are compared by this, never by paths.
 */
#ifndef COW_IDENTITY_H
#define COW_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

/* What cow_image_identity() says: of a block device its own number, and UINT64_MAX. */
struct cow_identity {
	uint64_t dev, ino;
};

/* Blocking. False, with errno: there is no such file. */
bool cow_identity_of(const char *path, struct cow_identity *file);

/*
 * Device and inode are those of one file. Where they differ it may be one all the same: on a file
 * system of an NFS server that is mounted twice (nosharecache, or mounted anew), and as a loop
 * device that shows all of a file. Blocking, but no server is asked.
 */
bool cow_identity_is_same(const struct cow_identity *a, const struct cow_identity *b);

#endif
