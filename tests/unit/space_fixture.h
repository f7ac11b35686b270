/* SPDX-License-Identifier: MIT */
/*
 * What deals with host clusters, put together by hand on a host in memory: core, metadata,
 * quarantine, allocator and a reservation. No image, no queue, no request.
 */
#ifndef COW_TEST_SPACE_FIXTURE_H
#define COW_TEST_SPACE_FIXTURE_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/buf.h"
#include "engine/core/load.h"
#include "engine/create/create.h"
#include "engine/meta/meta.h"
#include "engine/space/quarantine.h"
#include "engine/space/refill.h"
#include "engine/space/release.h"
#include "tests/memory/memory_host.h"

#define CLUSTER 4096u
#define ROUNDS 2000u /* of the loop, in which all that can happen has happened */

struct space {
	struct memory_host *m;
	struct cow_core core;
	struct cow_meta meta;
	struct cow_epoch epoch;
	struct cow_quarantine q;
	struct cow_alloc alloc;
	struct cow_reserve r;
};

/* A task that is told of one thing. */
struct waiter {
	struct cow_task task;
	struct space *s;
	bool over;
};

static inline enum cow_next waiter_ends(struct cow_task *task)
{
	return COW_END;
}

static const struct cow_step step_waiter_ends = { "test: over", waiter_ends };

static inline void waiter_over(struct cow_task *task)
{
	((struct waiter *)task)->over = true;
}

static inline void space_run(struct space *s)
{
	for (unsigned i = 0; i < ROUNDS; i++)
		COW_IGNORE(cow_loop_poll(&s->m->loop));
}

/* Runs step, which parks the task or ends, until nothing happens any more. */
static inline void space_wait(struct space *s, struct waiter *w, const struct cow_step *step)
{
	*w = (struct waiter){ .s = s };
	cow_task_init(&w->task, &step_waiter_ends, waiter_over);
	cow_task_start(&w->task, &s->m->loop, step);
	space_run(s);
}

static inline enum cow_next join_pass(struct cow_task *task)
{
	task->step = &step_waiter_ends;
	cow_commit_join(&((struct waiter *)task)->s->core.commit, task);
	return COW_WAIT;
}

static const struct cow_step step_join_pass = { "test: a pass", join_pass };

/* A writeback pass; returns its error. */
static inline int space_write_back(struct space *s)
{
	struct waiter w;
	space_wait(s, &w, &step_join_pass);
	assert_true(w.over);
	return w.task.error;
}

static inline enum cow_next wait_for_clusters(struct cow_task *task)
{
	task->step = &step_waiter_ends;
	cow_reserve_wait(&((struct waiter *)task)->s->r, task);
	return COW_WAIT;
}

static const struct cow_step step_wait_for_clusters = { "test: clusters", wait_for_clusters };

/* One refill of s->r; returns its error. */
static inline int space_refill(struct space *s)
{
	struct waiter w;
	space_wait(s, &w, &step_wait_for_clusters);
	assert_true(w.over);
	return w.task.error;
}

static inline uint64_t space_reserved(const struct cow_reserve *r)
{
	uint64_t nr = 0;
	for (unsigned i = r->pos; i < r->nr; i++)
		nr += r->extents[i].nr;
	return nr;
}

/* nr consecutive clusters of the reservation, which has them. */
static inline uint64_t space_take(struct space *s, uint32_t nr)
{
	struct cow_hoff host;
	bool zero;
	struct cow_task unused;
	cow_task_init(&unused, &step_waiter_ends, waiter_over);
	unused.loop = &s->m->loop;
	assert_int_equal(cow_reserve_take(&s->r, nr, &host, &zero, &unused), nr);
	return host.v / CLUSTER;
}

/* As the file has it. */
static inline uint64_t space_refcount(struct space *s, uint64_t cluster)
{
	uint64_t block = cow_table_get(&s->meta.reftable, cluster / s->core.g.refs_per_block);
	return block ? cow_refcount_get(s->m->bytes + block, s->core.g.refcount_order,
					cluster % s->core.g.refs_per_block)
		     : 0;
}

static inline int space_setup_limited(void **state, const struct cow_limits *limits)
{
	struct space *s = calloc(1, sizeof(*s));
	struct cow_create_options options = { .size_bytes = 8u << 20,
					      .has_size = true,
					      .cluster_bytes = CLUSTER };
	struct cow_error err = { 0 };
	uint8_t *cluster;
	s->m = memory_host_new();
	struct cow_host *host = &s->m->host;
	struct cow_loop *loop = &s->m->loop;
	cow_loop_enter(loop);
	assert_int_equal(cow_create(host, loop, "/disk", &options, &err), 0);
	cow_core_init(&s->core);
	s->core.host = host;
	s->core.path = strdup("/disk");
	s->core.writable = true;
	cow_limits_init(&s->core.limits, limits);
	assert_int_equal(host->ops->open(host, "/disk", COW_OPEN_WRITE, &s->core.file, &err), 0);
	s->core.data = s->core.file;
	assert_int_equal(cow_load_header(loop, s->core.file, &s->core.header, &cluster, &err), 0);
	memcpy(s->core.header_sector, cluster, 512);
	free(cluster);
	cow_geometry_init(&s->core.g, &s->core.header);
	s->core.zeros = cow_buf_alloc(CLUSTER);
	cow_epoch_init(&s->epoch);
	assert_int_equal(cow_meta_open(&s->meta, &s->core, loop, 1u << 20, &err), 0);
	assert_int_equal(cow_alloc_init(&s->alloc, &s->meta, &s->q, 0), 0);
	assert_int_equal(cow_alloc_prepare_file(&s->alloc, loop), 0);
	assert_int_equal(cow_quarantine_init(&s->q, &s->core, &s->epoch), 0);
	cow_release_init(&s->q, &s->meta, &s->alloc);
	cow_reserve_init(&s->r, &s->alloc);
	cow_refill_init(&s->r);
	*state = s;
	return 0;
}

static inline int space_setup(void **state)
{
	return space_setup_limited(state, NULL);
}

static inline int space_teardown(void **state)
{
	struct space *s = *state;
	cow_meta_fini(&s->meta);
	cow_alloc_fini(&s->alloc);
	cow_quarantine_fini(&s->q);
	free(s->core.zeros);
	free(s->core.path);
	s->m->host.ops->close(s->core.file);
	cow_loop_enter(NULL);
	memory_host_free(s->m);
	free(s);
	return 0;
}

#endif
