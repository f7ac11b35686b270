/* SPDX-License-Identifier: MIT */
/*
 * Bad clients of a daemon's control socket:
 *
 *   clients silent SOCKET N SECONDS   N connections that say nothing; prints "ready" when they are there
 *   clients drip SOCKET SECONDS       a byte a second; prints the seconds until the daemon hung up
 *   clients leave SOCKET LINE         sends the line and is gone
 *   clients slow SOCKET LINE SECONDS  sends the line, and reads a byte a second of the answer
 *
 * and good ones:
 *
 *   clients ask SOCKET LINE           sends the line, prints what comes until the daemon hangs up
 *   clients notify SOCKET SECONDS     makes the datagram socket, as systemd does; prints what comes
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int connect_to(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		perror(path);
		exit(1);
	}
	return fd;
}

static void say_line(int fd, const char *line)
{
	if (dprintf(fd, "%s\n", line) < 0) {
		perror("send");
		exit(1);
	}
}

static int silent(const char *path, int nr, unsigned seconds)
{
	for (int i = 0; i < nr; i++)
		connect_to(path);
	puts("ready");
	fflush(stdout);
	sleep(seconds);
	return 0;
}

static int drip(const char *path, unsigned limit)
{
	static const char line[] = "{\"cmd\":\"status\",\"filling\":\"this takes its time\"}";
	int fd = connect_to(path);
	unsigned seconds = 0;
	for (; seconds < limit; seconds++) {
		struct pollfd p = { .fd = fd };
		if (send(fd, line + seconds % strlen(line), 1, MSG_NOSIGNAL) < 0 ||
		    poll(&p, 1, 1000) > 0)
			break;
	}
	printf("%u\n", seconds);
	return 0;
}

static int slow(const char *path, const char *line, unsigned seconds)
{
	int fd = connect_to(path);
	char c;
	say_line(fd, line);
	while (seconds-- && read(fd, &c, 1) == 1)
		sleep(1);
	return 0;
}

static int ask(const char *path, const char *line)
{
	char buf[4096];
	ssize_t n;
	int fd = connect_to(path);
	say_line(fd, line);
	while ((n = read(fd, buf, sizeof(buf))) > 0)
		fwrite(buf, 1, (size_t)n, stdout);
	return n < 0;
}

static int notify(const char *path, unsigned seconds)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		perror(path);
		return 1;
	}
	alarm(seconds);
	for (;;) {
		char buf[256];
		ssize_t n = read(fd, buf, sizeof(buf));
		if (n < 0)
			return 1;
		printf("%.*s\n", (int)n, buf);
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	if (argc == 5 && !strcmp(argv[1], "silent"))
		return silent(argv[2], atoi(argv[3]), (unsigned)atoi(argv[4]));
	if (argc == 4 && !strcmp(argv[1], "drip"))
		return drip(argv[2], (unsigned)atoi(argv[3]));
	if (argc == 4 && !strcmp(argv[1], "leave")) {
		say_line(connect_to(argv[2]), argv[3]);
		return 0;
	}
	if (argc == 5 && !strcmp(argv[1], "slow"))
		return slow(argv[2], argv[3], (unsigned)atoi(argv[4]));
	if (argc == 4 && !strcmp(argv[1], "ask"))
		return ask(argv[2], argv[3]);
	if (argc == 4 && !strcmp(argv[1], "notify"))
		return notify(argv[2], (unsigned)atoi(argv[3]));
	fprintf(stderr, "usage: see %s.c\n", argv[0]);
	return 2;
}
