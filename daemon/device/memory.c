/* SPDX-License-Identifier: MIT */
#include "daemon/device/memory.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/base/assert.h"
#include "engine/life/memory.h"

/* Caches that nobody asks for so long become small: twice that, at most. */
#define REST_MS (60 * 1000)

int cow_memory_init(struct cow_memory *memory)
{
	memory->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return memory->fd < 0 ? -errno : 0;
}

void cow_memory_fini(struct cow_memory *memory)
{
	close(memory->fd);
}

void cow_memory_want(void *ctx)
{
	const struct cow_memory *memory = ctx;
	uint64_t one = 1;
	ssize_t n = write(memory->fd, &one, sizeof(one));
	cow_assert(n == sizeof(one) || errno == EAGAIN);
}

static void *thread_main(void *arg)
{
	struct cow_memory *memory = arg;
	uint64_t count;
	bool small = true;
	cow_sandbox_enter_thread(memory->sandbox);
	while (!atomic_load(&memory->quit)) {
		struct pollfd p = { .fd = memory->fd, .events = POLLIN };
		poll(&p, 1, small ? -1 : REST_MS);
		if (read(memory->fd, &count, sizeof(count)) == sizeof(count)) {
			cow_image_grow(memory->image);
			small = false;
		} else {
			small = cow_image_rest(memory->image);
		}
	}
	return NULL;
}

int cow_memory_start(struct cow_memory *memory, struct cow_image *image,
		     const struct cow_sandbox *sandbox)
{
	memory->image = image;
	memory->sandbox = sandbox;
	atomic_store(&memory->quit, false);
	int ret = -pthread_create(&memory->thread, NULL, thread_main, memory);
	if (!ret)
		pthread_setname_np(memory->thread, "cowblk-memory");
	return ret;
}

void cow_memory_stop(struct cow_memory *memory)
{
	atomic_store(&memory->quit, true);
	cow_memory_want(memory);
	pthread_join(memory->thread, NULL);
}
