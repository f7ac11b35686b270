/* SPDX-License-Identifier: MIT */
/* See job.h: a mailbox of one job, and an eventfd for the control thread's poll(). */
#include "daemon/server/job.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "engine/base/assert.h"

int cow_jobs_init(struct cow_jobs *jobs)
{
	*jobs = (struct cow_jobs){ .over_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) };
	if (jobs->over_fd < 0)
		return -errno;
	cow_mutex_init(&jobs->lock, COW_RANK_DAEMON);
	pthread_cond_init(&jobs->posted_cond, NULL);
	return 0;
}

void cow_jobs_fini(struct cow_jobs *jobs)
{
	pthread_cond_destroy(&jobs->posted_cond);
	cow_mutex_fini(&jobs->lock);
	close(jobs->over_fd);
}

void cow_jobs_post(struct cow_jobs *jobs, struct cow_job *job)
{
	cow_mutex_lock(&jobs->lock);
	cow_assert(!jobs->posted && !jobs->over);
	jobs->posted = job;
	pthread_cond_signal(&jobs->posted_cond);
	cow_mutex_unlock(&jobs->lock);
}

struct cow_job *cow_jobs_reap(struct cow_jobs *jobs)
{
	uint64_t count;
	if (read(jobs->over_fd, &count, sizeof(count)) != sizeof(count))
		return NULL;
	cow_mutex_lock(&jobs->lock);
	struct cow_job *job = jobs->over;
	jobs->over = NULL;
	cow_mutex_unlock(&jobs->lock);
	return job;
}

struct cow_job *cow_jobs_take(struct cow_jobs *jobs)
{
	cow_mutex_lock(&jobs->lock);
	while (!jobs->posted)
		cow_mutex_wait(&jobs->lock, &jobs->posted_cond);
	struct cow_job *job = jobs->posted;
	jobs->posted = NULL;
	cow_mutex_unlock(&jobs->lock);
	return job;
}

void cow_jobs_end(struct cow_jobs *jobs, struct cow_job *job)
{
	const uint64_t one = 1;
	cow_mutex_lock(&jobs->lock);
	jobs->over = job;
	cow_mutex_unlock(&jobs->lock);
	while (write(jobs->over_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}
