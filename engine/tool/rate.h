/* SPDX-License-Identifier: MIT */
/* So many bytes a second at most, over all threads of a tool. */
#ifndef COW_RATE_H
#define COW_RATE_H

#include <stdatomic.h>

#include "engine/base/mutex.h"
#include "engine/base/result.h"
#include "engine/loop/loop.h"

struct cow_rate {
	uint64_t bytes_per_s;	   /* the caller's; 0: no limit */
	const atomic_bool *cancel; /* may be NULL: ends a wait with -ECANCELED */
	/* own */
	struct cow_mutex_findings lock;
	uint64_t next_ns COW_GUARDED_BY(findings); /* when the next bytes may go */
};

void cow_rate_init(struct cow_rate *rate, uint64_t bytes_per_s, const atomic_bool *cancel);
void cow_rate_fini(struct cow_rate *rate);
/*
 * Before so many bytes are moved: waits for their turn. On the caller's loop, whose other work goes on.
 * rate may be NULL. 0 or -errno.
 */
COW_MUST_CHECK int cow_rate_wait(struct cow_rate *rate, uint64_t bytes, struct cow_loop *loop);

#endif
