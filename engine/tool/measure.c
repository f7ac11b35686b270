/* SPDX-License-Identifier: MIT */
/*
 * See measure.h. In this order: the clusters that a disk's content takes; qcow2's arithmetic.
 */
#include "engine/tool/measure.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/math.h"
#include "engine/base/mutex.h"
#include "engine/create/create_features.h"
#include "engine/create/create_layout.h"
#include "engine/crypt/luks_format.h"
#include "engine/tool/lane.h"

#define UNIT_BYTES (256ull << 20)

/* ---- the clusters that a disk's content takes ---- */

struct job {
	struct cow_measure *m;
	uint32_t cluster_bytes;
	struct cow_mutex_findings lock;
	uint64_t data_bytes COW_GUARDED_BY(findings); /* whole clusters */
};

static int enter(struct cow_walker *w)
{
	struct job *job = w->walk->ctx;
	struct cow_lane *lane = w->state = calloc(1, sizeof(*lane));
	return lane ? cow_lane_open(lane, job->m->disk, w->loop) : -ENOMEM;
}

static void leave(struct cow_walker *w)
{
	if (w->state)
		cow_lane_close(w->state);
	free(w->state);
}

/* Pieces are whole clusters: none is counted twice. */
static int visit(struct cow_walker *w, uint64_t off, uint64_t bytes)
{
	struct job *job = w->walk->ctx;
	uint64_t end = off + bytes, counted = 0, taken_off, taken;
	struct cow_extent e = { 0 };
	int ret = 0;
	for (; off < end && !ret; off += e.bytes) {
		ret = cow_lane_extent(w->state, off, w->walk->end - off, &e);
		if (ret || e.zero || !e.data) {
			if (!ret && off + e.bytes > end)
				cow_walk_take(w, off + e.bytes, &taken_off, &taken);
			continue;
		}
		e.bytes = cow_min(e.bytes, end - off);
		uint64_t from = cow_round_down(off, job->cluster_bytes);
		uint64_t to = cow_round_up(off + e.bytes, job->cluster_bytes);
		counted += to - from;
		e.bytes = to - off;
	}
	cow_mutex_lock(&job->lock);
	job->data_bytes += counted;
	cow_mutex_unlock(&job->lock);
	return ret;
}

static int count_data(struct cow_measure *m, uint32_t cluster_bytes, uint64_t *bytes)
{
	struct job job = { .m = m, .cluster_bytes = cluster_bytes };
	struct cow_walk walk = {
		.end = cow_disk_bytes(m->disk),
		.unit = UNIT_BYTES,
		.nr_threads = 4,
		.cancel = m->cancel,
		.progress = m->progress,
		.ctx = &job,
		.enter = enter,
		.visit = visit,
		.leave = leave,
	};
	cow_mutex_init(&job.lock, COW_RANK_WALK);
	int ret = cow_walk_run(&walk);
	cow_mutex_fini(&job.lock);
	*bytes = job.data_bytes;
	return ret;
}

/* ---- qcow2's arithmetic ---- */

static uint64_t div_up(uint64_t n, uint64_t unit)
{
	return n / unit + (n % unit != 0);
}

/* Refcount table and blocks for so many clusters and themselves, in clusters. */
static uint64_t refcount_clusters(const struct cow_header *h, uint64_t clusters)
{
	uint64_t refs_per_block = (uint64_t)cow_cluster_bytes(h) * 8 >> h->refcount_order;
	uint64_t table = 0, blocks = 0, n = 0, last;
	do {
		last = n;
		blocks = div_up(clusters + table + blocks, refs_per_block);
		table = div_up(blocks * 8, cow_cluster_bytes(h));
		n = clusters + table + blocks;
	} while (n != last);
	return table + blocks;
}

/* All of an image that maps disk_bytes, a multiple of the cluster, in full. */
static uint64_t full_bytes(const struct cow_header *h, uint64_t disk_bytes)
{
	uint64_t cluster = cow_cluster_bytes(h);
	uint64_t l2_tables = div_up(disk_bytes / cluster, cow_l2_entries(h));
	uint64_t l1_clusters = div_up(l2_tables * 8, cluster);
	uint64_t clusters = 1 + l2_tables + l1_clusters + disk_bytes / cluster;
	return (clusters + refcount_clusters(h, clusters)) * cluster;
}

static int check_size(const struct cow_header *h, uint64_t bytes, struct cow_error *err)
{
	uint64_t l2_bytes = (uint64_t)cow_cluster_bytes(h) * cow_l2_entries(h);
	if (bytes <= INT64_MAX && div_up(bytes, l2_bytes) <= QCOW2_MAX_L1_BYTES / 8)
		return 0;
	return cow_error_set(err, -EFBIG,
			     "size %" PRIu64 ": clusters of %" PRIu32
			     " bytes do not reach that far: use larger clusters",
			     bytes, cow_cluster_bytes(h));
}

static int measure_qcow2(struct cow_measure *m, struct cow_error *err)
{
	struct cow_create_options o = *m->create;
	struct cow_header h = { 0 };
	o.encrypt = NULL; /* no passphrase is asked for; the header's length is added below */
	int ret = cow_create_load_options(&h, &o, err);
	if (!ret && m->create->encrypt)
		ret = cow_luks_format_check(m->create->encrypt, err);
	uint64_t bytes = m->disk ? cow_disk_bytes(m->disk) : o.size_bytes, stored = 0;
	if (!ret)
		ret = check_size(&h, bytes, err);
	if (ret)
		return ret;
	uint64_t cluster = cow_cluster_bytes(&h), disk = cow_round_up(bytes, cluster);
	enum cow_preallocation preallocation = o.preallocation;
	if (preallocation == COW_PREALLOC_FULL || preallocation == COW_PREALLOC_FALLOC ||
	    (m->disk && o.backing_file))
		stored = disk; /* how much the backing file saves is not known */
	else if (m->disk)
		ret = count_data(m, (uint32_t)cluster, &stored);
	if (ret)
		return cow_error_set(err, ret, "%s: cannot be read: %s", cow_disk_path(m->disk),
				     strerror(-ret));
	m->fully_allocated = full_bytes(&h, disk);
	if (m->create->encrypt)
		m->fully_allocated +=
			cow_round_up(cow_luks_format_bytes(m->create->encrypt), cluster);
	m->required = m->fully_allocated - disk + stored;
	return 0;
}

int cow_measure(struct cow_measure *m, struct cow_error *err)
{
	if (m->format == COW_DISK_QCOW2)
		return measure_qcow2(m, err);
	if (m->create->size_bytes > INT64_MAX)
		return cow_error_set(err, -EFBIG, "size %" PRIu64 ": more than 2^63-1 bytes",
				     m->create->size_bytes);
	m->required = m->disk ? cow_disk_bytes(m->disk) : cow_round_up(m->create->size_bytes, 512);
	m->fully_allocated = m->required;
	return 0;
}
