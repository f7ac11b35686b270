/* SPDX-License-Identifier: MIT */
/*
 * kill_at [-s] N FROM TO COMMAND...: runs the command, and kills it with SIGKILL before its Nth system
 * call after a file named FROM has appeared (anew, if there is one at the beginning): the places
 * where a daemon can die, one by one, without a word in the daemon. Of its system calls those count
 * that something outside can see: files, sockets, io_uring, ioctl, threads.
 *
 * Exit status 0: killed; prints what it was about to do. 3: a file named TO appeared first; the
 * command is killed all the same. Others: the command's own.
 *
 * -s: there it is stopped with SIGSTOP, while it has one thread; prints its process id, and waits for
 * it to end: its own exit status.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define STATUS_TOO_LATE 3

static const struct {
	long nr;
	const char *name;
} seen[] = {
	{ SYS_openat, "openat" },
	{ SYS_write, "write" },
	{ SYS_ioctl, "ioctl" },
	{ SYS_mkdir, "mkdir" },
	{ SYS_rename, "rename" },
	{ SYS_unlink, "unlink" },
	{ SYS_socket, "socket" },
	{ SYS_bind, "bind" },
	{ SYS_listen, "listen" },
	{ SYS_clone, "clone" },
	{ SYS_clone3, "clone3" },
	{ SYS_eventfd2, "eventfd2" },
	{ SYS_io_uring_setup, "io_uring_setup" },
	{ SYS_io_uring_enter, "io_uring_enter" },
	{ SYS_io_uring_register, "io_uring_register" },
	{ SYS_close, "close" }, /* of the lock, behind the record */
};

static const char *name_of(long nr)
{
	for (size_t i = 0; i < sizeof(seen) / sizeof(seen[0]); i++)
		if (seen[i].nr == nr)
			return seen[i].name;
	return NULL;
}

static pid_t start(char **argv)
{
	pid_t child = fork();
	if (child)
		return child;
	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
	execv(argv[0], argv);
	perror(argv[0]);
	_exit(127);
}

/* The process is over when its last thread has been waited for. */
static void end(pid_t child)
{
	kill(child, SIGKILL);
	while (waitpid(-1, NULL, __WALL) > 0 || errno != ECHILD)
		;
}

struct search {
	const char *from, *to;
	ino_t old; /* of what is called FROM at the beginning; 0: nothing */
	long left; /* system calls until the kill */
	bool counting, stops;
};

static int exit_status(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int stop_and_wait(pid_t child)
{
	int status;
	kill(child, SIGSTOP); /* when the system call is over */
	ptrace(PTRACE_DETACH, child, NULL, NULL);
	printf("%d\n", (int)child);
	fflush(stdout);
	return waitpid(child, &status, 0) == child ? exit_status(status) : 2;
}

static ino_t inode_of(const char *path)
{
	struct stat st;
	return stat(path, &st) ? 0 : st.st_ino;
}

static bool has_appeared(const struct search *s)
{
	ino_t now = inode_of(s->from);
	return now && now != s->old;
}

/* At a stop before or behind a system call of thread tid: an exit status, or -1 to go on. */
static int look(struct search *s, pid_t child, pid_t tid)
{
	struct __ptrace_syscall_info info;
	if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof(info), &info) <= 0 ||
	    info.op != PTRACE_SYSCALL_INFO_ENTRY)
		return -1;
	s->counting = s->counting || has_appeared(s);
	const char *name = s->counting ? name_of((long)info.entry.nr) : NULL;
	if (!name)
		return -1;
	bool late = !access(s->to, F_OK);
	if (!late && --s->left)
		return -1;
	if (s->stops && !late)
		return stop_and_wait(child);
	end(child);
	puts(late ? "too late" : name);
	return late ? STATUS_TOO_LATE : 0;
}

int main(int argc, char **argv)
{
	bool stops = argc > 1 && !strcmp(argv[1], "-s");
	argc -= stops;
	argv += stops;
	if (argc < 5)
		return 2;
	struct search s = { .stops = stops, .left = atol(argv[1]), .from = argv[2], .to = argv[3] };
	s.old = inode_of(s.from);
	pid_t child = start(argv + 4), tid;
	int status, verdict;
	if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status))
		return 2;
	ptrace(PTRACE_SETOPTIONS, child, NULL,
	       PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL);
	ptrace(PTRACE_SYSCALL, child, NULL, NULL);
	while ((tid = waitpid(-1, &status, __WALL)) > 0) {
		if (tid == child && (WIFEXITED(status) || WIFSIGNALED(status)))
			return exit_status(status);
		if (!WIFSTOPPED(status))
			continue;
		int sig = WSTOPSIG(status);
		if (sig == (SIGTRAP | 0x80) && (verdict = look(&s, child, tid)) >= 0)
			return verdict;
		if (sig == (SIGTRAP | 0x80) || sig == SIGTRAP || sig == SIGSTOP)
			sig = 0;
		ptrace(PTRACE_SYSCALL, tid, NULL, (void *)(long)sig);
	}
	return 2;
}
