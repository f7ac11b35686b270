/* SPDX-License-Identifier: MIT */
/* See health.h. One lock for all files: it is taken for errors only, and to ask. */
#include "engine/host/health.h"

#include <time.h>

#include "engine/base/mutex.h"

static struct cow_mutex_host_error last_lock = COW_MUTEX_INITIALIZER(COW_RANK_HOST_ERROR);

void cow_health_note(struct cow_health *health, enum cow_health_kind kind, uint64_t offset,
		     int error)
{
	struct timespec now = { 0 };
	clock_gettime(CLOCK_REALTIME, &now);
	struct cow_health_error last = {
		.kind = kind,
		.error = error,
		.offset = kind == COW_HEALTH_FLUSH ? 0 : offset,
		.time_nsec = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec,
	};
	atomic_fetch_add_explicit(&health->nr_errors[kind], 1, memory_order_relaxed);
	cow_mutex_lock(&last_lock);
	health->last = last;
	cow_mutex_unlock(&last_lock);
}

struct cow_health_error cow_health_last(struct cow_health *health)
{
	cow_mutex_lock(&last_lock);
	struct cow_health_error last = health->last;
	cow_mutex_unlock(&last_lock);
	return last;
}

const char *cow_health_kind_name(enum cow_health_kind kind)
{
	static const char *const names[] = { "read", "write", "flush", "discard" };
	return names[kind];
}
