/* SPDX-License-Identifier: MIT */
/* hold PID [TID]: stops a process with all its threads, or the one thread, as a debugger does, prints "held", keeps it so until killed. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%s/task", argc >= 2 ? argv[1] : "");
	pid_t only = argc == 3 ? atoi(argv[2]) : 0;
	DIR *d = opendir(path);
	struct dirent *e;
	if (!d)
		return 1;
	while ((e = readdir(d))) {
		pid_t tid = atoi(e->d_name);
		if (only && tid != only)
			continue;
		if (tid > 0 && (ptrace(PTRACE_SEIZE, tid, NULL, NULL) ||
				ptrace(PTRACE_INTERRUPT, tid, NULL, NULL)))
			return 1;
		if (tid > 0)
			waitpid(tid, NULL, __WALL);
	}
	closedir(d);
	puts("held");
	fflush(stdout);
	/* When it is killed its threads have to be let go one by one. */
	while (waitpid(-1, NULL, __WALL) > 0)
		;
	return 0;
}
