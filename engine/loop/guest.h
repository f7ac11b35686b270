/* SPDX-License-Identifier: MIT */
/*
 * The bytes of a request that lie in pages of somebody else's: host I/O may go straight to them or
 * from them, and nobody can look at them without asking. For ublk's zero copy they are a buffer that
 * the kernel has registered with the ring.
 */
#ifndef COW_GUEST_H
#define COW_GUEST_H

#include <stdint.h>

#include "engine/base/result.h"

/*
 * Of one request, until it is done. base: memory for as many bytes; an I/O names a place in the pages
 * by the same place in there.
 */
struct cow_guest {
	uint8_t *base;
	unsigned index; /* among the ring's registered buffers */
	/* Copies bytes at off, from the pages to base, or back. 0 or -errno. */
	int (*fetch)(const struct cow_guest *guest, uint64_t off, uint64_t bytes);
	int (*store)(const struct cow_guest *guest, uint64_t off, uint64_t bytes);
};

#endif
