/* SPDX-License-Identifier: MIT */
/*
 * write_files GROUP BLOCKS FOLDER...: in the memory cgroup GROUP, a process for each FOLDER writes FOLDER.1 to
 * FOLDER.3, each of BLOCKS blocks of 64 KiB that all hold the folder's number, and fsyncs each. Small and
 * static in what it needs, so that a tight group's limit is met by the page cache and not by the programs.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK (64 * 1024)
#define PARTS 3

static char block[BLOCK];

static int write_file(const char *name, int part, long blocks)
{
	char path[256];
	snprintf(path, sizeof(path), "%s.%d", name, part);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0)
		return -1;
	for (long i = 0; i < blocks; i++)
		if (write(fd, block, BLOCK) != BLOCK)
			return -1;
	return fsync(fd) || close(fd) ? -1 : 0;
}

static int write_all(const char *name, char fill, long blocks)
{
	memset(block, fill, BLOCK);
	for (int part = 1; part <= PARTS; part++)
		if (write_file(name, part, blocks)) {
			perror(name);
			return 1;
		}
	return 0;
}

static int join(const char *group)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/cgroup.procs", group);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int ret = fd < 0 || write(fd, "0", 1) != 1 ? -1 : 0;
	if (fd >= 0)
		close(fd);
	return ret;
}

int main(int argc, char **argv)
{
	int status, failed = 0;
	if (argc < 4)
		return 2;
	/* Its program is in memory before the limit holds: reading it again would be part of the pressure. */
	if (mlockall(MCL_CURRENT) || join(argv[1])) {
		perror(argv[1]);
		return 2;
	}
	for (int i = 3; i < argc; i++)
		if (!fork())
			_exit(write_all(argv[i], (char)(i - 2), atol(argv[2])));
	while (wait(&status) > 0)
		failed |= status;
	return failed ? 1 : 0;
}
