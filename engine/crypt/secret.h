/* SPDX-License-Identifier: MIT */
/*
 * Memory for passphrases and keys: locked (never swapped), left out of core dumps, wiped when it is
 * given back. Where locking is not permitted (RLIMIT_MEMLOCK) that is logged once, and the memory
 * is used all the same.
 */
#ifndef COW_SECRET_H
#define COW_SECRET_H

#include <stddef.h>
#include <stdint.h>

/* Zeroed; NULL when out of memory. */
void *cow_secret_memory_new(size_t bytes);
/* bytes as at new. NULL is allowed. */
void cow_secret_memory_free(void *memory, size_t bytes);

#define COW_SECRET_MAX_BYTES (64u << 10)
#define COW_MAX_SECRETS 8u /* passphrases that an image, or a chain of them, is opened with */

/* A passphrase: any bytes. */
struct cow_secret {
	size_t bytes;
	uint8_t data[COW_SECRET_MAX_BYTES];
};

struct cow_secret *cow_secret_new(void);
void cow_secret_free(struct cow_secret *secret);

#endif
