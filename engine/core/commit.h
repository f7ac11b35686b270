/* SPDX-License-Identifier: MIT */
/*
 * Who waits for a writeback pass. The pass itself is above (meta/writeback.c): it hands in its task
 * and its first step when it is set up, and takes and wakes the waiters; whoever changes metadata
 * or wants it to be durable needs to know nothing but this.
 *
 * FLUSHes, FUA writes and the engine's own tasks join the next pass and are woken when it is
 * through (group commit).
 */
#ifndef COW_COMMIT_H
#define COW_COMMIT_H

#include <stdatomic.h>

#include "engine/base/mutex.h"
#include "engine/loop/task.h"

/* Told when a pass has taken what is dirty, and when all of that is durable, or not. */
struct cow_commit_watch {
	void (*captured)(void *ctx);
	void (*completed)(void *ctx, bool ok);
	void *ctx;
};

struct cow_commit {
	/* constant after set-up */
	struct cow_task *task; /* the pass's */
	const struct cow_step *first_step;
	struct cow_commit_watch watch;

	struct cow_mutex_commit lock;
	struct cow_waitlist joining COW_GUARDED_BY(commit); /* for the next pass */
	struct cow_waitlist riding COW_GUARDED_BY(commit);  /* on the running pass */
	bool running COW_GUARDED_BY(commit);
	bool wanted COW_GUARDED_BY(commit);
	bool held COW_GUARDED_BY(commit); /* none may start: a change of the whole image */
	struct cow_loop *loop COW_GUARDED_BY(commit); /* where the running pass runs */

	/*
	 * any thread: data was written that must be durable before the L2 entries that point to it
	 */
	atomic_bool ordered_data;
	/* any thread: the header is to be written */
	atomic_bool header_dirty;
};

void cow_commit_init(struct cow_commit *commit);

/*
 * Park the task until a pass that begins after this call is through; then it runs its current step
 * again, or fails. So set the step to what follows before calling, and return COW_WAIT.
 */
void cow_commit_join(struct cow_commit *commit, struct cow_task *task);
/* Have a pass soon; nobody waits. */
void cow_commit_kick(struct cow_commit *commit, struct cow_loop *loop);
/*
 * A change of the whole image: from now on no pass starts; who joins or kicks waits for the end of
 * it. False: one runs.
 */
bool cow_commit_hold(struct cow_commit *commit);
/* Starts the pass that was wanted meanwhile, on the loop of who joined first, or on this one. */
void cow_commit_resume(struct cow_commit *commit, struct cow_loop *loop);
bool cow_commit_idle(struct cow_commit *commit);
/* Is a pass running on this loop? */
bool cow_commit_runs_on(struct cow_commit *commit, const struct cow_loop *loop);

/* ---- for the pass ---- */

/* It begins: who joined so far rides on it. */
void cow_commit_begin(struct cow_commit *commit);
/*
 * It is over. Goes on at once if somebody joined meanwhile, on the loop of the first who did; wakes
 * the riders. Another thread may start the pass's task from here on.
 */
void cow_commit_end(struct cow_commit *commit, int error);

#endif
