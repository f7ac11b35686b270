/* SPDX-License-Identifier: MIT */
/* See handover.h. In this order: the daemon's side; the supervisor's side. */
#include "daemon/server/handover.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "engine/host/system.h"

/* ---- the daemon's side ---- */

struct teller {
	int fd, ret;
};

static int send_news(int socket, const struct cow_news *news, int fd)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { { 0 } };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)news, .iov_len = sizeof(*news) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	if (fd >= 0) {
		msg.msg_control = control.buf;
		msg.msg_controllen = sizeof(control.buf);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(int));
	}
	return sendmsg(socket, &msg, MSG_NOSIGNAL) == (ssize_t)sizeof(*news) ? 0 : -errno;
}

static void tell_file(void *ctx, struct cow_file *file)
{
	struct teller *teller = ctx;
	struct cow_news news = { .kind = COW_NEWS_FILE };
	snprintf(news.path, sizeof(news.path), "%s", file->path);
	if (!teller->ret)
		teller->ret = send_news(teller->fd, &news, cow_host_fd(file));
}

int cow_handover_send(int fd, const struct cow_device *dev)
{
	struct teller teller = { .fd = fd };
	const struct cow_news live = { .kind = COW_NEWS_LIVE,
				       .id = dev->id,
				       .cookie = dev->cookie };
	cow_image_each_file(dev->image, tell_file, &teller);
	return teller.ret ? teller.ret : send_news(fd, &live, -1);
}

/* ---- the supervisor's side ---- */

bool cow_handover_receive(int socket, struct cow_news *news, int *fd)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { .iov_base = news, .iov_len = sizeof(*news) };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.buf,
			      .msg_controllen = sizeof(control.buf) };
	*fd = -1;
	if (recvmsg(socket, &msg, MSG_CMSG_CLOEXEC) != (ssize_t)sizeof(*news))
		return false;
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
		memcpy(fd, CMSG_DATA(c), sizeof(int));
	news->path[sizeof(news->path) - 1] = '\0';
	return true;
}
