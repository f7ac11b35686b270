/* SPDX-License-Identifier: MIT */
#include "engine/life/info.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/load.h"
#include "engine/format/reference.h"

/* Space in use on the host; where that is not known the length will do. */
static uint64_t allocated_bytes(struct cow_file *file)
{
	const struct cow_host_ops *ops = file->host->ops;
	uint64_t bytes;
	return ops->stored && ops->stored(file, &bytes) ? bytes : file->size_bytes;
}

/* A cipher that we do not know is no reason to say nothing of the image. */
static int load_luks(struct cow_loop *loop, struct cow_file *file, struct cow_info *info,
		     struct cow_error *err)
{
	struct cow_error own = { 0 };
	if (!info->ext.has_crypto)
		return 0;
	info->luks = malloc(sizeof(*info->luks));
	if (!info->luks)
		return cow_error_no_memory(err);
	int ret = cow_luks_load(loop, file, info->ext.crypto_off, info->ext.crypto_bytes,
				info->luks, &own);
	if (!ret)
		return 0;
	free(info->luks);
	info->luks = NULL;
	return ret == -ENOTSUP
		       ? 0
		       : cow_error_set(err, ret, "%s", own.code ? own.text : strerror(-ret));
}

static int load(struct cow_loop *loop, struct cow_file *file, struct cow_info *info,
		struct cow_error *err)
{
	uint8_t *cluster;
	uint64_t used_bytes;
	int ret = cow_load_header(loop, file, &info->header, &cluster, err);
	if (ret)
		return ret;
	ret = cow_extensions_decode(cluster, &info->header, &info->ext, err);
	if (!ret)
		ret = cow_reference_backing_name(cluster, &info->header, info->backing_name, err);
	free(cluster);
	if (!ret)
		ret = cow_load_snapshots(loop, file, &info->header, &info->snapshots, &used_bytes,
					 err);
	if (!ret)
		ret = cow_load_bitmaps(loop, file, &info->header, &info->ext, &info->bitmaps, err);
	if (!ret)
		ret = load_luks(loop, file, info, err);
	return ret;
}

int cow_info_load(struct cow_host *host, struct cow_loop *loop, const char *path,
		  struct cow_info *info, struct cow_error *err)
{
	struct cow_file *file;
	memset(info, 0, sizeof(*info));
	int ret = host->ops->open(host, path, COW_OPEN_BUFFERED | COW_OPEN_NO_LOCK, &file, err);
	if (ret)
		return cow_error_set(err, ret, "%s: cannot open: %s", path, strerror(-ret));
	info->file_bytes = file->size_bytes;
	info->allocated_bytes = allocated_bytes(file);
	ret = load(loop, file, info, err);
	host->ops->close(file);
	if (ret) {
		cow_error_prefix(err, "%s", path);
		cow_info_fini(info);
	}
	return ret;
}

void cow_info_fini(struct cow_info *info)
{
	cow_snapshots_free(info->snapshots, info->header.nr_snapshots);
	free(info->bitmaps);
	free(info->luks);
	info->snapshots = NULL;
	info->bitmaps = NULL;
	info->luks = NULL;
}
