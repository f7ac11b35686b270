/* SPDX-License-Identifier: MIT */
#include "engine/meta/written.h"

#include <errno.h>
#include <stdlib.h>

/* 16 MiB of memory. */
#define MAX_CLUSTERS (1ull << 27)

int cow_written_init(struct cow_written *w, uint64_t nr_clusters)
{
	w->nr = nr_clusters < MAX_CLUSTERS ? nr_clusters : MAX_CLUSTERS;
	w->words = calloc(w->nr / 64 + 1, sizeof(*w->words));
	return w->words ? 0 : -ENOMEM;
}

void cow_written_fini(struct cow_written *w)
{
	free((void *)w->words);
	w->words = NULL;
	w->nr = 0;
}

void cow_written_note(struct cow_written *w, uint64_t cluster)
{
	if (cluster < w->nr)
		atomic_fetch_or(&w->words[cluster / 64], 1ull << cluster % 64);
}

bool cow_written_test(const struct cow_written *w, uint64_t cluster)
{
	return cluster >= w->nr || (atomic_load(&w->words[cluster / 64]) >> cluster % 64 & 1);
}

void cow_written_clear(struct cow_written *w, uint64_t cluster)
{
	if (cluster < w->nr)
		atomic_fetch_and(&w->words[cluster / 64], ~(1ull << cluster % 64));
}
