/* SPDX-License-Identifier: MIT */
/* See transfer.h. In this order: copy; user copy; zero copy; the choice. */
#include "daemon/device/transfer.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "daemon/device/uqueue.h"
#include "engine/base/container.h"
#include "uapi/ublk.h"

/* ---- copy ---- */

static uint64_t buffer_addr(const struct cow_tag *tag)
{
	return (uintptr_t)tag->guest.base;
}

static int nothing_to_do(struct cow_tag *tag, uint32_t bytes)
{
	return 0;
}

const struct cow_transfer_ops cow_transfer_copy = {
	.name = "copy",
	.fetch_addr = buffer_addr,
	.write_begin = nothing_to_do,
	.read_end = nothing_to_do,
};

/* ---- user copy ---- */

static uint64_t no_addr(const struct cow_tag *tag)
{
	return 0;
}

/* The kernel moves all of it or fails; a short count means a request that is being torn down. */
static int copy_result(ssize_t n, uint32_t bytes)
{
	if (n < 0)
		return -errno;
	return (uint32_t)n == bytes ? 0 : -EIO;
}

int cow_transfer_fetch(const struct cow_guest *guest, uint64_t off, uint64_t bytes)
{
	const struct cow_tag *tag = cow_container_of(guest, struct cow_tag, guest);
	const struct cow_uqueue_config *config = &tag->queue->config;
	off_t at = (off_t)(ub_user_copy_off(config->idx, tag->idx) + off);
	return copy_result(pread(config->char_fd, guest->base + off, bytes, at), (uint32_t)bytes);
}

int cow_transfer_store(const struct cow_guest *guest, uint64_t off, uint64_t bytes)
{
	const struct cow_tag *tag = cow_container_of(guest, struct cow_tag, guest);
	const struct cow_uqueue_config *config = &tag->queue->config;
	off_t at = (off_t)(ub_user_copy_off(config->idx, tag->idx) + off);
	return copy_result(pwrite(config->char_fd, guest->base + off, bytes, at), (uint32_t)bytes);
}

static int read_request(struct cow_tag *tag, uint32_t bytes)
{
	return cow_transfer_fetch(&tag->guest, 0, bytes);
}

static int write_request(struct cow_tag *tag, uint32_t bytes)
{
	return cow_transfer_store(&tag->guest, 0, bytes);
}

/*
 * We copy with pread and pwrite on the character device: two more system calls, but only for
 * requests with data.
 */
static const struct cow_transfer_ops user_copy = {
	.name = "user-copy",
	.device_flags = UB_F_USER_COPY,
	.fetch_addr = no_addr,
	.write_begin = read_request,
	.read_end = write_request,
};

/* ---- zero copy ---- */

static const struct cow_transfer_ops zero_copy = {
	.name = "zero-copy",
	.device_flags = UB_F_USER_COPY | UB_F_SUPPORT_ZERO_COPY | UB_F_AUTO_BUF_REG,
	.registers = true,
	.fetch_addr = no_addr,
	.write_begin = read_request,
	.read_end = write_request,
};

/* ---- the choice ---- */

static const struct cow_transfer_ops *const tables[] = { &cow_transfer_copy, &user_copy,
							 &zero_copy };

const struct cow_transfer_ops *cow_transfer_find(const char *name)
{
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		if (!strcmp(tables[i]->name, name))
			return tables[i];
	return NULL;
}
