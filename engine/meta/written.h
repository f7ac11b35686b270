/* SPDX-License-Identifier: MIT */
/*
 * Which clusters of metadata writeback passes have written since somebody last looked: so that a
 * copy of the metadata, made beside the running device, can be kept up to date. Noted when the pass
 * is through: who clears a mark and then reads the cluster either sees what was written, or finds
 * it marked again.
 */
#ifndef COW_WRITTEN_H
#define COW_WRITTEN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct cow_written {
	_Atomic uint64_t *words; /* a bit a host cluster */
	uint64_t nr;		 /* clusters; those behind always count as written */
};

/* 0 or -ENOMEM. */
int cow_written_init(struct cow_written *w, uint64_t nr_clusters);
void cow_written_fini(struct cow_written *w);
void cow_written_note(struct cow_written *w, uint64_t cluster);
bool cow_written_test(const struct cow_written *w, uint64_t cluster);
void cow_written_clear(struct cow_written *w, uint64_t cluster);

#endif
