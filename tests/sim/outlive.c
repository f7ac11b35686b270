/* SPDX-License-Identifier: MIT */
#include "tests/sim/outlive.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/base/assert.h"
#include "engine/meta/outlive.h"

void sim_outlive_init(struct sim_run *run)
{
	struct sim_outlive *o = &run->outlive;
	if (!run->script->config.outlive || run->script->config.sweep)
		return;
	for (unsigned i = 0; i < 2; i++) {
		o->fds[i] = memfd_create("cow_sim", MFD_CLOEXEC);
		cow_assert(o->fds[i] > 0);
	}
}

void sim_outlive_fini(struct sim_run *run)
{
	struct sim_outlive *o = &run->outlive;
	for (unsigned i = 0; i < 2; i++)
		if (o->fds[i])
			close(o->fds[i]);
}

int sim_outlive_fd(const struct sim_run *run)
{
	return run->outlive.fds[run->outlive.current];
}

static void copy_extent(int from, int to, off_t at, off_t end)
{
	static uint8_t buf[65536];
	while (at < end) {
		size_t n = (size_t)(end - at) < sizeof(buf) ? (size_t)(end - at) : sizeof(buf);
		cow_assert(pread(from, buf, n, at) == (ssize_t)n);
		cow_assert(pwrite(to, buf, n, at) == (ssize_t)n);
		at += (off_t)n;
	}
}

static void copy(int from, int to)
{
	off_t size = lseek(from, 0, SEEK_END), at = 0;
	cow_assert(size >= 0 && !ftruncate(to, 0) && !ftruncate(to, size));
	while (at < size && (at = lseek(from, at, SEEK_DATA)) >= 0) {
		off_t end = lseek(from, at, SEEK_HOLE);
		copy_extent(from, to, at, end);
		at = end;
	}
}

static void empty(int fd)
{
	cow_assert(!ftruncate(fd, 0));
}

/* The image was open when the process died, or was about to be for another one that had died. */
static bool is_left(int fd)
{
	uint64_t magic = 0;
	return pread(fd, &magic, sizeof(magic), 0) == sizeof(magic) && magic == COW_OUTLIVE_MAGIC;
}

static void note_in_flight(struct sim_run *run)
{
	struct sim_outlive *o = &run->outlive;
	for (unsigned q = 0; q < SIM_MAX_QUEUES; q++)
		for (unsigned i = 0; i < SIM_MAX_DEPTH; i++)
			if (run->ops[q][i].busy && !run->ops[q][i].stale)
				o->again[o->nr_again++] = run->ops[q][i].action;
}

/*
 * The old process goes on against a dead host, and changes its memory: what it left is a copy. While
 * the next one opens the image it may die, too.
 */
bool sim_outlive_crash(struct sim_run *run)
{
	struct sim_outlive *o = &run->outlive;
	if (!sim_outlive_fd(run))
		return false;
	int left = o->fds[!o->current];
	o->switched = true;
	bool dies = run->world.crash_kind == MEMORY_CRASH_KILL && is_left(sim_outlive_fd(run));
	if (dies && !(run->image && cow_image_failure(run->image))) {
		copy(sim_outlive_fd(run), left);
		note_in_flight(run);
		o->twice = o->pending;
		o->pending = true;
		return true;
	}
	empty(left);
	o->pending = false;
	o->nr_again = 0;
	return false;
}

void sim_outlive_settle(struct sim_run *run)
{
	struct sim_outlive *o = &run->outlive;
	if (!o->switched)
		return;
	o->switched = false;
	empty(sim_outlive_fd(run));
	o->current = !o->current;
}

bool sim_outlive_pending(const struct sim_run *run)
{
	return run->outlive.pending;
}

void sim_outlive_done(struct sim_run *run)
{
	run->outlive.pending = false;
	if (!run->image && sim_outlive_fd(run))
		empty(sim_outlive_fd(run)); /* a close that failed ends the daemon, too */
}

void sim_outlive_reissue(struct sim_run *run)
{
	struct sim_outlive *o = &run->outlive;
	for (unsigned i = 0; i < o->nr_again && !run->world.powered_off; i++)
		sim_guest_submit(run, o->again[i]);
	o->nr_again = 0;
}
