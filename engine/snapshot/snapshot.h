/* SPDX-License-Identifier: MIT */
/*
 * Internal snapshots of a closed image: create, apply, delete. The file is opened for writing and
 * locked; nobody has the image attached. Blocking; all I/O goes through loop.
 *
 * Crash safety: a command takes effect with one write of the header's sector (see edit.h).
 * A crash leaves the image as it was before or as it is after, without leaks. Errors before that
 * write change nothing either; what can go wrong for a reason inside the image (a refcount that
 * would overflow, broken tables) is found before it.
 *
 * Ids and names are QEMU's: the id is a number as text, one more than the largest there is; several
 * snapshots may have the same name if QEMU made them, cowblk makes none such.
 */
#ifndef COW_SNAPSHOT_H
#define COW_SNAPSHOT_H

#include <stdint.h>

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/format/format.h"
#include "engine/loop/loop.h"

#define COW_SNAPSHOT_MAX_NAME_BYTES 255u /* what QEMU can show and find */

enum cow_snapshot_by { COW_SNAPSHOT_BY_ANY, COW_SNAPSHOT_BY_ID, COW_SNAPSHOT_BY_NAME };

/* Which snapshot. */
struct cow_snapshot_key {
	const char *text;
	enum cow_snapshot_by by;
};

/* What is recorded of the moment. */
struct cow_snapshot_date {
	uint32_t sec, nsec; /* since 1970 */
};

/* id (may be NULL): the new snapshot's, free()d by the caller. -EEXIST if the name is taken. */
COW_MUST_CHECK int cow_snapshot_create(struct cow_loop *loop, struct cow_file *file,
				       const char *name, const struct cow_snapshot_date *date,
				       char **id, struct cow_error *err);
/*
 * The disk becomes what it was, in content and size; VM state of the snapshot comes back with it.
 * The snapshot stays.
 */
COW_MUST_CHECK int cow_snapshot_apply(struct cow_loop *loop, struct cow_file *file,
				      const struct cow_snapshot_key *key, struct cow_error *err);
COW_MUST_CHECK int cow_snapshot_delete(struct cow_loop *loop, struct cow_file *file,
				       const struct cow_snapshot_key *key, struct cow_error *err);

#endif
