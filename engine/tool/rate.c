/* SPDX-License-Identifier: MIT */
/* See rate.h: whose turn it is is reckoned under the lock, and waited for without it. */
#include "engine/tool/rate.h"

#include <errno.h>

#include "engine/base/math.h"
#include "engine/loop/io.h"

#define SECOND_NS 1000000000ull
#define LOOK_NS 50000000ull /* at the cancel flag */

void cow_rate_init(struct cow_rate *rate, uint64_t bytes_per_s, const atomic_bool *cancel)
{
	*rate = (struct cow_rate){ .bytes_per_s = bytes_per_s, .cancel = cancel };
	cow_mutex_init(&rate->lock, COW_RANK_WALK);
}

void cow_rate_fini(struct cow_rate *rate)
{
	cow_mutex_fini(&rate->lock);
}

/* When the bytes may go. What was not used is not saved up. */
static uint64_t take_turn(struct cow_rate *rate, uint64_t bytes, uint64_t now)
{
	uint64_t seconds = bytes / rate->bytes_per_s, rest = bytes % rate->bytes_per_s;
	uint64_t ns =
		rest > UINT64_MAX / SECOND_NS ? SECOND_NS : rest * SECOND_NS / rate->bytes_per_s;
	cow_mutex_lock(&rate->lock);
	uint64_t at = cow_max(now, rate->next_ns);
	rate->next_ns = at + seconds * SECOND_NS + ns;
	cow_mutex_unlock(&rate->lock);
	return at;
}

struct nap {
	struct cow_io io;
	bool done;
};

static void nap_done(struct cow_io *io)
{
	((struct nap *)io)->done = true;
}

int cow_rate_wait(struct cow_rate *rate, uint64_t bytes, struct cow_loop *loop)
{
	if (!rate || !rate->bytes_per_s)
		return 0;
	uint64_t now = cow_loop_now(loop), at = take_turn(rate, bytes, now);
	int ret = 0;
	for (; now < at && !ret; now = cow_loop_now(loop)) {
		struct nap nap = { .done = false };
		if (rate->cancel && atomic_load(rate->cancel))
			return -ECANCELED;
		cow_io_prep(&nap.io, COW_IO_TIMER, NULL, cow_min(at - now, LOOK_NS), 0, nap_done);
		cow_loop_submit(loop, &nap.io);
		ret = cow_loop_run_until(loop, &nap.done);
	}
	return ret;
}
