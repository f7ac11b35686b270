/* SPDX-License-Identifier: MIT */
/* The size of a new image: as asked for, or its backing file's. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/load.h"
#include "engine/create/create_backing.h"
#include "engine/create/create_layout.h"
#include "engine/format/reference.h"

static int check_backing_options(const struct cow_create_options *o, struct cow_error *err)
{
	if (!o->backing_format ||
	    (strcmp(o->backing_format, "qcow2") && strcmp(o->backing_format, "raw")))
		return cow_error_set(err, -EINVAL, "backing format %s: name it, qcow2 or raw (-F)",
				     o->backing_format ? o->backing_format : "missing");
	if (!o->backing_file[0])
		return cow_error_set(err, -EINVAL, "backing file: the name is empty");
	if (cow_reference_has_protocol(o->backing_file))
		return cow_error_set(
			err, -EINVAL,
			"backing file %s: looks like a protocol's name: write ./%s for a file",
			o->backing_file, o->backing_file);
	return 0;
}

static int backing_size(struct cow_host *host, struct cow_loop *loop, const char *path,
			const struct cow_create_options *o, uint64_t *size_bytes,
			struct cow_error *err)
{
	int ret = check_backing_options(o, err);
	if (ret || o->unsafe)
		return ret;
	char *backing = cow_reference_resolve(path, o->backing_file);
	if (!backing)
		return cow_error_no_memory(err);
	ret = cow_load_disk_size(host, loop, backing, o->backing_format, size_bytes, err);
	if (ret)
		cow_error_prefix(err, "backing file");
	free(backing);
	return ret;
}

int cow_create_find_size(struct cow_host *host, struct cow_loop *loop, const char *path,
			 const struct cow_create_options *o, uint64_t *size_bytes,
			 struct cow_error *err)
{
	uint64_t from_backing = 0;
	int ret = o->backing_file ? backing_size(host, loop, path, o, &from_backing, err) : 0;
	if (ret)
		return ret;
	if (!o->has_size && (!o->backing_file || o->unsafe))
		return cow_error_set(err, -EINVAL,
				     "size: missing: give it, or a backing file to take it from");
	if (o->size_bytes > INT64_MAX)
		return cow_error_set(err, -EFBIG, "size %" PRIu64 ": more than 2^63-1 bytes",
				     o->size_bytes);
	if (o->has_size && o->size_bytes % 512)
		return cow_error_set(err, -EINVAL,
				     "size %" PRIu64 ": must be a multiple of 512 bytes",
				     o->size_bytes);
	*size_bytes = o->has_size ? o->size_bytes : from_backing;
	return 0;
}
