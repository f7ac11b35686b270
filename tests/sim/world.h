/* SPDX-License-Identifier: MIT */
/*
 * The simulated outside of the engine: a host with files (memory/disk.h), loops, time, faults, driven
 * by one seeded scheduler in one thread.
 *
 * A host operation lives through three moments that the scheduler picks: started (by the engine),
 * executed (it takes effect and its result is fixed), delivered (the engine learns of it). Between
 * any two of them anything else may happen.
 */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/loop/loop.h"
#include "tests/memory/handle.h"
#include "tests/sim/random.h"

#define SIM_MAX_LOOPS 8
#define SIM_MAX_FILE_BYTES (4ull << 30) /* address space */

struct sim_pending {
	struct cow_io *io;
	bool executed;
	int64_t result;
	uint64_t mark;	     /* SYNC: disk clock at start */
	uint64_t due_ns;     /* TIMER */
	uint64_t checksum;   /* WRITE: of the buffers at start; they must not change */
	uint64_t held_until; /* step before which it is left lying, unless nothing else can go on */
};

struct sim_loop {
	struct cow_loop base; /* first */
	struct sim_world *world;
	struct sim_pending **pending;
	unsigned nr_pending, max_pending;
	bool woken;
	bool running;	 /* a blocking call waits on it */
	bool ran_within; /* it was run while another one, further in, waited: to be looked at again */
	bool gone;	 /* its thread has ended: nobody may want anything of it */
};

enum sim_full {
	SIM_FULL_NOT,
	SIM_FULL_HOLES, /* no file grows, no hole is filled */
	SIM_FULL_ALL, /* what is overwritten takes new space too: btrfs, XFS reflinks, thin pools */
};

struct sim_faults {
	unsigned short_percent, again_percent; /* harmless: short transfers; EINTR and EAGAIN */
	uint64_t countdown;		       /* host operations until one fails; 0: none does */
	int countdown_kind;		       /* enum cow_io_kind of those that count; -1: all */
	unsigned permille;		       /* every host operation fails with this chance */
	enum sim_full full;
	uint64_t full_at;      /* no file grows beyond it */
	unsigned full_percent; /* FULL_ALL: how many of the writes and punches find no room */
	bool full_syncs;       /* FULL_ALL: syncs may find none either */
	uint64_t nr_injected;  /* errors so far; ENOSPC counts in nr_full */
	uint64_t nr_full;
};

struct sim_world {
	struct memory_disk disk;
	struct sim_random random;
	struct sim_loop *loops[SIM_MAX_LOOPS];
	unsigned nr_loops;
	unsigned lazy_loop; /* index of a loop that is rarely let run; nr_loops: none */
	/* how eagerly operations are executed compared with loops being run */
	unsigned execute_percent;
	uint64_t now_ns, steps;
	uint64_t events;	 /* host operations executed */
	uint64_t power_off_at;	 /* events; 0: not armed */
	uint64_t power_off_sync; /* just before the how manieth sync from now; 0: not armed */
	/* host operations after the next write of a file's first bytes; 0: not armed */
	uint64_t power_off_header;
	/* operations left lying; those of them for long */
	unsigned hold_percent, hold_long_percent;
	uint64_t step_ns; /* time passes by up to this in a step */
	/* transfers started now are left lying for about so many steps; 0: as chance will have it */
	uint64_t hold_steps;
	enum memory_crash crash_kind;
	bool undecided;	  /* what a loss of power leaves is decided later: sim_ways_settle() */
	bool powered_off; /* every operation fails without effect, the disk shows what survived */
	struct sim_faults faults;
	void (*on_power_off)(struct sim_world *world);
	void (*on_step)(struct sim_world *world);
	void (*on_event)(struct sim_world *world); /* a host operation is about to take effect */
	bool trace;
};

void sim_world_init(struct sim_world *world, uint64_t seed);
void sim_world_fini(struct sim_world *world);
struct sim_loop *sim_loop_new(struct sim_world *world);
/* Its thread ends, with nothing of the engine's left on it; and another one takes its place. */
void sim_loop_leave(struct sim_loop *loop);
void sim_loop_come(struct sim_loop *loop);

/* One random step of the world; false if nothing is left that could happen. */
bool sim_world_step(struct sim_world *world);
/* Lose power (or be killed) now, operations in flight included. */
void sim_world_power_off(struct sim_world *world);
void sim_world_power_on(struct sim_world *world);

/* world_io.c: give a started operation its effect and result. */
void sim_execute(struct sim_world *world, struct sim_pending *p);
void sim_execute_part(struct sim_world *world, struct sim_pending *p); /* caught by power loss */
uint64_t sim_checksum(const struct cow_io *io);

/* Ends the run as failed: one line. */
_Noreturn void sim_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
