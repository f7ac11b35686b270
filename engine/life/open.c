/* SPDX-License-Identifier: MIT */
/* Opening an image and what its state is; closing it is close.c. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/life/chain.h"
#include "engine/base/log.h"
#include "engine/check/check.h"
#include "engine/crypt/unlock.h"
#include "engine/core/load.h"
#include "engine/compress/inflated.h"
#include "engine/format/map.h"
#include "engine/life/memory.h"
#include "engine/loop/blocking.h"
#include "engine/snapshot/snapshot_select.h"

#define CACHE_MAX_BYTES (32ull << 20)
#define CACHE_MIN_BYTES (256ull << 10)

/* ---- the sticky failure ---- */

int cow_image_fail(struct cow_image *image, struct cow_loop *loop, const char *fmt, ...)
{
	va_list ap;
	cow_mutex_lock(&image->fail_lock);
	bool first = !atomic_load(&image->failed);
	if (first) {
		va_start(ap, fmt);
		vsnprintf(image->failure, sizeof(image->failure), fmt, ap);
		va_end(ap);
		atomic_store(&image->failed, true);
	}
	cow_mutex_unlock(&image->fail_lock);
	if (first)
		cow_log(COW_LOG_ERR, "%s: %s; %s", image->path, image->failure,
			image->writable ? "no more writing, reads go on"
					: "reads of sound clusters go on");
	return -EIO;
}

int cow_image_corrupt(struct cow_image *image, struct cow_loop *loop, uint64_t off,
		      const char *rule)
{
	cow_image_fail(image, loop, "corrupt at offset %llu: %s", (unsigned long long)off, rule);
	if (!image->writable || image->g.version < 3)
		return -EIO;
	cow_mutex_lock(&image->header_lock);
	bool first = !image->mark_corrupt;
	image->mark_corrupt = true;
	image->header.incompatible |= QCOW2_INCOMPAT_CORRUPT;
	cow_mutex_unlock(&image->header_lock);
	if (first) {
		atomic_store(&image->commit.header_dirty, true);
		cow_writeback_kick(&image->commit, loop);
	}
	return -EIO;
}

void cow_image_note_cut(struct cow_image *image, struct cow_loop *loop)
{
	if (!image->writable || cow_image_is_failed(image))
		return;
	if (cow_file_is_cut(image->file) || cow_file_is_cut(image->data))
		cow_image_fail(image, loop, "the host file was cut short under us");
}

bool cow_image_is_whole(struct cow_image *image, struct cow_loop *loop)
{
	bool whole = cow_file_is_whole(image->file) && cow_file_is_whole(image->data);
	cow_image_note_cut(image, loop);
	return whole;
}

const char *cow_image_failure(const struct cow_image *image)
{
	return atomic_load(&image->failed) ? image->failure : NULL;
}

const struct cow_image_geometry *cow_image_geometry(const struct cow_image *image)
{
	return &image->public_geometry;
}

const char *cow_image_path(const struct cow_image *image)
{
	return image->overlay ? image->backing->path : image->path;
}

void cow_image_identity(const struct cow_image *image, uint64_t *dev, uint64_t *ino)
{
	const struct cow_image *i = image->overlay ? image->backing : image;
	*dev = i->file->dev;
	*ino = i->file->ino;
}

/* ---- header ---- */

void cow_image_header_encode(struct cow_image *image, uint8_t sector[512])
{
	cow_mutex_lock(&image->header_lock);
	memcpy(sector, image->header_sector, 512);
	cow_header_encode(&image->header, sector, 512);
	cow_mutex_unlock(&image->header_lock);
}

static uint64_t kept_autoclear(const struct cow_image *image)
{
	return (image->g.data_file ? QCOW2_AUTOCLEAR_DATA_FILE_RAW : 0) |
	       (image->tracking.kept ? QCOW2_AUTOCLEAR_BITMAPS : 0);
}

void cow_image_note_writing(struct cow_image *image)
{
	cow_mutex_lock(&image->header_lock);
	image->header.autoclear &= kept_autoclear(image);
	cow_mutex_unlock(&image->header_lock);
	atomic_store(&image->commit.header_dirty, true);
}

/* Autoclear features that we do not keep true are switched off before anything is written. */
void cow_image_prepare_write(struct cow_image *image, struct cow_task *task)
{
	cow_image_note_writing(image);
	cow_writeback_join(&image->commit, task);
}

static int load_header(struct cow_image *image, struct cow_chain *chain, uint8_t **cluster,
		       struct cow_error *err)
{
	int ret = cow_load_header(chain->loop, image->file, false, &image->header, cluster, err);
	if (ret)
		return ret;
	memcpy(image->header_sector, *cluster, 512);
	return cow_extensions_decode(*cluster, &image->header, &image->ext, err);
}

static int refuse_unsupported(struct cow_image *image, struct cow_chain *chain,
			      struct cow_error *err)
{
	const struct cow_header *h = &image->header;
	if (h->crypt_method == QCOW2_CRYPT_AES && image->writable &&
	    !chain->options->write_legacy_aes)
		return cow_error_set(
			err, -EROFS,
			"legacy AES encryption is weak: attach it --read-only, convert it "
			"to LUKS, or insist "
			"with --write-legacy-aes");
	if (image->compress && (h->crypt_method || (h->incompatible & QCOW2_INCOMPAT_DATA_FILE)))
		return cow_error_set(
			err, -ENOTSUP,
			"compressed clusters cannot be written to an image that is encrypted or "
			"has an external data file: leave out --compress");
	if ((h->incompatible & QCOW2_INCOMPAT_CORRUPT) && image->writable)
		return cow_error_set(
			err, -EROFS,
			"the image is marked corrupt: repair it with cowblk check --repair all, "
			"or attach it --read-only");
	return 0;
}

/* ---- repair of an image that was not closed ---- */

static int repair_dirty(struct cow_image *image, struct cow_chain *chain, uint8_t **cluster,
			struct cow_error *err)
{
	if (!image->writable || !(image->header.incompatible & QCOW2_INCOMPAT_DIRTY))
		return 0;
	cow_log(COW_LOG_INFO, "%s: was not closed properly: rebuilding refcounts", image->path);
	struct cow_check_options options = { .repair = COW_REPAIR_ALL, .keep_snapshots = true };
	struct cow_check_result result = { 0 };
	int ret = cow_check_file(chain->loop, image->file, &options, &result, err);
	if (ret)
		return ret;
	free(*cluster);
	*cluster = NULL;
	ret = load_header(image, chain, cluster, err);
	if (!ret && (image->header.incompatible & QCOW2_INCOMPAT_DIRTY))
		ret = cow_error_set(
			err, -EROFS,
			"the image is dirty and could not be repaired: see cowblk check");
	return ret;
}

/* ---- tables and caches ---- */

/* Of a read-only image nothing is ever dirty: who waits for a slot waits for a load. */
static void need_writeback(void *ctx, struct cow_loop *loop)
{
	struct cow_image *image = ctx;
	if (image->writable)
		cow_writeback_kick(&image->commit, loop);
}

static int load_table(struct cow_image *image, struct cow_chain *chain, struct cow_table *table,
		      uint64_t off, uint64_t nr, uint64_t capacity, const char *what,
		      struct cow_error *err)
{
	int ret = cow_table_init(table, off, nr, capacity, image->limits.dirty_blocks,
				 need_writeback, image);
	uint8_t *be = ret ? NULL : cow_buf_alloc(nr * 8);
	if (ret || !be)
		return cow_error_set(err, -ENOMEM, "out of memory for the %s", what);
	ret = cow_loop_read(chain->loop, image->file, off, be, nr * 8);
	if (!ret)
		cow_table_load(table, be, nr);
	else
		cow_error_set(err, ret, "cannot read the %s: %s", what, strerror(-ret));
	free(be);
	return ret;
}

/*
 * The chain has one budget. An image takes room for its whole mapping, up to what is left, or half
 * of that if there are images below it. The last ones of a long chain get a little all the same.
 */
static uint64_t take_cache_bytes(struct cow_image *image, struct cow_chain *chain)
{
	const struct cow_geometry *g = &image->g;
	uint64_t all = (g->size_bytes >> g->cluster_bits) * 8 + g->slice_bytes * 64ull;
	uint64_t left = chain->cache_left, asked = chain->options->cache_bytes;
	uint64_t most = image->header.backing_name_off ? left / 2 : left;
	uint64_t least = asked ? cow_min(asked, CACHE_MIN_BYTES) : CACHE_MIN_BYTES;
	uint64_t bytes = cow_max(cow_min(all, most), least);
	chain->cache_left -= cow_min(left, bytes);
	return bytes;
}

/* Refcounts need a quarter. */
static int init_caches(struct cow_image *image, struct cow_chain *chain)
{
	const struct cow_geometry *g = &image->g;
	uint64_t bytes = take_cache_bytes(image, chain);
	int ret = cow_cache_init(&image->l2, image->file, g->slice_bytes, bytes, &image->limits,
				 COW_RANK_L2_SHARD, need_writeback, image);
	if (!ret && image->writable)
		ret = cow_cache_init(&image->refs, image->file, g->slice_bytes, bytes / 4,
				     &image->limits, COW_RANK_REF_SHARD, need_writeback, image);
	return ret;
}

/*
 * A table past the end of the file would read as if nothing was allocated. Whoever only reads
 * learns of it when he gets there; nobody writes to such an image.
 */
static int mark_tables_past_end(struct cow_image *image, struct cow_error *err)
{
	for (uint64_t i = 0; i < image->l1.nr; i++) {
		uint64_t entry = cow_table_get(&image->l1, i);
		if (!entry || cow_l1_fault(&image->g, entry) ||
		    (entry & QCOW2_OFFSET_MASK) < image->file->size_bytes)
			continue;
		if (image->writable)
			return cow_error_set(
				err, -EINVAL,
				"L1 entry at offset %llu: its L2 table lies past the end of the "
				"file: repair it with cowblk check --repair all, or attach it "
				"--read-only",
				(unsigned long long)(image->l1.off + i * 8));
		atomic_store(&image->l1.entries[i], entry | COW_L1_PAST_END);
	}
	return 0;
}

static int init_writing(struct cow_image *image, struct cow_chain *chain, struct cow_error *err)
{
	const struct cow_header *h = &image->header;
	uint64_t nr = (uint64_t)h->reftable_clusters << h->cluster_bits >> 3;
	int ret = load_table(image, chain, &image->reftable, h->reftable_off, nr,
			     QCOW2_MAX_REFTABLE_BYTES / 8, "refcount table", err);
	if (!ret)
		ret = cow_overlap_init(image, err);
	if (!ret)
		ret = cow_writeback_init(&image->commit, image);
	if (!ret)
		ret = cow_alloc_init(image);
	if (!ret)
		ret = cow_alloc_prepare_file(image, chain->loop);
	if (!ret)
		ret = cow_quarantine_init(&image->quarantine, image);
	image->zeros = cow_buf_alloc(image->g.cluster_bytes);
	if (!ret && !image->zeros)
		ret = -ENOMEM;
	return ret;
}

/*
 * The last thing of opening: it writes, and an image that is not opened after all must not be found
 * in use.
 */
static void start_tracking(struct cow_image *image, struct cow_loop *loop)
{
	const struct cow_extensions *ext = &image->ext;
	const char *what = NULL;
	if (ext->has_bitmaps)
		what = cow_overlap(image, ext->bitmap_directory_off, ext->bitmap_directory_bytes);
	if (what)
		cow_log(COW_LOG_WARNING,
			"%s: its dirty bitmaps cannot be kept: their directory overlaps %s: the "
			"first write "
			"makes them invalid",
			image->path, what);
	else
		cow_tracking_start(&image->tracking, loop, image->file);
	atomic_store(&image->ready_for_write, !(image->header.autoclear & ~kept_autoclear(image)));
}

/* Length of the snapshot table, so that nothing is written over it. */
static int measure_snapshots(struct cow_image *image, struct cow_chain *chain,
			     struct cow_error *err)
{
	const struct cow_header *h = &image->header;
	struct cow_snapshot *snapshots = NULL;
	if (!h->nr_snapshots)
		return 0;
	int ret = cow_load_snapshots(chain->loop, image->file, h, &snapshots,
				     &image->snapshots_bytes, err);
	if (!ret)
		cow_snapshots_free(snapshots, h->nr_snapshots);
	return ret;
}

/* The top image's snapshot that is asked for instead of its active disk. */
static const char *snapshot_of(const struct cow_chain *chain, bool top)
{
	return top ? chain->options->snapshot : NULL;
}

static int select_snapshot(struct cow_image *image, struct cow_chain *chain, const char *snapshot,
			   struct cow_error *err)
{
	if (!snapshot)
		return 0;
	if (image->writable)
		return cow_error_set(err, -EROFS, "a snapshot can only be opened read-only");
	return cow_snapshot_select(chain->loop, image->file, snapshot, &image->header, err);
}

static void init_locks(struct cow_image *image)
{
	cow_mutex_init(&image->header_lock, COW_RANK_HEADER);
	cow_mutex_init(&image->fail_lock, COW_RANK_FAIL);
	cow_mutex_init(&image->queues_lock, COW_RANK_QUEUES);
	cow_epoch_init(&image->epoch);
	cow_mutex_init(&image->freeze.lock, COW_RANK_FREEZE);
	cow_waitlist_init(&image->freeze.parked);
}

/* ---- open ---- */

static void publish_geometry(struct cow_image *image)
{
	image->public_geometry = (struct cow_image_geometry){
		.size_bytes = image->g.size_bytes,
		.cluster_bytes = image->g.cluster_bytes,
		.version = image->g.version,
		.writable = image->writable,
	};
}

static void open_raw(struct cow_image *image)
{
	image->raw = true;
	image->data = image->file;
	image->g.size_bytes = cow_round_up(image->file->size_bytes, 512);
	image->g.cluster_bytes = 65536;
	image->g.cluster_bits = 16;
	publish_geometry(image);
}

static int open_qcow2(struct cow_image *image, struct cow_chain *chain, const char *snapshot,
		      struct cow_error *err)
{
	uint8_t *cluster = NULL;
	int ret = load_header(image, chain, &cluster, err);
	if (!ret)
		ret = refuse_unsupported(image, chain, err);
	if (!ret)
		ret = repair_dirty(image, chain, &cluster, err);
	if (!ret)
		ret = measure_snapshots(image, chain, err);
	if (!ret)
		ret = select_snapshot(image, chain, snapshot, err);
	if (!ret)
		ret = cow_data_file_open(image, chain, err);
	if (!ret)
		ret = cow_crypt_open(chain->loop, image->file, &image->header, &image->ext,
				     chain->options->secrets, chain->options->nr_secrets,
				     &image->key, err);
	if (ret)
		goto out;
	cow_geometry_init(&image->g, &image->header);
	cow_inflight_init(&image->inflight, image->g.slice_entries);
	ret = load_table(image, chain, &image->l1, image->header.l1_off, image->header.l1_entries,
			 cow_l1_entries_for(&image->header, image->header.size_bytes), "L1 table",
			 err);
	if (!ret)
		ret = mark_tables_past_end(image, err);
	if (!ret)
		ret = init_caches(image, chain);
	if (!ret && image->writable)
		ret = init_writing(image, chain, err);
	publish_geometry(image);
	if (!ret)
		ret = cow_backing_open(image, chain, cluster, err);
	if (!ret && image->writable)
		start_tracking(image, chain->loop);
out:
	free(cluster);
	return ret;
}

unsigned cow_chain_flags(const struct cow_chain *chain, bool top)
{
	const struct cow_open_options *o = chain->options;
	bool no_lock = o->no_lock || snapshot_of(chain, top);
	return (top && o->writable ? COW_OPEN_WRITE : 0) | (no_lock ? COW_OPEN_NO_LOCK : 0) |
	       (o->buffered ? COW_OPEN_BUFFERED : 0);
}

static struct cow_image *new_image(struct cow_chain *chain, struct cow_file *file, bool top)
{
	const struct cow_open_options *options = chain->options;
	struct cow_image *image = calloc(1, sizeof(*image));
	char *path = image ? strdup(file->path) : NULL;
	if (!path) {
		free(image);
		chain->host->ops->close(file);
		return NULL;
	}
	init_locks(image);
	image->host = chain->host;
	image->path = path;
	image->file = file;
	image->depth = chain->depth;
	image->writable = top && options->writable;
	image->no_discard = options->no_discard;
	cow_limits_init(&image->limits, options->limits);
	image->reserve_bytes = options->reserve_bytes;
	image->compress = image->writable && options->compress;
	image->keep_memory = options->keep_memory;
	image->detect_zeroes = options->detect_zeroes;
	return image;
}

int cow_image_open_in_chain(struct cow_chain *chain, struct cow_file *file, bool raw, bool top,
			    struct cow_image **out, struct cow_error *err)
{
	struct cow_image *image = new_image(chain, file, top);
	if (!image)
		return cow_error_set(err, -ENOMEM, "out of memory");
	int ret = cow_chain_enter(chain, file, cow_chain_flags(chain, top), err);
	if (!ret && raw) {
		open_raw(image);
	} else if (!ret) {
		struct cow_error own = { 0 };
		ret = open_qcow2(image, chain, snapshot_of(chain, top), &own);
		if (own.code && strncmp(own.text, image->path, strlen(image->path)))
			cow_error_prefix(&own, "%s", image->path);
		if (own.code)
			cow_error_set(err, own.code, "%s", own.text);
	}
	if (ret) {
		cow_error_set(err, ret, "%s: %s", image->path, strerror(-ret));
		cow_image_free(image);
		return ret;
	}
	*out = image;
	return 0;
}

uint32_t cow_chain_cluster_bytes(const struct cow_image *image)
{
	uint32_t bytes = 0;
	for (; image; image = image->backing)
		if (!image->raw && image->g.cluster_bytes > bytes)
			bytes = image->g.cluster_bytes;
	return bytes;
}

static int init_inflated(struct cow_image **image, struct cow_error *err)
{
	(*image)->inflated = cow_inflated_new(cow_chain_cluster_bytes(*image), &(*image)->limits);
	if ((*image)->inflated)
		return 0;
	cow_image_free(*image);
	*image = NULL;
	return cow_error_set(err, -ENOMEM, "out of memory");
}

/* The image that was named, or the overlay that lies on it. */
static int open_top(struct cow_chain *chain, const char *path, struct cow_image **out,
		    struct cow_error *err)
{
	struct cow_file *file, *overlay = chain->options->overlay;
	int ret = cow_chain_open_named(chain, path, cow_chain_flags(chain, !overlay), &file, err);
	if (ret && overlay)
		chain->host->ops->close(overlay);
	if (ret)
		return ret;
	if (overlay) {
		chain->below = file;
		file = overlay;
	}
	ret = cow_image_open_in_chain(chain, file, false, true, out, err);
	if (!ret)
		(*out)->overlay = overlay;
	return ret;
}

int cow_image_open(struct cow_host *host, struct cow_loop *loop, const char *path,
		   const struct cow_open_options *options, struct cow_image **out,
		   struct cow_error *err)
{
	struct cow_chain chain = { .host = host, .loop = loop, .options = options };
	chain.cache_left = options->cache_bytes ? options->cache_bytes : CACHE_MAX_BYTES;
	int ret = cow_chain_init(&chain, err);
	if (!ret)
		ret = open_top(&chain, path, out, err);
	else if (options->overlay)
		host->ops->close(options->overlay);
	cow_chain_fini(&chain);
	if (!ret)
		ret = init_inflated(out, err);
	if (!ret)
		cow_image_start_memory(*out, options);
	return ret;
}

/* ---- after a change of the file under a freeze ---- */

static int reload_table(struct cow_image *image, struct cow_loop *loop, struct cow_table *table,
			uint64_t off, uint64_t nr)
{
	uint8_t *be = nr <= table->capacity ? cow_buf_alloc(nr * 8) : NULL;
	if (!be)
		return -ENOMEM;
	int ret = cow_loop_read(loop, image->file, off, be, nr * 8);
	if (!ret) {
		cow_table_load(table, be, nr);
		cow_table_move(table, off, nr);
	}
	free(be);
	return ret;
}

int cow_image_reload(struct cow_image *image, struct cow_loop *loop, struct cow_error *err)
{
	struct cow_chain chain = { .loop = loop };
	const struct cow_header *h = &image->header;
	uint8_t *cluster = NULL;
	int ret = load_header(image, &chain, &cluster, err);
	free(cluster);
	image->snapshots_bytes = 0;
	if (!ret)
		ret = measure_snapshots(image, &chain, err);
	if (!ret)
		ret = reload_table(image, loop, &image->l1, h->l1_off, h->l1_entries);
	if (!ret)
		ret = reload_table(image, loop, &image->reftable, h->reftable_off,
				   (uint64_t)h->reftable_clusters << h->cluster_bits >> 3);
	cow_cache_drop_all(&image->l2);
	cow_cache_drop_all(&image->refs);
	cow_inflated_drop_all(image->inflated);
	cow_overlap_fini(image);
	if (!ret)
		ret = cow_overlap_init(image, err);
	return ret;
}

void cow_image_free(struct cow_image *image)
{
	if (!image)
		return;
	if (image->backing)
		cow_image_free(image->backing);
	cow_cache_fini(&image->l2);
	cow_cache_fini(&image->refs);
	cow_table_fini(&image->l1);
	cow_table_fini(&image->reftable);
	cow_writeback_fini(&image->commit);
	cow_overlap_fini(image);
	cow_alloc_fini(image);
	cow_quarantine_fini(&image->quarantine);
	cow_tracking_fini(&image->tracking);
	free(image->zeros);
	cow_inflated_free(image->inflated);
	free(image->left);
	cow_crypt_key_free(image->key);
	if (image->data && image->data != image->file)
		image->host->ops->close(image->data);
	if (image->file)
		image->host->ops->close(image->file);
	free(image->path);
	free(image);
}
