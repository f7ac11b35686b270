/* SPDX-License-Identifier: MIT */
/*
 * One run: an image on the simulated host, its guest, its crashes. Fails by sim_fail(), which ends
 * the process.
 */
#ifndef SIM_RUN_H
#define SIM_RUN_H

#include <stdatomic.h>

#include "engine/life/image.h"
#include "tests/sim/bitmap.h"
#include "tests/sim/model.h"
#include "tests/sim/script.h"
#include "tests/sim/shot.h"
#include "tests/sim/tool.h"
#include "tests/sim/world.h"

#define SIM_MAX_QUEUES 6
#define SIM_MAX_DEPTH 16

struct sim_run;

struct sim_op {
	struct sim_run *run;
	const struct sim_action *action;
	bool busy, stale; /* stale: power was lost while it ran, its result means nothing */
	uint64_t start;	  /* model clock */
	uint64_t first_step;
	uint8_t *buf;
	uint8_t *base; /* with config.guest: what buf is to its I/O */
	struct memory_guest guest;
};

struct sim_stats {
	uint64_t second;	    /* crash states that QEMU has seen, whole */
	uint64_t bitmaps, believed; /* cleared or made; found not to be in use */
	uint64_t live,
		all_frozen; /* commands on the running image; those done all under a freeze */
	uint64_t resized;   /* disks, closed or in use */
	uint64_t tools, tools_cut; /* verbs on the closed image: done; that power was lost in */
	uint64_t snapshots, snapshots_lost; /* commands that took effect; that power was lost in */
	uint64_t replays, bitmaps_outlived; /* of what a killed process left */
	uint64_t ops, crashes, kills, reopens, failed_ops, injected, full, events, repairs, growths;
};

/* A snapshot made during the run. */
struct sim_taken {
	char name[16];
	struct sim_shot *shot;
	uint64_t size_bytes; /* of the disk */
};

/* A snapshot command under way, or cut off by the loss of power. */
struct sim_command {
	unsigned what;	     /* enum sim_snapshot_what */
	uint64_t size_bytes; /* RESIZE: that the disk gets */
	unsigned idx;	     /* of the snapshot in run->taken */
	char name[16];
	int result;
	struct cow_error err;
	uint64_t begun;	       /* model clock */
	struct sim_shot *shot; /* CREATE: what it holds if it comes to be */
	bool in_doubt;	       /* live: only the disk knows whether it took effect */
};

/* outlive.h */
struct sim_outlive {
	int fds[2]; /* 0: none */
	unsigned current;
	bool switched, pending;
	bool twice; /* the next one died as well, before the image was open */
	const struct sim_action *again[SIM_MAX_QUEUES * SIM_MAX_DEPTH];
	unsigned nr_again;
};

struct sim_run {
	const struct sim_script *script;
	struct sim_world world;
	struct sim_model model;
	struct sim_loop *control, *queue_loops[SIM_MAX_QUEUES];
	struct sim_loop
		*visitor; /* of who asks for something on the open image; gone before and after */
	struct cow_image *image;
	struct cow_queue *queues[SIM_MAX_QUEUES]; /* NULL: not there just now */
	bool leaving[SIM_MAX_QUEUES];		  /* it is being freed */
	struct sim_op ops[SIM_MAX_QUEUES][SIM_MAX_DEPTH];
	struct sim_random random;
	uint64_t next_id;
	uint64_t injected_at_open; /* faults before this image was opened, a full host among them */
	uint64_t leaks;		   /* known ones: crashes and faults leave some */
	/*
	 * a full host may leave some behind the end of the file, which no check counts until it
	 * grows
	 */
	bool hidden_leaks;
	bool image_failed, close_failed; /* the last time */
	/* what every sector of the prepared image's snapshot holds; NULL: it has none */
	uint64_t *snapshot;
	uint32_t reftable_clusters; /* as last seen */
	struct sim_taken taken[SIM_MAX_TAKEN];
	unsigned nr_taken;
	struct sim_command live; /* the last command under a freeze */
	bool frozen;		 /* it runs */
	uint64_t size_bytes;	 /* of the disk: what lies behind the script's size is not used */
	bool may_give_up;	 /* who asked for it may go */
	atomic_bool gave_up;
	struct sim_bitmap bitmap;
	struct sim_tool tool; /* the last verb on the closed image */
	struct sim_outlive outlive;
	struct cow_secret *secret; /* opens whatever of the chain is encrypted */
	bool wants_memory;	   /* a cache could use more */
	unsigned action_idx;
	bool seen_power_off;
	bool swept; /* a process of its own, forked to lose power at one moment of a sweep */
	/* what losses of power have left so far; NULL: nothing is swept */
	struct sim_sweep *sweep;
	bool finishing; /* nothing is swept any more */
	struct sim_stats stats;
	const char *dump_dir;	 /* where a failing run leaves the host's files; may be NULL */
	unsigned second_percent; /* of crash states that QEMU is asked about: second.h */
	char second_dir[64];	 /* the one that it is being asked about; "": none */
};

struct sim_run_options {
	bool trace;
	const char *dump_dir;
	unsigned second_percent;
	struct sim_sweep *sweep; /* of a script that is swept; NULL: one of its own */
};

/* In parts: the script may grow by sim_script_add() when all of it is done. */
struct sim_run *sim_run_begin(const struct sim_script *script,
			      const struct sim_run_options *options);
void sim_run_actions(struct sim_run *run);
void sim_run_end(struct sim_run *run, struct sim_stats *stats);
/* All of it. */
void sim_run_script(const struct sim_script *script, struct sim_stats *stats,
		    const struct sim_run_options *options);

/* guest.c */
void sim_guest_submit(struct sim_run *run, const struct sim_action *action);
bool sim_guest_busy(const struct sim_run *run);
void sim_guest_check_hang(struct sim_run *run);
void sim_guest_verify(struct sim_run *run); /* reads everything */
/* Power was lost: what is in flight is judged no more. */
void sim_guest_abandon(struct sim_run *run);
/* There is room for the action on its queue right now. */
bool sim_guest_has_room(const struct sim_run *run, const struct sim_action *action);
/* True if a request may fail: something was put in its way since the image was opened. */
bool sim_guest_excused(const struct sim_run *run);
/* True if the image's closing may have left clusters behind: a full host does only while it is full. */
bool sim_guest_may_leak(const struct sim_run *run);

/* make.c */
void sim_image_create(struct sim_run *run);

/* image.c */
/* Passphrases, for every opening of the image. */
void sim_image_keys(const struct sim_run *run, struct cow_open_options *options);
int sim_image_open(struct sim_run *run);
/* Caches grow that want to, and now and then give back what they can. */
void sim_image_memory(struct sim_run *run);
/* A queue's thread ends if nothing is in flight on it; it comes back when it is needed. */
void sim_image_queue_leaves(struct sim_run *run, unsigned queue);
struct cow_queue *sim_image_queue(struct sim_run *run, unsigned queue);
void sim_image_close(struct sim_run *run);
void sim_image_check(struct sim_run *run, bool clean);

#endif
