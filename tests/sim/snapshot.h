/* SPDX-License-Identifier: MIT */
/*
 * Snapshot commands between two openings of the image, with power lost in the middle of them:
 * afterwards the image is as before or as after, without corruption and without a leak more, and
 * every snapshot still holds what it held.
 */
#ifndef SIM_SNAPSHOT_H
#define SIM_SNAPSHOT_H

#include "tests/sim/run.h"

/* RESIZE: no snapshot, but another size of the disk. */
enum sim_snapshot_what {
	SIM_SNAPSHOT_CREATE,
	SIM_SNAPSHOT_APPLY,
	SIM_SNAPSHOT_DELETE,
	SIM_SNAPSHOT_RESIZE
};

/* The image is closed, what it holds is settled. Ends with the power on and the image closed. */
void sim_snapshot_command(struct sim_run *run, const struct sim_action *action);
/*
 * Reads all snapshots made here through the engine; the image is closed or only read. Stops when
 * power is lost.
 */
void sim_snapshots_verify(struct sim_run *run);
void sim_snapshots_fini(struct sim_run *run);

/* ---- parts, for live.c ---- */

/* The image's header as it stands in the file. */
struct cow_header sim_snapshot_header(struct sim_run *run);
/* Which command the action means now, on which snapshot. */
void sim_snapshot_choose(struct sim_run *run, const struct sim_action *action, bool closed,
			 struct sim_command *c);
/* Runs it on an open file of the image. */
int sim_snapshot_execute(struct sim_command *c, struct cow_loop *loop, struct cow_file *file,
			 struct cow_error *err);
/* The model and the list as they are after it; takes c->shot. */
void sim_snapshot_take_effect(struct sim_run *run, struct sim_command *c);
/* Refused because narrow refcounts have no room for another reference? */
bool sim_snapshot_may_refuse(struct sim_run *run, const struct sim_command *c);
/* Reads one through the engine, beside whoever has the image open. */
void sim_snapshot_verify_taken(struct sim_run *run, const struct sim_taken *t);

#endif
