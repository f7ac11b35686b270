/* SPDX-License-Identifier: MIT */
#include "daemon/device/swaps.h"

#include <ctype.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* The kernel has 32 swap areas at most. */
#define SWAPS_BYTES (16u << 10)

int cow_swaps_open(void)
{
	return open("/proc/swaps", O_RDONLY | O_CLOEXEC);
}

static bool is_of_disk(const char *name, size_t len, const char *disk)
{
	size_t disk_len = strlen(disk);
	if (len < disk_len || memcmp(name, disk, disk_len))
		return false;
	return len == disk_len ||
	       (len > disk_len + 1 && name[disk_len] == 'p' && isdigit(name[disk_len + 1]));
}

/* A line each, which begins with the path. Ours may be one that our root does not have. */
bool cow_swaps_name(const char *text, const char *disk)
{
	for (const char *line = text; *line;) {
		size_t len = strcspn(line, " \t\n");
		const char *name = line + len;
		while (name > line && name[-1] != '/')
			name--;
		if (*line == '/' && is_of_disk(name, (size_t)(line + len - name), disk))
			return true;
		line += strcspn(line, "\n");
		line += *line == '\n';
	}
	return false;
}

bool cow_swaps_have(int fd, const char *disk)
{
	char text[SWAPS_BYTES + 1];
	size_t nr = 0;
	ssize_t n;
	while (nr < SWAPS_BYTES && (n = pread(fd, text + nr, SWAPS_BYTES - nr, (off_t)nr)) > 0)
		nr += (size_t)n;
	text[nr] = '\0';
	return cow_swaps_name(text, disk);
}
