/* SPDX-License-Identifier: MIT */
/*
 * kill_at [-s|-g] N FROM TO COMMAND...: runs the command, and kills it with SIGKILL before its Nth system
 * call after a file named FROM has appeared (anew, if there is one at the beginning): the places
 * where a daemon can die, one by one, without a word in the daemon. Of its system calls those count
 * that something outside can see: files, sockets, io_uring, ioctl, threads.
 *
 * Exit status 0: killed; prints what it was about to do. 3: a file named TO appeared first; the
 * command is killed all the same. Others: the command's own.
 *
 * -g: it is the command's grandchild that is watched and killed (a supervised daemon; the command itself
 * and the child between go on). Waits for the command to end, and prints its exit status as well. 3: the
 * command ended before the point came; the grandchild is killed all the same.
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
	{ SYS_sendto, "sendto" },
	{ SYS_sendmsg, "sendmsg" },
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

#define OPTIONS (PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL)

/* A process that has just forked is left alone: its child is watched instead, which is returned. */
static pid_t follow_fork(pid_t from, bool last)
{
	unsigned long child = 0;
	int status;
	ptrace(PTRACE_GETEVENTMSG, from, NULL, &child);
	ptrace(PTRACE_DETACH, from, NULL, NULL);
	if (waitpid((pid_t)child, &status, __WALL) != (pid_t)child || !WIFSTOPPED(status))
		return -1;
	ptrace(PTRACE_SETOPTIONS, (pid_t)child, NULL, OPTIONS | (last ? 0 : PTRACE_O_TRACEFORK));
	return (pid_t)child;
}

/* Runs to its next fork, or ends: -1. */
static pid_t run_to_fork(pid_t pid, bool last)
{
	int status;
	for (int sig = 0;;) {
		ptrace(PTRACE_CONT, pid, NULL, (void *)(long)sig);
		if (waitpid(pid, &status, __WALL) != pid || !WIFSTOPPED(status))
			return -1;
		if (status >> 8 == (SIGTRAP | PTRACE_EVENT_FORK << 8))
			return follow_fork(pid, last);
		sig = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
	}
}

/* The command's grandchild, stopped where it begins. */
static pid_t find_grandchild(pid_t command)
{
	ptrace(PTRACE_SETOPTIONS, command, NULL, OPTIONS | PTRACE_O_TRACEFORK);
	pid_t child = run_to_fork(command, false);
	return child > 0 ? run_to_fork(child, true) : -1;
}

struct search {
	const char *from, *to;
	ino_t old; /* of what is called FROM at the beginning; 0: nothing */
	long left; /* system calls until the kill */
	bool counting, stops;
	pid_t command; /* with -g; else 0 */
};

static int exit_status(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* What the command says of a daemon that was killed under it. */
static int wait_command(const struct search *s, const char *name)
{
	int status, its = -1;
	pid_t pid;
	/* The parent of what was watched hears of its end only when we have. */
	while ((pid = waitpid(-1, &status, __WALL)) > 0)
		if (pid == s->command)
			its = exit_status(status);
	printf("%s %d\n", name, its);
	return its < 0 ? 2 : 0;
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
	if (s->command) {
		kill(child, SIGKILL);
		return wait_command(s, name);
	}
	end(child);
	puts(late ? "too late" : name);
	return late ? STATUS_TOO_LATE : 0;
}

/* The command has ended before the point came. */
static int grandchild_survives(pid_t grandchild, int status)
{
	kill(grandchild, SIGKILL);
	printf("too late %d\n", exit_status(status));
	return STATUS_TOO_LATE;
}

int main(int argc, char **argv)
{
	bool stops = argc > 1 && !strcmp(argv[1], "-s");
	bool grandchild = argc > 1 && !strcmp(argv[1], "-g");
	argc -= stops || grandchild;
	argv += stops || grandchild;
	if (argc < 5)
		return 2;
	struct search s = { .stops = stops, .left = atol(argv[1]), .from = argv[2], .to = argv[3] };
	s.old = inode_of(s.from);
	pid_t child = start(argv + 4), tid;
	int status, verdict;
	if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status))
		return 2;
	ptrace(PTRACE_SETOPTIONS, child, NULL, OPTIONS);
	if (grandchild) {
		s.command = child;
		child = find_grandchild(child);
	}
	ptrace(PTRACE_SYSCALL, child, NULL, NULL);
	while ((tid = waitpid(-1, &status, __WALL)) > 0) {
		if (tid == s.command)
			return grandchild_survives(child, status);
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
