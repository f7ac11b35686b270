/* SPDX-License-Identifier: MIT */
/* exchange A B: the two names are exchanged, again and again, until it is killed. */
#include <fcntl.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	for (;;)
		if (renameat2(AT_FDCWD, argv[1], AT_FDCWD, argv[2], RENAME_EXCHANGE)) {
			perror("exchange");
			return 1;
		}
}
