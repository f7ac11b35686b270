/* SPDX-License-Identifier: MIT */
/* See child.h. */
#include "daemon/holders/child.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* What keeps others' file systems frozen must not be what the kernel kills first. */
static void spare_from_oom(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (write(fd, "-1000", 5) < 0) {
		/* not root: then it is as others */
	}
	close(fd);
}

static void become(int fd, const char *name)
{
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, NULL);
	setsid();
	prctl(PR_SET_NAME, name, 0, 0, 0);
	spare_from_oom();
	/* Whoever waits for the end of a pipe of the caller's must not wait for this. */
	if (fd > 0)
		syscall(SYS_close_range, 0, fd - 1, 0);
	syscall(SYS_close_range, fd + 1, ~0u, 0);
	if (chdir("/")) {
		/* then it keeps a file system busy, no more */
	}
}

int cow_child_start(struct cow_child *child, const char *name, void (*run)(int fd, void *ctx),
		    void *ctx)
{
	int fds[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds))
		return -errno;
	child->fd = fds[0];
	fflush(NULL);
	child->pid = fork();
	if (child->pid < 0) {
		int ret = -errno;
		close(fds[0]);
		close(fds[1]);
		return ret;
	}
	if (!child->pid) {
		become(fds[1], name);
		run(fds[1], ctx);
		_exit(0);
	}
	close(fds[1]);
	return 0;
}

int cow_child_send_within(int fd, const char *text, int pass_fd, int timeout_ms)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)(size_t)text, .iov_len = strlen(text) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	if (iov.iov_len >= COW_CHILD_TEXT_BYTES)
		iov.iov_len = COW_CHILD_TEXT_BYTES - 1;
	if (pass_fd >= 0) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control.room);
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&control.head), &pass_fd, sizeof(int));
	}
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLOUT };
		if (sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
			return 0;
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
		int n = errno == EAGAIN ? poll(&p, 1, timeout_ms) : 1;
		if (!n)
			return -ETIMEDOUT;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

int cow_child_send(int fd, const char *text, int pass_fd)
{
	return cow_child_send_within(fd, text, pass_fd, -1);
}

static void take_fd(struct msghdr *msg, int *passed_fd)
{
	struct cmsghdr *head = CMSG_FIRSTHDR(msg);
	int fd = -1;
	if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(head), sizeof(fd));
	if (passed_fd)
		*passed_fd = fd;
	else if (fd >= 0)
		close(fd);
}

int cow_child_receive(int fd, int timeout_ms, char *text, int *passed_fd)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = text, .iov_len = COW_CHILD_TEXT_BYTES - 1 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control.room) };
	struct pollfd p = { .fd = fd, .events = POLLIN };
	ssize_t n;
	do
		n = poll(&p, 1, timeout_ms);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n ? -errno : -ETIMEDOUT;
	/* The first word of a sender that has gone without reading may be that it has. */
	bool again = true;
	do
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC);
	while (n < 0 && (errno == EINTR || (errno == ECONNRESET && again && !(again = false))));
	if (n <= 0)
		return n && errno != ECONNRESET ? -errno : -ENODATA;
	text[n] = '\0';
	take_fd(&msg, passed_fd);
	return 0;
}

void cow_child_leave(struct cow_child *child)
{
	close(child->fd);
	waitpid(child->pid, NULL, WNOHANG);
}
