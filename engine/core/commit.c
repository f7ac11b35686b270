/* SPDX-License-Identifier: MIT */
#include "engine/core/commit.h"

void cow_commit_init(struct cow_commit *commit)
{
	cow_mutex_init(&commit->lock, COW_RANK_COMMIT);
	cow_waitlist_init(&commit->joining);
	cow_waitlist_init(&commit->riding);
}

static void start_locked(struct cow_commit *commit, struct cow_loop *loop)
	COW_REQUIRES(commit, commit->lock);
static void start_locked(struct cow_commit *commit, struct cow_loop *loop)
{
	cow_assert(!commit->held);
	commit->running = true;
	commit->wanted = false;
	commit->loop = loop;
}

void cow_commit_join(struct cow_commit *commit, struct cow_task *task)
{
	struct cow_loop *loop = task->loop;
	cow_assert(!task->pending); /* what it has submitted is what the pass makes durable */
	cow_mutex_lock(&commit->lock);
	cow_waitlist_park(&commit->joining, task, "a writeback pass");
	bool start = !commit->running && !commit->held;
	if (start)
		start_locked(commit, loop);
	cow_mutex_unlock(&commit->lock);
	if (start)
		cow_task_post(commit->task, loop, commit->first_step);
}

void cow_commit_kick(struct cow_commit *commit, struct cow_loop *loop)
{
	cow_mutex_lock(&commit->lock);
	bool start = !commit->running && !commit->held;
	if (start)
		start_locked(commit, loop);
	else
		commit->wanted = true;
	cow_mutex_unlock(&commit->lock);
	if (start)
		cow_task_post(commit->task, loop, commit->first_step);
}

bool cow_commit_hold(struct cow_commit *commit)
{
	cow_mutex_lock(&commit->lock);
	commit->held = !commit->running;
	bool held = commit->held;
	cow_mutex_unlock(&commit->lock);
	return held;
}

void cow_commit_resume(struct cow_commit *commit, struct cow_loop *loop)
{
	cow_mutex_lock(&commit->lock);
	commit->held = false;
	bool joined = !cow_waitlist_empty(&commit->joining);
	bool start = !commit->running && (joined || commit->wanted);
	if (joined)
		loop = commit->joining.head->loop;
	if (start)
		start_locked(commit, loop);
	cow_mutex_unlock(&commit->lock);
	if (start)
		cow_task_post(commit->task, loop, commit->first_step);
}

bool cow_commit_idle(struct cow_commit *commit)
{
	cow_mutex_lock(&commit->lock);
	bool idle = !commit->running;
	cow_mutex_unlock(&commit->lock);
	return idle;
}

bool cow_commit_runs_on(struct cow_commit *commit, const struct cow_loop *loop)
{
	cow_mutex_lock(&commit->lock);
	bool runs = commit->running && commit->loop == loop;
	cow_mutex_unlock(&commit->lock);
	return runs;
}

void cow_commit_begin(struct cow_commit *commit)
{
	cow_mutex_lock(&commit->lock);
	cow_assert(commit->running);
	cow_assert(cow_waitlist_empty(&commit->riding)); /* one pass at a time */
	cow_waitlist_take(&commit->joining, &commit->riding);
	commit->wanted = false;
	cow_mutex_unlock(&commit->lock);
}

void cow_commit_end(struct cow_commit *commit, int error)
{
	struct cow_waitlist wake;
	cow_waitlist_init(&wake);
	cow_mutex_lock(&commit->lock);
	cow_assert(commit->running);
	cow_waitlist_take(&commit->riding, &wake);
	struct cow_loop *loop =
		cow_waitlist_empty(&commit->joining) ? commit->loop : commit->joining.head->loop;
	/*
	 * After an error as well: who parked for room since the pass gave back what it had captured
	 * is told by the next pass, not by this one.
	 */
	bool again = !cow_waitlist_empty(&commit->joining) || commit->wanted;
	if (again)
		start_locked(commit, loop);
	else
		commit->running = false;
	cow_mutex_unlock(&commit->lock);
	if (again)
		cow_task_post(commit->task, loop, commit->first_step);
	cow_waitlist_wake(&wake, error);
}
