/* SPDX-License-Identifier: MIT */
/*
 * What every part of an open image may know: its files, its shape, its header, whether it has
 * failed, and who waits for a writeback pass. Parts above keep a pointer to it and to nothing else
 * of the image that holds them.
 */
#ifndef COW_CORE_H
#define COW_CORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/mutex.h"
#include "engine/base/result.h"
#include "engine/core/commit.h"
#include "engine/core/limits.h"
#include "engine/format/format.h"
#include "engine/format/geometry.h"
#include "engine/host/file.h"

struct cow_core {
	/* constant after open */
	struct cow_host *host;
	struct cow_file *file;
	struct cow_file *data; /* where guest data lies: file, or the external data file */
	/* the external data file is to be readable as a raw image at any time */
	bool raw_data_file;
	char *path;
	bool writable;
	bool no_discard;
	bool salvage; /* read-only, and what can be read of it is to be read: see options.h */
	struct cow_geometry g;
	struct cow_limits limits;
	uint8_t *zeros; /* cluster_bytes of zeros */

	/* changed by the control thread while nothing runs: at open, under a freeze */
	struct cow_extensions ext;
	uint64_t snapshots_bytes; /* length of the snapshot table in the file */
	uint64_t kept_autoclear;  /* autoclear features that we keep true while we write */

	struct cow_mutex_header header_lock;
	struct cow_header header
		COW_GUARDED_BY(header); /* as to be written; see also cow_core_header_encode() */
	/* the first 512 bytes as read: what the header's fields do not cover is kept */
	uint8_t header_sector[512] COW_GUARDED_BY(header);
	bool mark_corrupt COW_GUARDED_BY(header); /* the corrupt bit is to be set */

	/* constant after open: where that outlives the process; may be NULL */
	atomic_bool *failed_too;
	/* any thread */
	atomic_bool failed; /* sticky: no more writing */
	/* sticky, besides failed: its tables are lost to us, no more reading either */
	atomic_bool unreadable;
	atomic_bool ready_for_write; /* the header tells that somebody writes (autoclear bits) */

	struct cow_mutex_failure fail_lock;
	char failure[256] COW_GUARDED_BY(failure);

	struct cow_commit commit;
};

/* The locks; the rest is zero. */
void cow_core_init(struct cow_core *core);

/*
 * The image is in doubt: no more writing. Logs and keeps the first reason. Returns -EIO. No shard
 * lock held.
 */
int cow_core_fail(struct cow_core *core, struct cow_loop *loop, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/*
 * The image breaks a rule at a host offset: fails it and sets the corrupt bit. Returns -EIO. No
 * shard lock held.
 */
int cow_core_corrupt(struct cow_core *core, struct cow_loop *loop, uint64_t off, const char *rule);

/*
 * Fails the image if its host file was found cut short: what would be written now would hide the
 * hole.
 */
void cow_core_note_cut(struct cow_core *core, struct cow_loop *loop);
/* Looks at the host file's length first. False: cut. */
bool cow_core_is_whole(struct cow_core *core, struct cow_loop *loop);

/* The disk's size, which grows under a freeze: requests are looked at before they are admitted. */
static inline uint64_t cow_core_size_bytes(const struct cow_core *core)
{
	return __atomic_load_n(&core->g.size_bytes, __ATOMIC_RELAXED);
}

static inline void cow_core_set_size_bytes(struct cow_core *core, uint64_t bytes)
{
	__atomic_store_n(&core->g.size_bytes, bytes, __ATOMIC_RELAXED);
}

static inline bool cow_core_is_failed(struct cow_core *core)
{
	return atomic_load_explicit(&core->failed, memory_order_acquire);
}

/* The next pass switches off the autoclear features that are not kept true. */
void cow_core_note_writing(struct cow_core *core);
/* Have the header say that somebody writes; the task runs its step again when that is durable. */
void cow_core_prepare_write(struct cow_core *core, struct cow_task *task);

/* The header as it should stand on disk now. */
struct cow_header cow_core_header(struct cow_core *core);
bool cow_core_is_marked_corrupt(struct cow_core *core);
/* Of it, what changes under a freeze only. */
COW_NO_ANALYSIS
static inline uint64_t cow_core_snapshots_off(const struct cow_core *core)
{
	return core->header.snapshots_off;
}

/* The first 512 bytes as they should stand on disk now. */
void cow_core_header_encode(struct cow_core *core, uint8_t sector[512]);

/* Why it failed, or NULL. */
const char *cow_core_failure(const struct cow_core *core);

#endif
