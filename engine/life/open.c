/* SPDX-License-Identifier: MIT */
/* Opening an image and what its state is; closing it is close.c. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/image/source.h"
#include "engine/life/chain.h"
#include "engine/base/log.h"
#include "engine/check/repair_dirty.h"
#include "engine/crypt/unlock.h"
#include "engine/core/load.h"
#include "engine/compress/inflated.h"
#include "engine/format/map.h"
#include "engine/life/image.h"
#include "engine/life/image_memory.h"
#include "engine/life/open.h"
#include "engine/meta/replay.h"
#include "engine/loop/blocking.h"
#include "engine/snapshot/snapshot_select.h"
#include "engine/space/release.h"

#define CACHE_MAX_BYTES (32ull << 20)
#define CACHE_MIN_BYTES (256ull << 10)

/* ---- what an image tells ---- */

const char *cow_image_failure(const struct cow_image *image)
{
	return cow_core_failure(&image->core);
}

const struct cow_image_geometry *cow_image_geometry(const struct cow_image *image)
{
	return &image->public_geometry;
}

const char *cow_image_path(const struct cow_image *image)
{
	return image->overlay ? image->backing->core.path : image->core.path;
}

void cow_image_identity(const struct cow_image *image, uint64_t *dev, uint64_t *ino)
{
	const struct cow_image *i = image->overlay ? image->backing : image;
	*dev = i->core.file->dev;
	*ino = i->core.file->ino;
}

/* ---- header ---- */

/* Without those of an encrypted image or one with a data file nothing can be read. */
static int salvage_extensions(struct cow_image *image, const uint8_t *cluster,
			      struct cow_error *err)
{
	const struct cow_header *h = &image->core.header;
	struct cow_error own = { 0 };
	int ret = cow_extensions_decode(cluster, h, &image->core.ext, &own);
	if (!ret)
		return 0;
	if (h->crypt_method || (h->incompatible & QCOW2_INCOMPAT_DATA_FILE))
		return cow_error_set(err, ret, "%s", own.text);
	cow_log(COW_LOG_WARNING, "%s: goes on without what its header's extensions say: %s",
		image->core.path, own.text);
	image->core.ext.has_bitmaps = false;
	return 0;
}

static int load_header(struct cow_image *image, struct cow_chain *chain, uint8_t **cluster,
		       struct cow_error *err)
{
	struct cow_header *h = &image->core.header;
	int ret = image->core.salvage
			  ? cow_load_header_lenient(chain->loop, image->core.file, h, cluster, err)
			  : cow_load_header(chain->loop, image->core.file, h, cluster, err);
	if (ret)
		return ret;
	memcpy(image->core.header_sector, *cluster, 512);
	if (image->core.salvage)
		return salvage_extensions(image, *cluster, err);
	return cow_extensions_decode(*cluster, h, &image->core.ext, err);
}

static int refuse_unsupported(struct cow_image *image, struct cow_chain *chain,
			      struct cow_error *err)
{
	const struct cow_header *h = &image->core.header;
	if (h->crypt_method == QCOW2_CRYPT_AES && image->core.writable &&
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
	if ((h->incompatible & QCOW2_INCOMPAT_CORRUPT) && image->core.writable)
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
	if (!image->core.writable ||
	    !(cow_core_header(&image->core).incompatible & QCOW2_INCOMPAT_DIRTY))
		return 0;
	int ret = cow_repair_dirty(chain->loop, image->core.file, image->core.path, err);
	if (ret)
		return ret;
	free(*cluster);
	*cluster = NULL;
	ret = load_header(image, chain, cluster, err);
	if (!ret)
		ret = cow_repair_dirty_verify(&image->core.header, err);
	return ret;
}

/* ---- what it needs ---- */

/*
 * The chain has one budget. An image takes room for its whole mapping, up to what is left, or half
 * of that if there are images below it. The last ones of a long chain get a little all the same.
 */
static uint64_t take_cache_bytes(struct cow_image *image, struct cow_chain *chain)
{
	const struct cow_geometry *g = &image->core.g;
	uint64_t all = (g->size_bytes >> g->cluster_bits) * 8 + g->slice_bytes * 64ull;
	uint64_t left = chain->cache_left, asked = chain->options->cache_bytes;
	uint64_t most = cow_core_header(&image->core).backing_name_off ? left / 2 : left;
	uint64_t least = asked ? cow_min(asked, CACHE_MIN_BYTES) : CACHE_MIN_BYTES;
	uint64_t bytes = cow_max(cow_min(all, most), least);
	chain->cache_left -= cow_min(left, bytes);
	return bytes;
}

static int init_writing(struct cow_image *image, struct cow_chain *chain, struct cow_error *err)
{
	cow_assert(image->core.writable && !image->raw);
	int ret = cow_alloc_init(&image->alloc, &image->meta, &image->quarantine,
				 chain->options->reserve_bytes);
	if (!ret)
		ret = cow_alloc_prepare_file(&image->alloc, chain->loop);
	if (!ret)
		ret = cow_quarantine_init(&image->quarantine, &image->core, &image->epoch);
	if (!ret)
		cow_release_init(&image->quarantine, &image->meta, &image->alloc);
	image->core.zeros = cow_buf_alloc(image->core.g.cluster_bytes);
	if (!ret && !image->core.zeros)
		ret = -ENOMEM;
	return ret;
}

/*
 * The last thing of opening: it writes, and an image that is not opened after all must not be found
 * in use.
 */
static void start_tracking(struct cow_image *image, struct cow_loop *loop)
{
	const struct cow_extensions *ext = &image->core.ext;
	const char *what = NULL;
	if (ext->has_bitmaps)
		what = cow_overlap(&image->meta, ext->bitmap_directory_off,
				   ext->bitmap_directory_bytes);
	if (what)
		cow_log(COW_LOG_WARNING,
			"%s: its dirty bitmaps cannot be kept: their directory overlaps %s: the "
			"first write "
			"makes them invalid",
			image->core.path, what);
	else
		cow_tracking_start(&image->tracking, loop, &image->core, &image->meta.outlive,
				   &image->bitmaps_left);
	cow_tracking_left_fini(&image->bitmaps_left);
	atomic_store(&image->core.ready_for_write,
		     !(cow_core_header(&image->core).autoclear & ~image->core.kept_autoclear));
}

/* Length of the snapshot table, so that nothing is written over it. */
static int measure_snapshots(struct cow_image *image, struct cow_chain *chain,
			     struct cow_error *err)
{
	const struct cow_header *h = &image->core.header;
	struct cow_snapshot *snapshots = NULL;
	if (!h->nr_snapshots || image->core.salvage)
		return 0;
	int ret = cow_load_snapshots(chain->loop, image->core.file, h, &snapshots,
				     &image->core.snapshots_bytes, err);
	if (!ret)
		cow_snapshots_free(snapshots, h->nr_snapshots);
	return ret;
}

static int select_snapshot(struct cow_image *image, struct cow_chain *chain, const char *snapshot,
			   struct cow_error *err)
{
	if (!snapshot)
		return 0;
	if (image->core.writable)
		return cow_error_set(err, -EROFS, "a snapshot can only be opened read-only");
	if (image->core.salvage &&
	    !cow_header_snapshots_ok(&image->core.header, image->core.file->size_bytes, err))
		return -EINVAL;
	return cow_snapshot_select(chain->loop, image->core.file, snapshot, &image->core.header,
				   err);
}

static void init_locks(struct cow_image *image)
{
	cow_core_init(&image->core);
	cow_mutex_init(&image->queues_lock, COW_RANK_QUEUES);
	cow_epoch_init(&image->epoch);
	cow_gate_init(&image->gate);
}

/* ---- open ---- */

static void free_one(struct cow_image *image)
{
	cow_mutex_alone(&image->queues_lock);
	cow_meta_fini(&image->meta);
	cow_alloc_fini(&image->alloc);
	cow_quarantine_fini(&image->quarantine);
	cow_tracking_left_fini(&image->bitmaps_left);
	cow_tracking_fini(&image->tracking);
	free(image->core.zeros);
	cow_inflated_free(image->inflated);
	free(image->left);
	cow_crypt_key_free(image->key);
	if (image->core.data && image->core.data != image->core.file)
		image->core.host->ops->close(image->core.data);
	if (image->core.file)
		image->core.host->ops->close(image->core.file);
	free(image->core.path);
	free(image);
}

static void publish_geometry(struct cow_image *image)
{
	image->public_geometry = (struct cow_image_geometry){
		.size_bytes = image->core.g.size_bytes,
		.cluster_bytes = image->core.g.cluster_bytes,
		.version = image->core.g.version,
		.writable = image->core.writable,
	};
}

static void open_raw(struct cow_image *image)
{
	image->raw = true;
	image->core.data = image->core.file;
	image->core.g.size_bytes = cow_round_up(image->core.file->size_bytes, 512);
	image->core.g.cluster_bytes = 65536;
	image->core.g.cluster_bits = 16;
	publish_geometry(image);
}

static int unlock(struct cow_image *image, struct cow_chain *chain, struct cow_error *err)
{
	const struct cow_locked locked = { .loop = chain->loop,
					   .file = image->core.file,
					   .h = &image->core.header,
					   .ext = &image->core.ext };
	return cow_unlock_key(&locked, chain->options->secrets, chain->options->nr_secrets,
			      &image->key, err);
}

/* The memory is ours from then on. */
static int replay(struct cow_image *image, struct cow_chain *chain, struct cow_error *err)
{
	int fd = chain->options->outlive_fd;
	if (!fd || !image->core.writable)
		return 0;
	int ret = cow_replay(&image->core, chain->loop, fd, &image->replayed, err);
	if (ret)
		return ret;
	if (image->replayed)
		ret = cow_tracking_take_left(&image->bitmaps_left, fd,
					     cow_core_header(&image->core).size_bytes);
	if (ret)
		return cow_error_no_memory(err);
	ret = cow_meta_outlive(&image->meta, &image->core, fd);
	if (!ret && image->replayed)
		cow_outlive_note_leaks(&image->meta.outlive);
	return ret ? cow_error_set(err, ret, "shared memory: %s", strerror(-ret)) : 0;
}

static int open_qcow2(struct cow_image *image, struct cow_chain *chain, const char *snapshot,
		      struct cow_chain_file *backing, struct cow_error *err)
{
	uint8_t *cluster = NULL;
	int ret = load_header(image, chain, &cluster, err);
	if (!ret)
		ret = refuse_unsupported(image, chain, err);
	if (!ret)
		ret = cow_chain_open_data(chain, image, err);
	if (!ret)
		ret = replay(image, chain, err);
	if (!ret)
		ret = repair_dirty(image, chain, &cluster, err);
	if (!ret)
		ret = measure_snapshots(image, chain, err);
	if (!ret)
		ret = select_snapshot(image, chain, snapshot, err);
	if (!ret)
		ret = unlock(image, chain, err);
	if (ret)
		goto out;
	cow_geometry_init(&image->core.g, &image->core.header);
	image->core.kept_autoclear = image->core.g.data_file ? QCOW2_AUTOCLEAR_DATA_FILE_RAW : 0;
	cow_claims_init(&image->claims, image->core.g.slice_entries);
	ret = cow_meta_open(&image->meta, &image->core, chain->loop, take_cache_bytes(image, chain),
			    err);
	if (!ret && image->core.writable)
		ret = init_writing(image, chain, err);
	publish_geometry(image);
	if (!ret)
		ret = cow_chain_open_backing(chain, image, cluster, backing, err);
out:
	free(cluster);
	return ret;
}

static struct cow_image *new_image(struct cow_chain *chain, struct cow_file *file,
				   enum cow_chain_place place)
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
	image->core.host = chain->host;
	image->core.path = path;
	image->core.file = file;
	image->core.writable = place == COW_CHAIN_TOP && options->writable;
	image->core.no_discard = options->no_discard;
	image->core.salvage = options->salvage && !options->writable;
	cow_limits_init(&image->core.limits, options->limits);
	image->compress = image->core.writable && options->compress;
	image->keep_memory = options->keep_memory;
	image->detect_zeroes = options->detect_zeroes;
	return image;
}

static void say_whose(struct cow_error *err, const struct cow_image *image)
{
	if (err->code && strncmp(err->text, image->core.path, strlen(image->core.path)))
		cow_error_prefix(err, "%s", image->core.path);
}

/* One image of the chain, of *file, which is gone then, and is the backing file, if there is one. */
static int open_one(struct cow_chain *chain, struct cow_chain_file *file,
		    enum cow_chain_place place, struct cow_image **out, struct cow_error *err)
{
	struct cow_image *image = new_image(chain, file->file, place);
	if (!image)
		return cow_error_no_memory(err);
	int ret = cow_chain_count(chain, image->core.path, &image->depth, err);
	if (!ret)
		ret = cow_chain_enter(chain, file->file, cow_chain_flags(chain, place), err);
	file->file = NULL;
	if (!ret && file->raw) {
		open_raw(image);
	} else if (!ret) {
		ret = open_qcow2(image, chain, cow_chain_snapshot(chain, place), file, err);
		say_whose(err, image);
	}
	if (ret) {
		cow_error_set(err, ret, "%s: %s", image->core.path, strerror(-ret));
		free_one(image);
		return ret;
	}
	*out = image;
	return 0;
}

/* From the top down. What goes wrong is told with the names of all images that lead there. */
static int open_all(struct cow_chain *chain, struct cow_file *top, struct cow_image **out,
		    struct cow_error *err)
{
	struct cow_chain_file file = { .file = top };
	struct cow_image *images[COW_MAX_BACKING_DEPTH];
	struct cow_error own = { 0 };
	unsigned nr = 0;
	int ret;
	do {
		struct cow_image *image = NULL;
		ret = open_one(chain, &file, nr ? COW_CHAIN_BELOW : COW_CHAIN_TOP, &image, &own);
		if (ret)
			break;
		cow_assert(nr < COW_MAX_BACKING_DEPTH); /* the chain counts as well */
		if (nr) {
			images[nr - 1]->backing = image;
			images[nr - 1]->backing_bytes = image->core.g.size_bytes;
		}
		images[nr++] = image;
	} while (file.file);
	if (!ret) {
		*out = images[0];
		return 0;
	}
	for (unsigned i = nr; i-- > 0;) {
		say_whose(&own, images[i]);
		free_one(images[i]);
	}
	cow_error_set(err, own.code, "%s", own.text);
	return ret;
}

static int init_inflated(struct cow_image **image, struct cow_error *err)
{
	(*image)->inflated =
		cow_inflated_new(cow_source_cluster_bytes(*image), &(*image)->core.limits);
	if ((*image)->inflated)
		return 0;
	cow_image_free(*image);
	*image = NULL;
	return cow_error_no_memory(err);
}

/* The image that was named, or the overlay that lies on it. */
static int open_top(struct cow_chain *chain, const char *path, struct cow_image **out,
		    struct cow_error *err)
{
	struct cow_file *file, *overlay = chain->options->overlay;
	int ret = cow_chain_open_named(
		chain, path, cow_chain_flags(chain, overlay ? COW_CHAIN_BELOW : COW_CHAIN_TOP),
		&file, err);
	if (ret && overlay)
		chain->host->ops->close(overlay);
	if (ret)
		return ret;
	if (overlay) {
		chain->below = file;
		file = overlay;
	}
	ret = open_all(chain, file, out, err);
	if (ret)
		return ret;
	(*out)->overlay = overlay;
	if ((*out)->core.writable)
		start_tracking(*out, chain->loop);
	if ((*out)->meta.outlive.head)
		cow_outlive_complete(&(*out)->meta.outlive);
	return 0;
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

int cow_image_reload(struct cow_image *image, struct cow_loop *loop, struct cow_error *err)
{
	struct cow_chain chain = { .loop = loop };
	uint8_t *cluster = NULL;
	cow_assert(cow_gate_is_shut(&image->gate));
	int ret = load_header(image, &chain, &cluster, err);
	free(cluster);
	image->core.snapshots_bytes = 0;
	if (!ret)
		ret = measure_snapshots(image, &chain, err);
	cow_meta_forget(&image->meta);
	cow_inflated_drop_all(image->inflated);
	return ret ? ret : cow_meta_reload(&image->meta, loop, err);
}

void cow_image_free(struct cow_image *image)
{
	struct cow_image *backing;
	for (; image; image = backing) {
		backing = image->backing;
		free_one(image);
	}
}
