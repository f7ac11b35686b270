/* SPDX-License-Identifier: MIT */
/* Several I/Os at once, for the control plane. */
#include "engine/life/live_state.h"

void cow_live_ios_init(struct cow_live_ios *ios, struct cow_loop *loop, struct cow_file *file)
{
	ios->loop = loop;
	ios->file = file;
	ios->nr = ios->pending = 0;
	ios->error = 0;
}

static void done(struct cow_io *io)
{
	struct cow_live_ios *ios = ((struct cow_live_io *)io)->ios;
	cow_assert(ios->pending && ios->pending <= ios->nr);
	if (io->result && !ios->error)
		ios->error = io->result;
	ios->idle = --ios->pending == 0;
}

void cow_live_ios_add(struct cow_live_ios *ios, enum cow_io_kind kind, uint64_t off, void *buf,
		      uint64_t bytes)
{
	cow_assert(ios->nr < 2 * COW_LIVE_BATCH);
	struct cow_live_io *io = &ios->io[ios->nr++];
	io->ios = ios;
	ios->idle = false;
	ios->pending++;
	cow_io_prep_rw(&io->io, kind, ios->file, off, buf, bytes, done);
	cow_loop_submit(ios->loop, &io->io);
}

int cow_live_ios_wait(struct cow_live_ios *ios)
{
	int ret = ios->nr ? cow_loop_run_until(ios->loop, &ios->idle) : 0;
	cow_assert(ret || !ios->pending); /* the buffers are the caller's again */
	if (!ret)
		ret = ios->error;
	ios->nr = 0;
	ios->error = 0;
	return ret;
}
