/* SPDX-License-Identifier: MIT */
/*
 * What can be read of a broken disk, and which ranges of it cannot. A range is lost as far as the thing
 * that is broken speaks for it: a sector that the host cannot read, a cluster that cannot be inflated or
 * whose entry is wrong, what an L2 table maps.
 *
 * Memory: 16 bytes for each range, COW_SALVAGE_MOST of them at most.
 */
#ifndef COW_SALVAGE_H
#define COW_SALVAGE_H

#include "engine/base/mutex.h"
#include "engine/base/result.h"
#include "engine/tool/concat.h"

#define COW_SALVAGE_MOST (1u << 20)

struct cow_lost {
	uint64_t off, bytes;
};

struct cow_salvage {
	/*
	 * The caller's: what stands where something is lost: zeros, or a line in each sector that
	 * says so, with its offset.
	 */
	bool mark;
	/* own */
	struct cow_mutex_findings lock;
	struct cow_lost *noted COW_PT_GUARDED_BY(findings);
	size_t nr_noted COW_GUARDED_BY(findings);
	size_t room COW_GUARDED_BY(findings);
	bool overflowed COW_GUARDED_BY(findings);

	/* the result of cow_salvage_finish(): ranges in order, apart */
	const struct cow_lost *ranges;
	size_t nr;
	uint64_t bytes;
	bool too_many; /* there are more than are listed, and bytes counts the listed ones */
};

void cow_salvage_init(struct cow_salvage *s);
void cow_salvage_fini(struct cow_salvage *s);

/* Is it a reason to go on without the range? Not if we are out of memory, or were told to end. */
bool cow_salvage_takes(int error);
/* [off, off + bytes) is lost; it may have been noted before. Any thread. 0 or -ENOMEM. */
COW_MUST_CHECK int cow_salvage_note(struct cow_salvage *s, uint64_t off, uint64_t bytes);
/* What stands there instead. Multiples of 512. */
void cow_salvage_fill(const struct cow_salvage *s, uint64_t off, uint64_t bytes, uint8_t *buf);
/* As cow_concat_lane_read(); what cannot be read is noted, and filled. */
COW_MUST_CHECK int cow_salvage_read(struct cow_salvage *s, struct cow_concat_lane *lane,
				    uint64_t off, uint64_t bytes, uint8_t *buf);
/* Nothing is noted any more: the result. */
void cow_salvage_finish(struct cow_salvage *s);

#endif
