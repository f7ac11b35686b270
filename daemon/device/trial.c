/* SPDX-License-Identifier: MIT */
#include "daemon/device/trial.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/host/system.h"

/* Shared with the process that tries. */
struct trial {
	int error;
	char what[200];
};

/* Its length stays what it is. Only a writer's host may refuse that for another reason than the user. */
static int try_file(const struct cow_file *file)
{
	struct stat st;
	int fd = cow_host_fd(file);
	if (fstat(fd, &st))
		return errno;
	return file->writable && S_ISREG(st.st_mode) && ftruncate(fd, st.st_size) ? errno : 0;
}

static void try_one(void *ctx, struct cow_file *file)
{
	struct trial *trial = ctx;
	int error = trial->error ? 0 : try_file(file);
	if (error != EACCES && error != EPERM)
		return;
	trial->error = error;
	snprintf(trial->what, sizeof(trial->what), "%s", file->path);
}

static void try_all(const struct cow_sandbox *sandbox, const struct cow_image *image,
		    struct trial *trial)
{
	pid_t pid = fork();
	if (!pid) {
		if (!cow_sandbox_become_user(sandbox))
			cow_image_each_file(image, try_one, trial);
		_exit(0);
	}
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

void cow_trial_run(struct cow_sandbox *sandbox, const struct cow_image *image)
{
	if (!sandbox->has_user)
		return;
	struct trial *trial = mmap(NULL, sizeof(*trial), PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (trial == MAP_FAILED)
		return;
	try_all(sandbox, image, trial);
	if (trial->error) {
		sandbox->has_user = false;
		snprintf(sandbox->kept, sizeof(sandbox->kept),
			 "the host lets only who opened %s use it: %s", trial->what,
			 strerror(trial->error));
	}
	munmap(trial, sizeof(*trial));
}
