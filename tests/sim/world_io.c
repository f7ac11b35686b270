/* SPDX-License-Identifier: MIT */
/*
 * What one host operation does to the simulated disk: its effect, its result, and the errors put in
 * its way.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/math.h"
#include "tests/sim/world.h"

#define SECTOR 512u

uint64_t sim_checksum(const struct cow_io *io)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < io->nr_vec; i++) {
		const uint8_t *p = memory_place(io, i);
		size_t n = io->vec[i].iov_len;
		for (; n >= 8; n -= 8, p += 8) {
			uint64_t word;
			memcpy(&word, p, 8);
			sum = (sum ^ word) * 0x9e3779b97f4a7c15ull;
			sum ^= sum >> 29;
		}
		for (; n; n--, p++)
			sum = (sum ^ *p) * 0x9e3779b97f4a7c15ull;
	}
	return sum;
}

static void check_alignment(const struct cow_io *io)
{
	if (!io->file->direct)
		return;
	uint64_t bits = io->offset | io->progress_bytes;
	for (unsigned i = 0; i < io->nr_vec; i++)
		bits |= (uintptr_t)io->vec[i].iov_base | io->vec[i].iov_len;
	if (bits & (SECTOR - 1))
		sim_fail("direct transfer is not aligned: offset %llu length %llu",
			 (unsigned long long)io->offset, (unsigned long long)io->length);
}

static uint64_t maybe_short(struct sim_world *world, const struct cow_io *io, uint64_t length)
{
	if (length <= SECTOR || !sim_chance(&world->random, world->faults.short_percent))
		return length;
	/* Never inside a sector: that would tear it, for a reader or in a crash. */
	return SECTOR * (1 + sim_below(&world->random, (length - 1) / SECTOR));
}

static int64_t do_read(struct sim_world *world, struct sim_pending *p)
{
	const struct cow_io *io = p->io;
	uint64_t size = memory_file_of(io->file)->now.size_bytes, off = memory_rest_offset(io);
	if (off >= size)
		return 0;
	uint64_t length = cow_min(memory_rest_bytes(io), size - off);
	return memory_perform(io, maybe_short(world, io, length), p);
}

static void check_write(const struct sim_pending *p)
{
	if (!p->io->file->writable)
		sim_fail("write to a file opened read-only: %s", p->io->file->path);
	if (p->checksum != sim_checksum(p->io))
		sim_fail("buffer changed while its write was in flight: %s offset %llu length %llu",
			 p->io->file->path, (unsigned long long)p->io->offset,
			 (unsigned long long)p->io->length);
}

/* A write that failed or never ended: some of its sectors. */
static void write_part(struct sim_world *world, struct sim_pending *p)
{
	struct cow_io *io = p->io;
	uint64_t length = memory_rest_bytes(io), off = memory_rest_offset(io);
	unsigned percent = (unsigned)sim_below(&world->random, 101);
	uint8_t *data = memory_gather(io, length);
	for (uint64_t at = 0; at < length; at += SECTOR) {
		uint64_t n = length - at < SECTOR ? length - at : SECTOR;
		if (sim_chance(&world->random, percent))
			memory_file_write(memory_file_of(io->file), off + at, data + at, n, p);
	}
	free(data);
}

static void punch_part(struct sim_world *world, struct sim_pending *p)
{
	uint64_t sectors = p->io->length / SECTOR;
	if (!sectors)
		return;
	uint64_t first = sim_below(&world->random, sectors);
	uint64_t nr = sim_below(&world->random, sectors - first + 1);
	if (nr)
		memory_file_punch(memory_file_of(p->io->file), p->io->offset + first * SECTOR,
				  nr * SECTOR, p);
}

void sim_execute_part(struct sim_world *world, struct sim_pending *p)
{
	if (p->io->kind == COW_IO_WRITE)
		write_part(world, p);
	else if (p->io->kind == COW_IO_PUNCH)
		punch_part(world, p);
	else if (p->io->kind == COW_IO_RESIZE && !memory_file_of(p->io->file)->fixed &&
		 sim_chance(&world->random, 50))
		memory_file_resize(memory_file_of(p->io->file), p->io->offset, p);
}

/* ---- faults ---- */

static bool takes_space(const struct sim_world *world, const struct cow_io *io)
{
	struct memory_file *f = memory_file_of(io->file);
	if (io->kind == COW_IO_RESIZE)
		return io->offset > f->now.size_bytes && io->offset > world->faults.full_at;
	if (io->kind != COW_IO_WRITE)
		return false;
	uint64_t off = memory_rest_offset(io), end = off + memory_rest_bytes(io);
	return end > world->faults.full_at || memory_content_is_hole(&f->now, off) ||
	       memory_content_is_hole(&f->now, end - 1);
}

/* A full host may have written some of it. */
static bool has_no_room(struct sim_world *world, const struct cow_io *io)
{
	const struct sim_faults *f = &world->faults;
	if (f->full == SIM_FULL_NOT)
		return false;
	if (takes_space(world, io))
		return true;
	return f->full == SIM_FULL_ALL && (io->kind == COW_IO_WRITE || io->kind == COW_IO_PUNCH) &&
	       sim_chance(&world->random, f->full_percent);
}

/* A full file system, a quota, a file as long as it may be: the engine must not care. */
static int64_t no_room(struct sim_world *world)
{
	static const int errors[] = { -ENOSPC, -EDQUOT, -EFBIG };
	return errors[sim_below(&world->random, 3)];
}

static int64_t refuse(struct sim_world *world, struct sim_pending *p)
{
	world->faults.nr_full++;
	if (world->faults.full == SIM_FULL_ALL && sim_chance(&world->random, 30))
		sim_execute_part(world, p);
	return no_room(world);
}

/* What was written without room for it: as bad as any failed sync. */
static bool sync_has_no_room(struct sim_world *world, const struct cow_io *io)
{
	const struct sim_faults *f = &world->faults;
	return io->kind == COW_IO_SYNC && f->full == SIM_FULL_ALL && f->full_syncs &&
	       sim_chance(&world->random, 5);
}

static bool beyond_device(const struct cow_io *io)
{
	const struct memory_file *f = memory_file_of(io->file);
	return io->kind == COW_IO_WRITE && f->fixed &&
	       memory_rest_offset(io) + memory_rest_bytes(io) > f->now.size_bytes;
}

static bool should_fail(struct sim_world *world, const struct cow_io *io)
{
	struct sim_faults *f = &world->faults;
	bool counts = f->countdown_kind < 0 || f->countdown_kind == (int)io->kind;
	if (f->countdown && counts && !--f->countdown)
		return true;
	return f->permille && sim_below(&world->random, 1000) < f->permille;
}

/* The kinds' failures, with what they leave behind. */
static int64_t fail_io(struct sim_world *world, struct sim_pending *p)
{
	struct cow_io *io = p->io;
	world->faults.nr_injected++;
	switch (io->kind) {
	case COW_IO_WRITE:
		write_part(world, p);
		break;
	case COW_IO_SYNC:
		memory_file_sync_failed(memory_file_of(io->file), p->mark);
		break;
	case COW_IO_PUNCH:
		if (sim_chance(&world->random, 30))
			return -EOPNOTSUPP;
		punch_part(world, p);
		break;
	default:
		break;
	}
	return -EIO;
}

static int64_t do_io(struct sim_world *world, struct sim_pending *p)
{
	struct cow_io *io = p->io;
	switch (io->kind) {
	case COW_IO_READ:
		return do_read(world, p);
	case COW_IO_WRITE:
		return memory_perform(io, maybe_short(world, io, memory_rest_bytes(io)), p);
	case COW_IO_SYNC:
		memory_file_sync(memory_file_of(io->file), p->mark);
		return 0;
	default:
		return memory_perform(io, 0, p);
	}
}

static int64_t outcome(struct sim_world *world, struct sim_pending *p)
{
	struct cow_io *io = p->io;
	if (io->kind == COW_IO_WRITE)
		check_write(p);
	check_alignment(io);
	if (world->powered_off)
		return -EIO;
	if (sim_chance(&world->random, world->faults.again_percent))
		return io->kind == COW_IO_SYNC || sim_chance(&world->random, 50) ? -EINTR : -EAGAIN;
	if (should_fail(world, io))
		return fail_io(world, p);
	if (io->kind == COW_IO_RESIZE && memory_file_of(io->file)->fixed)
		return -ENOTSUP;
	if (sync_has_no_room(world, io)) {
		fail_io(world, p);
		return no_room(world);
	}
	if (beyond_device(io) || has_no_room(world, io))
		return refuse(world, p);
	return do_io(world, p);
}

void sim_execute(struct sim_world *world, struct sim_pending *p)
{
	world->events++;
	bool now = world->power_off_at && world->events >= world->power_off_at;
	if (world->power_off_sync && p->io->kind == COW_IO_SYNC)
		now |= !--world->power_off_sync;
	if (world->power_off_header && p->io->kind == COW_IO_WRITE && !p->io->offset) {
		world->power_off_at = world->events + world->power_off_header;
		world->power_off_header = 0;
	}
	if (now && !world->powered_off)
		sim_world_power_off(world); /* catches p in flight with the others */
	if (world->on_event && !world->powered_off)
		world->on_event(world);
	p->result = outcome(world, p);
	p->executed = true;
}
