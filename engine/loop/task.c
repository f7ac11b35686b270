/* SPDX-License-Identifier: MIT */
#include "engine/loop/task.h"

#include "engine/base/assert.h"
#include "engine/base/mutex.h"

void cow_waitlist_park(struct cow_waitlist *list, struct cow_task *task, const char *what)
{
	cow_assert(!task->wait_io); /* it waits for one thing */
	task->waits_for = what;
	task->wait_next = NULL;
	*list->tail = task;
	list->tail = &task->wait_next;
}

void cow_waitlist_take(struct cow_waitlist *list, struct cow_waitlist *to)
{
	if (!list->head)
		return;
	*to->tail = list->head;
	to->tail = list->tail;
	cow_waitlist_init(list);
}

void cow_waitlist_wake_all(struct cow_waitlist *list, int error)
{
	struct cow_task *task = list->head;
	cow_waitlist_init(list);
	while (task) {
		struct cow_task *next = task->wait_next;
		task->wake_error = error;
		cow_loop_post(task->loop, &task->msg);
		task = next;
	}
}

static void run(struct cow_task *task)
{
	for (;;) {
		if (task->error && task->step != task->unwind)
			task->step = task->unwind;
		enum cow_next next = task->step->run(task);
		cow_mutex_assert_none_held();
		if (next == COW_WAIT)
			return;
		if (next == COW_END) {
			cow_assert(task->pending == 0);
			task->end(task);
			return;
		}
	}
}

static void wake(struct cow_msg *msg)
{
	struct cow_task *task = (struct cow_task *)msg;
	task->waits_for = NULL;
	if (task->wake_error) {
		cow_task_fail(task, task->wake_error);
		task->wake_error = 0;
	}
	run(task);
}

void cow_task_init(struct cow_task *task, const struct cow_step *unwind,
		   void (*end)(struct cow_task *))
{
	task->msg.fn = wake;
	task->step = NULL;
	task->unwind = unwind;
	task->end = end;
	task->waits_for = NULL;
	task->wake_error = 0;
	task->error = 0;
	task->pending = 0;
	task->wait_io = false;
}

void cow_task_start(struct cow_task *task, struct cow_loop *loop, const struct cow_step *step)
{
	task->loop = loop;
	task->step = step;
	task->error = 0;
	run(task);
}

void cow_task_post(struct cow_task *task, struct cow_loop *loop, const struct cow_step *step)
{
	cow_assert(!task->pending && !task->wait_io);
	task->loop = loop;
	task->step = step;
	task->error = 0;
	cow_loop_post(loop, &task->msg);
}

void cow_task_yield(struct cow_task *task)
{
	cow_assert(!task->wait_io);
	cow_loop_post(task->loop, &task->msg);
}

void cow_task_io_done(struct cow_task *task, int result)
{
	cow_assert(task->pending > 0);
	task->pending--;
	if (result)
		cow_task_fail(task, result);
	if (task->wait_io) {
		task->wait_io = false;
		cow_loop_post(task->loop, &task->msg);
	}
}
