/* SPDX-License-Identifier: MIT */
/*
 * The thread that serves one queue. Everything it does starts in a completion of its loop: a fetch
 * command that came back with a request, or host I/O of the engine. The answer to a request goes
 * out as COMMIT_AND_FETCH with the same round's system call, together with whatever else was
 * queued.
 *
 * A drained queue goes on running its loop until it is told to stop: other queues may still need
 * the engine's messages here.
 */
#include "daemon/device/uqueue.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "daemon/device/request.h"
#include "engine/base/assert.h"
#include "engine/base/container.h"
#include "engine/base/log.h"
#include "engine/base/pages.h"
#include "engine/loop/loop_uring.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"

/*
 * Of each buffer; what most requests use, always kept. The rest is locked when it is touched, and
 * given back when it was not for a while.
 */
#define PREFAULT_BYTES (16u << 10)
#define TICK_NS (5ull * 1000 * 1000 * 1000)
/* Giving back costs the queue's thread time: so many buffers at once, then requests, and so on. */
#define REST_TAGS 32u
#define REST_AGAIN_NS (20ull * 1000 * 1000)
/* Engine I/Os at once for each request: a hint for the ring's size. */
#define IOS_PER_TAG 2u

/* ---- commands ---- */

static void send_command(struct cow_tag *tag, uint32_t op, int32_t result)
{
	struct cow_uqueue *queue = tag->queue;
	struct io_uring_sqe *sqe = cow_uring_sqe(queue->loop, &tag->completion);
	uint64_t user_data = sqe->user_data;
	memset(sqe, 0, sizeof(*sqe));
	sqe->user_data = user_data;
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = queue->config.char_fd;
	sqe->cmd_op = op;
	if (queue->config.transfer->registers)
		sqe->addr = ub_auto_buf_reg_addr(tag->idx, UB_AUTO_BUF_REG_FALLBACK);
	struct ub_io_cmd cmd = {
		.q_id = (uint16_t)queue->config.idx,
		.tag = tag->idx,
		.result = result,
		.addr = queue->config.transfer->fetch_addr(tag),
	};
	memcpy(sqe->cmd, &cmd, sizeof(cmd));
	tag->place = cow_uring_place(queue->loop);
}

static void commit(struct cow_tag *tag, int result)
{
	if (result && tag->data_bytes && !tag->is_read)
		atomic_store(&tag->queue->lost_writes, true);
	send_command(tag, UB_IO_COMMIT_AND_FETCH_REQ, cow_request_answer(result, tag->data_bytes));
}

static void ring_bell(int event_fd)
{
	uint64_t one = 1;
	ssize_t n = write(event_fd, &one, sizeof(one));
	cow_assert(n == sizeof(one) || errno == EAGAIN);
}

static void set_drained(struct cow_uqueue *queue)
{
	queue->drained = true;
	ring_bell(queue->config.event_fd);
}

/* Of the ages of requests: cheap, and good to a few milliseconds. */
static uint64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/*
 * One look at the clock for all requests of a round. No two rounds have the same time: a tag's next
 * request begins in a later round than its last one, and cow_uqueue_requests() tells them apart.
 */
static void note_begin(struct cow_tag *tag)
{
	struct cow_uqueue *queue = tag->queue;
	if (!queue->round_ns)
		queue->round_ns = now_ns() + queue->nr_rounds++ % 65536;
	atomic_store_explicit(&tag->begun_ns, queue->round_ns, memory_order_relaxed);
}

static void engine_done(void *ctx, int result)
{
	struct cow_tag *tag = ctx;
	struct cow_uqueue *queue = tag->queue;
	if (!result && tag->is_read && !tag->registered)
		result = queue->config.transfer->read_end(tag, tag->data_bytes);
	atomic_store_explicit(&tag->begun_ns, 0, memory_order_relaxed);
	commit(tag, result);
	queue->nr_busy--;
	if (queue->abandoned && !queue->nr_busy)
		set_drained(queue);
}

/* ---- memory that a burst has taken ---- */

static void tick_done(struct cow_io *io)
{
	struct cow_uqueue *queue = cow_container_of(io, struct cow_uqueue, tick);
	queue->ticking = false;
	queue->rest_due = true;
}

static void start_tick(struct cow_uqueue *queue, uint64_t ns)
{
	if (queue->ticking || queue->config.keep_memory)
		return;
	queue->ticking = true;
	cow_io_prep(&queue->tick, COW_IO_TIMER, NULL, ns, 0, tick_done);
	cow_loop_submit(queue->loop, &queue->tick);
}

static void note_use(struct cow_tag *tag)
{
	if (tag->data_bytes > PREFAULT_BYTES)
		tag->grown = tag->used = true;
	start_tick(tag->queue, TICK_NS);
}

/*
 * A buffer belongs to the kernel from the moment it takes the command that names it, and it fills it
 * before we see the request: but only while we are in the loop, and then a completion tells.
 * One whose command it has not taken may hold the data of a read.
 */
static bool holds_nothing(const struct cow_tag *tag)
{
	return !tag->begun_ns && cow_uring_is_submitted(tag->queue->loop, tag->place);
}

/* True: its memory was given back. */
static bool rest_tag(struct cow_tag *tag)
{
	bool used = tag->used;
	tag->used = false;
	if (!tag->grown || used || !holds_nothing(tag))
		return false;
	cow_pages_give_back(tag->guest.base + PREFAULT_BYTES,
			    tag->queue->config.buffer_bytes - PREFAULT_BYTES);
	tag->grown = false;
	return true;
}

static void rest_some(struct cow_uqueue *queue)
{
	unsigned given = 0;
	while (queue->rested < queue->config.depth && given < REST_TAGS) {
		struct cow_tag *tag = &queue->tags[queue->rested++];
		given += rest_tag(tag);
		queue->rest_left |= tag->grown;
	}
	if (queue->rested < queue->config.depth) {
		start_tick(queue, REST_AGAIN_NS);
		return;
	}
	cow_queue_rest(queue->engine);
	if (queue->rest_left)
		start_tick(queue, TICK_NS);
	queue->rested = 0;
	queue->rest_left = false;
}

static void rest(struct cow_uqueue *queue)
{
	if (!cow_uring_is_quiet(queue->loop))
		return; /* after the next round */
	queue->rest_due = false;
	cow_mutex_lock(&queue->lock);
	if (!queue->keeps)
		rest_some(queue);
	cow_mutex_unlock(&queue->lock);
}

/* ---- requests ---- */

/* The kernel may have had no room for it. */
static bool is_registered(const struct cow_tag *tag)
{
	const struct cow_uqueue *queue = tag->queue;
	return queue->config.transfer->registers &&
	       !(queue->descs[tag->idx].op_flags & UB_IO_F_NEED_REG_BUF);
}

static void begin_request(struct cow_tag *tag)
{
	struct cow_uqueue *queue = tag->queue;
	struct cow_request request;
	tag->data_bytes = 0;
	tag->is_read = false;
	tag->registered = is_registered(tag);
	int ret = cow_request_decode(&queue->descs[tag->idx], queue->config.buffer_bytes, &request);
	if (!ret && cow_request_has_data(&request)) {
		tag->data_bytes = (uint32_t)request.length;
		tag->is_read = request.kind == COW_OP_READ;
		if (!tag->is_read && !tag->registered)
			ret = queue->config.transfer->write_begin(tag, tag->data_bytes);
	}
	if (ret) {
		commit(tag, ret);
		return;
	}
	queue->nr_busy++;
	note_begin(tag);
	note_use(tag);
	if (tag->registered && cow_request_has_data(&request))
		cow_queue_set_guest(queue->engine, tag->idx, &tag->guest);
	cow_queue_submit(queue->engine, tag->idx, request.kind, request.flags, request.offset,
			 request.length, tag->guest.base, engine_done, tag);
}

static void note_error(struct cow_uqueue *queue, int error)
{
	cow_mutex_lock(&queue->lock);
	if (!queue->error)
		queue->error = error;
	cow_mutex_unlock(&queue->lock);
}

static void bury(struct cow_tag *tag, int res)
{
	struct cow_uqueue *queue = tag->queue;
	if (res != UB_IO_RES_ABORT) {
		if (!queue->quit)
			cow_log(COW_LOG_ERR, "queue %u: tag %u: the kernel refused a command: %s",
				queue->config.idx, tag->idx, strerror(-res));
		note_error(queue, res);
	}
	if (!--queue->nr_alive)
		set_drained(queue);
}

static void fetched(struct cow_completion *completion, int res, unsigned flags)
{
	struct cow_tag *tag = cow_container_of(completion, struct cow_tag, completion);
	if (res == UB_IO_RES_OK && tag->queue->abandoned)
		return; /* the kernel's to fail */
	if (res == UB_IO_RES_OK)
		begin_request(tag);
	else
		bury(tag, res < 0 ? res : -EIO);
}

/* ---- the thread ---- */

static void report(struct cow_uqueue *queue, int error)
{
	cow_mutex_lock(&queue->lock);
	if (!queue->error)
		queue->error = error;
	queue->reported = true;
	pthread_cond_signal(&queue->changed);
	cow_mutex_unlock(&queue->lock);
}

/* Refused fetches complete at once; the others stay with the kernel. */
static int fetch_all(struct cow_uqueue *queue)
{
	queue->nr_alive = queue->config.depth;
	for (unsigned i = 0; i < queue->config.depth; i++)
		send_command(&queue->tags[i], UB_IO_FETCH_REQ, 0);
	return cow_loop_poll(queue->loop);
}

static void apply_affinity(const struct cow_uqueue *queue)
{
	if (!queue->config.pinned)
		return;
	int ret = pthread_setaffinity_np(pthread_self(), sizeof(queue->config.cpus),
					 &queue->config.cpus);
	if (ret)
		cow_log(COW_LOG_WARNING, "queue %u: cannot set the thread's CPUs: %s",
			queue->config.idx, strerror(ret));
}

static void run_loop(struct cow_uqueue *queue)
{
	while (!queue->quit) {
		queue->round_ns = 0;
		int ret = cow_loop_run(queue->loop);
		if (ret)
			cow_log(COW_LOG_ERR, "queue %u: io_uring: %s", queue->config.idx,
				strerror(-ret));
		cow_assert(ret == 0);
		if (queue->rest_due)
			rest(queue);
	}
}

static void *thread_main(void *arg)
{
	struct cow_uqueue *queue = arg;
	cow_loop_enter(queue->loop);
	apply_affinity(queue);
	int ret = cow_queue_new(queue->config.image, queue->loop, queue->config.depth,
				&queue->engine);
	if (ret) {
		report(queue, ret);
		cow_loop_enter(NULL);
		return NULL;
	}
	ret = fetch_all(queue);
	/* Not before: with the last fetch the kernel takes down whether a privileged thread serves. */
	cow_sandbox_enter_thread(queue->config.sandbox);
	report(queue, ret);
	run_loop(queue);
	cow_queue_free(queue->engine);
	cow_loop_enter(NULL);
	return NULL;
}

static void quit_posted(struct cow_msg *msg)
{
	struct cow_uqueue *queue = cow_container_of(msg, struct cow_uqueue, quit_msg);
	queue->quit = true;
}

static void abandon_posted(struct cow_msg *msg)
{
	struct cow_uqueue *queue = cow_container_of(msg, struct cow_uqueue, abandon_msg);
	queue->abandoned = true;
	if (!queue->nr_busy)
		set_drained(queue);
}

/* ---- what the requests are at ---- */

static uint64_t age_ns(uint64_t begun_ns)
{
	uint64_t now = now_ns();
	return begun_ns && now > begun_ns ? now - begun_ns : 0;
}

static void asked(struct cow_msg *msg)
{
	struct cow_uqueue *queue = cow_container_of(msg, struct cow_uqueue, answer.msg);
	struct cow_uqueue_answer *answer = &queue->answer;
	for (unsigned i = 0; i < queue->config.depth; i++) {
		struct cow_uqueue_request *out = &answer->requests[answer->nr];
		if (!cow_inspect(queue->engine, i, &out->engine))
			continue;
		out->queue = queue->config.idx;
		out->age_ns = age_ns(queue->tags[i].begun_ns);
		answer->nr++;
	}
	atomic_store_explicit(&answer->asked, false, memory_order_release);
	ring_bell(queue->config.answer_fd);
}

void cow_uqueue_ask(struct cow_uqueue *queue)
{
	struct cow_uqueue_answer *answer = &queue->answer;
	if (atomic_load_explicit(&answer->asked, memory_order_acquire))
		return;
	answer->nr = 0;
	atomic_store_explicit(&answer->asked, true, memory_order_relaxed);
	cow_loop_post(queue->loop, &answer->msg);
}

bool cow_uqueue_has_answered(const struct cow_uqueue *queue)
{
	return !atomic_load_explicit(&queue->answer.asked, memory_order_acquire);
}

/*
 * The kernel leaves a request's description alone from when it gives us the request until it has our
 * answer: what was read is of this request if the tag still has the same one.
 */
static bool peek(const struct cow_uqueue *queue, const struct cow_tag *tag,
		 struct cow_uqueue_request *out)
{
	struct cow_request request;
	uint64_t begun = atomic_load_explicit(&tag->begun_ns, memory_order_acquire);
	if (!begun)
		return false;
	struct ub_io_desc desc = *(const volatile struct ub_io_desc *)&queue->descs[tag->idx];
	atomic_thread_fence(memory_order_acquire);
	if (atomic_load_explicit(&tag->begun_ns, memory_order_relaxed) != begun ||
	    cow_request_decode(&desc, queue->config.buffer_bytes, &request))
		return false;
	*out = (struct cow_uqueue_request){
		.queue = queue->config.idx,
		.peeked = true,
		.age_ns = age_ns(begun),
		.engine = {
			.idx = tag->idx,
			.kind = request.kind,
			.flags = request.flags,
			.off = request.offset,
			.end = request.offset + request.length,
		},
	};
	return true;
}

unsigned cow_uqueue_requests(const struct cow_uqueue *queue, struct cow_uqueue_request *out,
			     unsigned max)
{
	const struct cow_uqueue_answer *answer = &queue->answer;
	unsigned nr = 0;
	if (!cow_uqueue_has_answered(queue)) {
		for (unsigned i = 0; i < queue->config.depth && nr < max; i++)
			nr += peek(queue, &queue->tags[i], &out[nr]);
		return nr;
	}
	nr = answer->nr < max ? answer->nr : max;
	memcpy(out, answer->requests, nr * sizeof(*out));
	return nr;
}

/* ---- memory ---- */

/* True to the kernel: a multiple of the page size, whatever that is. */
static size_t page_align(size_t bytes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	return (bytes + page - 1) / page * page;
}

static int map_descs(struct cow_uqueue *queue)
{
	off_t off =
		(off_t)(UB_CMD_BUF_OFF + queue->config.idx * page_align(UB_MAX_QUEUE_DEPTH *
									sizeof(struct ub_io_desc)));
	queue->descs_bytes = page_align(queue->config.depth * sizeof(struct ub_io_desc));
	void *p = mmap(NULL, queue->descs_bytes, PROT_READ, MAP_SHARED | MAP_POPULATE,
		       queue->config.char_fd, off);
	if (p == MAP_FAILED)
		return -errno;
	queue->descs = p;
	return 0;
}

static size_t buffers_bytes(const struct cow_uqueue *queue)
{
	return (size_t)queue->config.depth * queue->config.buffer_bytes;
}

static int map_buffers(struct cow_uqueue *queue)
{
	queue->buffers = cow_pages_reserve(buffers_bytes(queue));
	return queue->buffers ? 0 : -ENOMEM;
}

static int make_tags(struct cow_uqueue *queue)
{
	queue->tags = calloc(queue->config.depth, sizeof(*queue->tags));
	queue->answer.requests = calloc(queue->config.depth, sizeof(*queue->answer.requests));
	if (!queue->tags || !queue->answer.requests)
		return -ENOMEM;
	for (unsigned i = 0; i < queue->config.depth; i++) {
		struct cow_tag *tag = &queue->tags[i];
		tag->completion.fn = fetched;
		tag->queue = queue;
		tag->idx = (uint16_t)i;
		tag->guest = (struct cow_guest){
			.base = queue->buffers + (size_t)i * queue->config.buffer_bytes,
			.index = i,
			.fetch = cow_transfer_fetch,
			.store = cow_transfer_store,
		};
		cow_pages_take(tag->guest.base, queue->config.keep_memory
							? queue->config.buffer_bytes
							: PREFAULT_BYTES);
	}
	return 0;
}

/* The lock is not held while we wait for memory, since the queue's thread must not. */
void cow_uqueue_keep_memory(struct cow_uqueue *queue)
{
	cow_mutex_lock(&queue->lock);
	queue->keeps = true;
	cow_mutex_unlock(&queue->lock);
	cow_pages_take(queue->buffers, buffers_bytes(queue));
	cow_queue_take_memory(queue->engine);
}

/* ---- start and stop ---- */

static void take_config(struct cow_uqueue *queue, const struct cow_uqueue_config *config)
{
	memset(queue, 0, sizeof(*queue));
	queue->config = *config;
	queue->quit_msg.fn = quit_posted;
	queue->abandon_msg.fn = abandon_posted;
	queue->answer.msg.fn = asked;
	cow_mutex_init(&queue->lock, COW_RANK_DAEMON);
	pthread_cond_init(&queue->changed, NULL);
}

void cow_uqueue_free(struct cow_uqueue *queue)
{
	cow_loop_free(queue->loop);
	free(queue->tags);
	cow_pages_free(queue->buffers, buffers_bytes(queue));
	free(queue->answer.requests);
	if (queue->descs)
		munmap((void *)(uintptr_t)queue->descs, queue->descs_bytes);
	pthread_cond_destroy(&queue->changed);
	cow_mutex_fini(&queue->lock);
}

static int wait_report(struct cow_uqueue *queue)
{
	cow_mutex_lock(&queue->lock);
	while (!queue->reported)
		cow_mutex_wait(&queue->lock, &queue->changed);
	int error = queue->error;
	cow_mutex_unlock(&queue->lock);
	return error;
}

static int start_thread(struct cow_uqueue *queue)
{
	int ret = -pthread_create(&queue->thread, NULL, thread_main, queue);
	if (ret)
		return ret;
	char name[16];
	snprintf(name, sizeof(name), "cowblk-q%u", queue->config.idx);
	pthread_setname_np(queue->thread, name);
	ret = wait_report(queue);
	if (!ret)
		return 0;
	if (queue->engine)
		cow_loop_post(queue->loop, &queue->quit_msg);
	pthread_join(queue->thread, NULL);
	return ret;
}

int cow_uqueue_start(struct cow_uqueue *queue, const struct cow_uqueue_config *config)
{
	take_config(queue, config);
	int ret = map_descs(queue);
	if (!ret)
		ret = map_buffers(queue);
	if (!ret)
		ret = make_tags(queue);
	if (!ret)
		ret = cow_loop_uring_new_guests(
			queue->config.depth * IOS_PER_TAG,
			config->transfer->registers ? queue->config.depth : 0, &queue->loop);
	if (!ret)
		ret = start_thread(queue);
	if (ret)
		cow_uqueue_free(queue);
	return ret;
}

void cow_uqueue_stop(struct cow_uqueue *queue)
{
	cow_loop_post(queue->loop, &queue->quit_msg);
	pthread_join(queue->thread, NULL);
}

void cow_uqueue_abandon(struct cow_uqueue *queue)
{
	cow_loop_post(queue->loop, &queue->abandon_msg);
}
