/* SPDX-License-Identifier: MIT */
/* What all parts of a live change use. */
#include "engine/life/live_state.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/life/close.h"

uint32_t cow_live_clusters(const struct cow_live *x, uint64_t bytes)
{
	return (uint32_t)((bytes + x->image->core.g.cluster_bytes - 1) >>
			  x->image->core.g.cluster_bits);
}

int cow_live_corrupt(struct cow_live *x, uint64_t off, const char *rule)
{
	return cow_error_set(x->err, -EINVAL,
			     "offset %" PRIu64
			     ": %s: repair the image with cowblk check --repair all",
			     off, rule);
}

int cow_live_trouble(struct cow_live *x, int ret)
{
	if (ret == -EOVERFLOW) /* half written, or broken: to be judged under the freeze */
		return -EAGAIN;
	if (ret && ret != -ENOSPC)
		cow_error_set(x->err, ret, "%s", strerror(-ret));
	return ret;
}

int cow_live_say_writing(struct cow_image *image, struct cow_loop *loop)
{
	if (atomic_load(&image->core.ready_for_write))
		return 0;
	cow_core_note_writing(&image->core);
	int ret = cow_image_write_back(image, loop);
	if (!ret)
		atomic_store(&image->core.ready_for_write, true);
	return ret;
}

bool cow_live_cancelled(const struct cow_live *x)
{
	return !x->frozen && x->s->cancel && atomic_load(x->s->cancel);
}

struct cow_shadow_part cow_live_span(const struct cow_live *x, uint64_t parts)
{
	unsigned bits = x->written.part_bits;
	cow_assert(parts);
	unsigned first = (unsigned)__builtin_ctzll(parts);
	unsigned last = 63u - (unsigned)__builtin_clzll(parts);
	return (struct cow_shadow_part){ first << bits, (last + 1) << bits };
}

unsigned cow_live_parts_in(const struct cow_live *x, struct cow_shadow_part span)
{
	return (span.to - span.from) >> x->written.part_bits;
}

void cow_live_io(struct cow_live *x, enum cow_io_kind kind, uint64_t off, uint8_t *buf,
		 struct cow_shadow_part span)
{
	cow_assert(span.from < span.to && span.to <= x->image->core.g.cluster_bytes);
	cow_live_ios_add(&x->ios, kind, off + span.from, buf + span.from, span.to - span.from);
}

int cow_live_begin_batch(struct cow_live *x, const char *what)
{
	if (!x->frozen)
		cow_live_brake_batch(&x->brake);
	int ret = cow_live_ios_wait(&x->ios);
	return ret ? cow_error_set(x->err, ret, "cannot read %s: %s", what, strerror(-ret)) : 0;
}

int cow_live_end_batch(struct cow_live *x, int ret)
{
	int written = cow_live_ios_wait(&x->ios);
	if (ret || !written)
		return ret;
	return cow_error_set(x->err, written, "cannot write: %s", strerror(-written));
}
