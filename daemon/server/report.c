/* SPDX-License-Identifier: MIT */
#include "daemon/server/report.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <syslog.h>
#include <unistd.h>

#include "daemon/control/record.h"
#include "engine/base/log.h"

/* The sink stays the same for life, since threads use it; what it does is told by these. */
static atomic_bool to_syslog;
static bool to_journal;

static void sink(enum cow_log_level level, const char *line)
{
	if (to_journal)
		fprintf(stderr, "<%d>%s\n", level, line);
	else
		fprintf(stderr, "cowblk: %s\n", line);
	if (to_syslog)
		syslog(level, "%s", line);
}

void cow_report_init(void)
{
	to_journal = getenv("JOURNAL_STREAM") && !isatty(STDERR_FILENO);
	cow_log_set_sink(sink, getenv("COWBLK_DEBUG") ? COW_LOG_DEBUG : COW_LOG_INFO);
}

/* Root's only, whatever the umask; one that lies there is not written to. */
static int make_log(const char *path)
{
	unlink(path);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd >= 0 && fchmod(fd, 0600)) {
		close(fd);
		return -1;
	}
	return fd;
}

static void replace(int fd, int fresh)
{
	if (fresh < 0)
		fresh = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (fresh < 0)
		return;
	dup2(fresh, fd);
	close(fresh);
}

void cow_report_leave_terminal(uint32_t id, enum cow_report_log log)
{
	static char ident[24];
	char path[64];
	snprintf(ident, sizeof(ident), "cowblk-ublkb%u", id);
	cow_record_path(id, "log", path, sizeof(path));
	openlog(ident, LOG_PID | LOG_NDELAY, LOG_DAEMON);
	/* It cannot be connected to any more once the device is confined. */
	to_syslog = !access("/dev/log", W_OK);
	to_journal = false;
	replace(STDIN_FILENO, -1);
	replace(STDOUT_FILENO, -1);
	replace(STDERR_FILENO, log == COW_REPORT_LOG_BEGINS
				       ? make_log(path)
				       : open(path, O_WRONLY | O_APPEND | O_NOFOLLOW | O_CLOEXEC));
	if (chdir("/"))
		return; /* then it keeps a file system busy, no more */
}

static int connect_systemd(const char *path)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	size_t len = strlen(path);
	if (!len || len >= sizeof(to.sun_path))
		return -1;
	memcpy(to.sun_path, path, len);
	if (path[0] == '@')
		to.sun_path[0] = '\0';
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
	if (fd < 0 || !connect(fd, (const struct sockaddr *)&to, bytes))
		return fd;
	close(fd);
	return -1;
}

/* sd_notify() looks for its socket each time: a confined daemon finds nothing any more. */
void cow_report_systemd(const char *state)
{
	static int fd = -1;
	const char *path = getenv("NOTIFY_SOCKET");
	if (fd < 0 && path)
		fd = connect_systemd(path);
	if (fd >= 0)
		send(fd, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT);
}
