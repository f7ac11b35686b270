/* SPDX-License-Identifier: MIT */
/* See core.h: the sticky failure, the header. */
#include "engine/core/core.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/log.h"

void cow_core_init(struct cow_core *core)
{
	cow_mutex_init(&core->header_lock, COW_RANK_HEADER);
	cow_mutex_init(&core->fail_lock, COW_RANK_FAIL);
	cow_commit_init(&core->commit);
}

/* ---- the sticky failure ---- */

int cow_core_fail(struct cow_core *core, struct cow_loop *loop, const char *fmt, ...)
{
	va_list ap;
	cow_mutex_lock(&core->fail_lock);
	bool first = !atomic_load(&core->failed);
	if (core->failed_too)
		atomic_store(core->failed_too, true);
	if (first) {
		va_start(ap, fmt);
		vsnprintf(core->failure, sizeof(core->failure), fmt, ap);
		va_end(ap);
		atomic_store(&core->failed, true);
	}
	cow_mutex_unlock(&core->fail_lock);
	if (first)
		cow_log(COW_LOG_ERR, "%s: %s; %s", core->path, core->failure,
			core->writable ? "no more writing, reads go on"
				       : "reads of sound clusters go on");
	return -EIO;
}

int cow_core_corrupt(struct cow_core *core, struct cow_loop *loop, uint64_t off, const char *rule)
{
	cow_core_fail(core, loop, "corrupt at offset %llu: %s", (unsigned long long)off, rule);
	if (!core->writable || core->g.version < 3)
		return -EIO;
	cow_mutex_lock(&core->header_lock);
	bool first = !core->mark_corrupt;
	core->mark_corrupt = true;
	core->header.incompatible |= QCOW2_INCOMPAT_CORRUPT;
	cow_mutex_unlock(&core->header_lock);
	if (first) {
		atomic_store(&core->commit.header_dirty, true);
		cow_commit_kick(&core->commit, loop);
	}
	return -EIO;
}

void cow_core_note_cut(struct cow_core *core, struct cow_loop *loop)
{
	if (!core->writable || cow_core_is_failed(core))
		return;
	if (cow_file_is_cut(core->file) || cow_file_is_cut(core->data))
		cow_core_fail(core, loop, "the host file was cut short under us");
}

bool cow_core_is_whole(struct cow_core *core, struct cow_loop *loop)
{
	bool whole = cow_file_is_whole(core->file) && cow_file_is_whole(core->data);
	cow_core_note_cut(core, loop);
	return whole;
}

/* ---- the header ---- */

void cow_core_header_encode(struct cow_core *core, uint8_t sector[512])
{
	cow_mutex_lock(&core->header_lock);
	memcpy(sector, core->header_sector, 512);
	cow_header_encode(&core->header, sector, 512);
	cow_mutex_unlock(&core->header_lock);
}

struct cow_header cow_core_header(struct cow_core *core)
{
	cow_mutex_lock(&core->header_lock);
	struct cow_header header = core->header;
	cow_mutex_unlock(&core->header_lock);
	return header;
}

bool cow_core_is_marked_corrupt(struct cow_core *core)
{
	cow_mutex_lock(&core->header_lock);
	bool marked = core->mark_corrupt;
	cow_mutex_unlock(&core->header_lock);
	return marked;
}

void cow_core_note_writing(struct cow_core *core)
{
	cow_assert(core->writable);
	cow_mutex_lock(&core->header_lock);
	core->header.autoclear &= core->kept_autoclear;
	cow_mutex_unlock(&core->header_lock);
	atomic_store(&core->commit.header_dirty, true);
}

/* Autoclear features that we do not keep true are switched off before anything is written. */
void cow_core_prepare_write(struct cow_core *core, struct cow_task *task)
{
	cow_core_note_writing(core);
	cow_commit_join(&core->commit, task);
}

const char *cow_core_failure(const struct cow_core *core)
{
	return atomic_load(&core->failed) ? core->failure : NULL;
}
