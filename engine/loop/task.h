/* SPDX-License-Identifier: MIT */
/*
 * A task: something that is walked through steps on one loop's thread. Guest requests (op.h) and
 * the engine's own work
 * (writeback, allocation, release of freed clusters) are tasks.
 *
 * A step runs to completion and never sleeps. When what it needs is not there it parks the task on
 * a wait list and returns COW_WAIT; when woken, the SAME step runs again from its top. So a step
 * looks first and leaps last: before its last possible wait it changes nothing but what belongs to
 * the task alone.
 *
 * States of a task (owner thread only):
 *   running   inside a step
 *   parked    on exactly one cow_waitlist; msg is free until the waker posts it
 *   wait_io   returned COW_WAIT to be run again when one of its host I/Os completes
 *   idle      not started or ended
 */
#ifndef COW_TASK_H
#define COW_TASK_H

#include <stdbool.h>

#include "engine/loop/loop.h"

struct cow_task;

enum cow_next {
	COW_AGAIN, /* run task->step (changed or not) now */
	COW_WAIT,  /* parked or waiting for I/O */
	COW_END,   /* the task is over: call task->end */
};

struct cow_step {
	const char *name;
	enum cow_next (*run)(struct cow_task *task);
};

struct cow_task {
	struct cow_msg msg;    /* the wake-up */
	struct cow_loop *loop; /* owner */
	const struct cow_step *step;
	const struct cow_step *unwind; /* where an error leads */
	void (*end)(struct cow_task *task);
	/* parked, on what: a constant text; the owner's, stays until the task runs again */
	const char *waits_for;
	struct cow_task *wait_next; /* link of the wait list; guarded by that list's lock */
	int wake_error;		    /* the waker's word, read when the message runs */
	int error;		    /* first error */
	unsigned pending;	    /* host I/Os in flight */
	bool wait_io;
};

/* FIFO of parked tasks. Guarded by whatever lock the list's owner names. */
struct cow_waitlist {
	struct cow_task *head, **tail;
};

static inline void cow_waitlist_init(struct cow_waitlist *list)
{
	list->head = NULL;
	list->tail = &list->head;
}

static inline bool cow_waitlist_empty(const struct cow_waitlist *list)
{
	return !list->head;
}

/*
 * Append: from now on the task belongs to the list; the step must return COW_WAIT without touching
 * more. what: a constant text, for cow_inspect().
 */
void cow_waitlist_park(struct cow_waitlist *list, struct cow_task *task, const char *what);
/*
 * Move all of `list` to `to` (an initialised list); under the lock, to be woken after it is
 * dropped.
 */
void cow_waitlist_take(struct cow_waitlist *list, struct cow_waitlist *to);
/* Wake those in a list that has some: see cow_waitlist_wake(). */
void cow_waitlist_wake_all(struct cow_waitlist *list, int error);
/*
 * Wake all, each on its own loop. error != 0 fails them. No lock may be needed for `list` any more.
 */
static inline void cow_waitlist_wake(struct cow_waitlist *list, int error)
{
	if (list->head)
		cow_waitlist_wake_all(list, error);
}

void cow_task_init(struct cow_task *task, const struct cow_step *unwind,
		   void (*end)(struct cow_task *));
/* Start at step, on the caller's thread (which owns loop), at once. */
void cow_task_start(struct cow_task *task, struct cow_loop *loop, const struct cow_step *step);
/* Start at step on loop's thread, from any thread. */
void cow_task_post(struct cow_task *task, struct cow_loop *loop, const struct cow_step *step);

/* Record an error (the first one wins). */
static inline void cow_task_fail(struct cow_task *task, int error)
{
	if (!task->error)
		task->error = error;
}

static inline enum cow_next cow_task_goto(struct cow_task *task, const struct cow_step *step)
{
	task->step = step;
	return COW_AGAIN;
}

/* Return this from a step to run again when a host I/O of the task completes. */
static inline enum cow_next cow_task_wait_io(struct cow_task *task)
{
	task->wait_io = true;
	return COW_WAIT;
}

/*
 * Post the task's own wake-up: its step is run again soon. Return COW_WAIT after it. Owner thread
 * only.
 */
void cow_task_yield(struct cow_task *task);

/* To be called by the done function of each of the task's I/Os. */
void cow_task_io_done(struct cow_task *task, int result);

#endif
