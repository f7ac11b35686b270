/* SPDX-License-Identifier: MIT */
#include "daemon/device/device_memory.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "daemon/device/swaps.h"
#include "engine/base/assert.h"
#include "engine/base/log.h"
#include "engine/life/image_memory.h"

/* Caches that nobody asks for so long become small: twice that, at most. */
#define REST_MS (60 * 1000)

int cow_memory_init(struct cow_memory *memory)
{
	memory->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (memory->fd < 0)
		return -errno;
	memory->swaps_fd = cow_swaps_open();
	memory->keeps = false;
	return 0;
}

void cow_memory_fini(struct cow_memory *memory)
{
	close(memory->fd);
	if (memory->swaps_fd >= 0)
		close(memory->swaps_fd);
}

void cow_memory_want(void *ctx)
{
	const struct cow_memory *memory = ctx;
	uint64_t one = 1;
	ssize_t n = write(memory->fd, &one, sizeof(one));
	cow_assert(n == sizeof(one) || errno == EAGAIN);
}

static void keep_all(struct cow_memory *memory)
{
	cow_log(COW_LOG_INFO, "%s is used for swap: its memory is taken and kept", memory->disk);
	for (unsigned i = 0; i < memory->nr_queues; i++)
		cow_uqueue_keep_memory(&memory->queues[i]);
	cow_image_keep(memory->image);
	memory->keeps = true;
}

/* ---- the thread ---- */

static void *thread_main(void *arg)
{
	struct cow_memory *memory = arg;
	uint64_t count;
	bool small = true;
	cow_sandbox_enter_thread(memory->sandbox);
	sem_post(&memory->confined);
	while (!atomic_load(&memory->quit)) {
		/* urgent: the list of swap areas has changed */
		struct pollfd p[] = { { .fd = memory->fd, .events = POLLIN },
				      { .fd = memory->swaps_fd, .events = POLLPRI } };
		int n = poll(p, 2, small ? -1 : REST_MS);
		if (p[1].revents && !memory->keeps &&
		    cow_swaps_have(memory->swaps_fd, memory->disk))
			keep_all(memory);
		if (read(memory->fd, &count, sizeof(count)) == sizeof(count)) {
			cow_image_grow(memory->image);
			small = false;
		} else if (!n) {
			small = cow_image_rest(memory->image);
		}
	}
	return NULL;
}

int cow_memory_start(struct cow_memory *memory, const struct cow_sandbox *sandbox)
{
	memory->sandbox = sandbox;
	atomic_store(&memory->quit, false);
	if (sem_init(&memory->confined, 0, 0))
		return -errno;
	int ret = -pthread_create(&memory->thread, NULL, thread_main, memory);
	if (ret) {
		sem_destroy(&memory->confined);
		return ret;
	}
	pthread_setname_np(memory->thread, "cowblk-memory");
	/* Behind the filter of cow_sandbox_enter() it could give nothing up any more. */
	while (sem_wait(&memory->confined))
		;
	return 0;
}

void cow_memory_stop(struct cow_memory *memory)
{
	atomic_store(&memory->quit, true);
	cow_memory_want(memory);
	pthread_join(memory->thread, NULL);
	sem_destroy(&memory->confined);
}
