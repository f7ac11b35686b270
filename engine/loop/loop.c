/* SPDX-License-Identifier: MIT */
/*
 * What all loop bodies share: messages. The inbox is a stack that any thread pushes to and the
 * owner takes whole; it is reversed so that messages of one sender keep their order. A sender that
 * finds the inbox non-empty need not wake: whoever made it non-empty did.
 */
#include "engine/loop/loop.h"

static _Thread_local struct cow_loop *current_loop;

void cow_loop_enter(struct cow_loop *loop)
{
	current_loop = loop;
}

void cow_loop_init(struct cow_loop *loop, const struct cow_loop_ops *ops)
{
	loop->ops = ops;
	loop->ready_head = NULL;
	loop->ready_tail = &loop->ready_head;
	atomic_init(&loop->inbox, NULL);
	loop->in_batch = false;
	loop->whole = NULL;
}

void cow_loop_free(struct cow_loop *loop)
{
	if (!loop)
		return;
	if (current_loop == loop)
		current_loop = NULL;
	loop->ops->free(loop);
}

uint64_t cow_loop_now(struct cow_loop *loop)
{
	return loop->ops->now(loop);
}

/* ---- messages ---- */

static void defer(struct cow_loop *loop, struct cow_msg *msg)
{
	msg->next = NULL;
	*loop->ready_tail = msg;
	loop->ready_tail = &msg->next;
}

void cow_loop_post(struct cow_loop *target, struct cow_msg *msg)
{
	if (target == current_loop) {
		defer(target, msg);
		return;
	}
	struct cow_msg *head = atomic_load_explicit(&target->inbox, memory_order_relaxed);
	do {
		msg->next = head;
	} while (!atomic_compare_exchange_weak_explicit(
		&target->inbox, &head, msg, memory_order_release, memory_order_relaxed));
	if (!head)
		target->ops->wake(target);
}

static void take_inbox(struct cow_loop *loop)
{
	struct cow_msg *msg = atomic_exchange_explicit(&loop->inbox, NULL, memory_order_acquire);
	struct cow_msg *fifo = NULL;
	while (msg) {
		struct cow_msg *next = msg->next;
		msg->next = fifo;
		fifo = msg;
		msg = next;
	}
	while (fifo) {
		struct cow_msg *next = fifo->next;
		defer(loop, fifo);
		fifo = next;
	}
}

static void run_ready(struct cow_loop *loop)
{
	while (loop->ready_head) {
		struct cow_msg *msg = loop->ready_head;
		loop->ready_head = msg->next;
		if (!loop->ready_head)
			loop->ready_tail = &loop->ready_head;
		msg->fn(msg);
	}
}

enum patience { WAIT, POLL };

static int run_round(struct cow_loop *loop, enum patience patience)
{
	struct cow_loop *outer = current_loop;
	current_loop = loop;
	take_inbox(loop);
	int ret = loop->ops->drain(loop, patience == WAIT && !loop->ready_head);
	take_inbox(loop);
	run_ready(loop);
	current_loop = outer;
	return ret;
}

int cow_loop_run(struct cow_loop *loop)
{
	return run_round(loop, WAIT);
}

int cow_loop_poll(struct cow_loop *loop)
{
	return run_round(loop, POLL);
}

int cow_loop_run_until(struct cow_loop *loop, const bool *flag)
{
	while (!*flag) {
		int ret = cow_loop_run(loop);
		if (ret)
			return ret;
	}
	return 0;
}
