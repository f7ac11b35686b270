/* SPDX-License-Identifier: MIT */
#include "engine/host/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "engine/host/holder.h"

#define PERM_BASE 100
#define UNSHARED_BASE 200
#define NR_PERMS 4
/* Together 64 ms on average, when somebody has the image for good. */
#define MAX_TRIES 6
#define FIRST_PAUSE_US 2000u

static int in_use(int fd, const char *path, const struct flock *theirs, struct cow_error *err)
{
	struct cow_holder holder;
	if (!cow_holder_find(fd, theirs, &holder))
		return cow_error_set(err, -EBUSY,
				     "%s: image is in use by a process that cannot be seen from "
				     "here: stop that first",
				     path);
	if (holder.pid == getpid())
		return cow_error_set(err, -EBUSY,
				     "%s: image is in use by this command itself: it cannot be "
				     "written and be read, or written twice",
				     path);
	return cow_error_set(err, -EBUSY, "%s: image is in use by %ld %s: stop that first", path,
			     holder.pid, holder.name);
}

/* ---- the locks ---- */

static int lock_bytes(int fd, int base, unsigned bits)
{
	for (int bit = 0; bit < NR_PERMS; bit++) {
		struct flock fl = {
			.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = base + bit, .l_len = 1
		};
		if ((bits & (1u << bit)) && fcntl(fd, F_OFD_SETLK, &fl) < 0)
			return -errno;
	}
	return 0;
}

/* 1 if another open file description has one of the bytes locked, *theirs then. */
static int others_have(int fd, int base, unsigned bits, struct flock *theirs)
{
	for (int bit = 0; bit < NR_PERMS; bit++) {
		struct flock fl = {
			.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = base + bit, .l_len = 1
		};
		if (!(bits & (1u << bit)))
			continue;
		if (fcntl(fd, F_OFD_GETLK, &fl) < 0)
			return -errno;
		if (fl.l_type != F_UNLCK) {
			*theirs = fl;
			return 1;
		}
	}
	return 0;
}

static int try_lock(int fd, unsigned uses, unsigned unshared, struct flock *theirs)
{
	int ret = lock_bytes(fd, PERM_BASE, uses);
	if (!ret)
		ret = lock_bytes(fd, UNSHARED_BASE, unshared);
	if (!ret)
		ret = others_have(fd, UNSHARED_BASE, uses, theirs);
	if (!ret)
		ret = others_have(fd, PERM_BASE, unshared, theirs);
	return ret == 1 || ret == -EACCES ? -EAGAIN : ret;
}

/* Up to twice as long with each try: a server's locks take milliseconds, local ones microseconds. */
static void pause_at_random(unsigned tries)
{
	uint32_t random = 0;
	if (getrandom(&random, sizeof(random), GRND_NONBLOCK) != sizeof(random))
		random = (uint32_t)getpid() * 2654435761u;
	uint32_t us = random % (FIRST_PAUSE_US << tries) + 1;
	nanosleep(&(struct timespec){ .tv_nsec = (long)us * 1000 }, NULL);
}

/*
 * A process that sees another's locks cannot tell whether that one holds them or is about to see
 * ours and give up. So it gives up its own and comes again, a few times: of two that come at once one
 * wins.
 */
int cow_lock_image(int fd, enum cow_lock_role role, const char *path, struct cow_error *err)
{
	unsigned uses = role == COW_LOCK_WRITER ? COW_LOCK_READ | COW_LOCK_WRITE | COW_LOCK_RESIZE
						: COW_LOCK_READ;
	unsigned unshared = COW_LOCK_WRITE | COW_LOCK_RESIZE;

	struct flock theirs = { 0 };
	int ret = try_lock(fd, uses, unshared, &theirs);
	for (unsigned tries = 0; ret == -EAGAIN && tries < MAX_TRIES; tries++) {
		cow_lock_release(fd);
		pause_at_random(tries);
		ret = try_lock(fd, uses, unshared, &theirs);
	}
	if (ret == -EAGAIN)
		return in_use(fd, path, &theirs, err);
	if (ret)
		return cow_error_set(err, ret, "%s: cannot lock the image: %s", path,
				     strerror(-ret));
	return 0;
}

void cow_lock_release(int fd)
{
	struct flock all = { .l_type = F_UNLCK, .l_whence = SEEK_SET };
	fcntl(fd, F_OFD_SETLK, &all);
}

int cow_lock_file(struct cow_file *file, struct cow_error *err)
{
	return file->host->ops->lock ? file->host->ops->lock(file, err) : 0;
}
