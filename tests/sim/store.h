/* SPDX-License-Identifier: MIT */
/*
 * Bytes of a simulated file, sparse: chunks that were never written, or were zeroed whole, take no
 * memory.
 */
#ifndef SIM_STORE_H
#define SIM_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sim_store {
	uint8_t **chunks;
	size_t nr_chunks; /* length of the array, not of the file */
	uint64_t size_bytes;
};

void sim_store_fini(struct sim_store *s);
void sim_store_copy(struct sim_store *to, const struct sim_store *from); /* `to` is replaced */
/* Beyond the end comes zero. */
void sim_store_read(const struct sim_store *s, uint64_t offset, void *buf, uint64_t length);
/* Extends. */
void sim_store_write(struct sim_store *s, uint64_t offset, const void *buf, uint64_t length);
void sim_store_zero(struct sim_store *s, uint64_t offset, uint64_t length);
void sim_store_resize(struct sim_store *s, uint64_t size_bytes);
/*
 * Of all words there, each at its place (salt: of its file): sums of parts add up to that of the
 * whole. Aligned to 8; zeros count nothing.
 */
uint64_t sim_store_sum(const struct sim_store *s, uint64_t offset, uint64_t length, uint64_t salt);
/* Nothing stands in the chunk around offset: a write there takes new space. */
bool sim_store_is_hole(const struct sim_store *s, uint64_t offset);
/* The same, and where the run of such chunks, or of the others, ends: at limit at the latest. */
bool sim_store_look(const struct sim_store *s, uint64_t offset, uint64_t limit, uint64_t *end);

#endif
