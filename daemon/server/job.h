/* SPDX-License-Identifier: MIT */
/*
 * Long work of the daemon: what stops, changes or closes the device. The control thread (dispatch.h)
 * posts one job at a time and goes on answering; the device thread, which opened the device, runs
 * it (server.c).
 */
#ifndef COW_JOB_H
#define COW_JOB_H

#include <json-c/json.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#include "engine/base/mutex.h"
#include "engine/base/result.h"

enum cow_job_kind {
	COW_JOB_STOP,	  /* a detach, or a signal that asks for one */
	COW_JOB_SNAPSHOT, /* serve_snapshot.h */
	COW_JOB_BITMAP,	  /* serve_bitmap.h */
	COW_JOB_RESIZE,	  /* serve_resize.h */
	COW_JOB_CLOSE,	  /* the last one: the device has stopped */
};

struct cow_job {
	/* constant while it runs */
	enum cow_job_kind kind;
	struct json_object *request; /* the client's; NULL: none */
	int signo;		     /* STOP: the signal; 0: a client asks */
	/*
	 * The client's connection, or -1. Nobody else reads from it while the job runs, so the job
	 * may talk to its client (talk.h); the control thread may put progress lines in between.
	 */
	int client_fd;

	/*
	 * The client is gone, or a signal wants the device stopped: what has not begun to change
	 * anything ends with -ECANCELED.
	 */
	atomic_bool given_up;
	/* What it is at, for those who wait: a constant text, or NULL. */
	_Atomic(const char *) doing;

	/* the job's answer, read when it is over */
	int ret;
	struct json_object *reply; /* NULL: none yet; owned */
	void *bytes;		   /* that follow the reply; owned */
	size_t nr_bytes;
};

struct cow_jobs {
	int over_fd; /* eventfd: readable when a job is over */
	struct cow_mutex_jobs lock;
	pthread_cond_t posted_cond;
	struct cow_job *posted COW_GUARDED_BY(jobs);
	struct cow_job *over COW_GUARDED_BY(jobs);
};

/* 0 or -errno. */
COW_MUST_CHECK int cow_jobs_init(struct cow_jobs *jobs);
void cow_jobs_fini(struct cow_jobs *jobs);

/* The control thread's side. The job stays the caller's; none may be posted before it is reaped. */
void cow_jobs_post(struct cow_jobs *jobs, struct cow_job *job);
/* The job that is over; NULL: none yet. */
struct cow_job *cow_jobs_reap(struct cow_jobs *jobs);

/* The device thread's side: sleeps until a job is posted; says that it is over. */
struct cow_job *cow_jobs_take(struct cow_jobs *jobs);
void cow_jobs_end(struct cow_jobs *jobs, struct cow_job *job);

#endif
