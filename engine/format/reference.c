/* SPDX-License-Identifier: MIT */
#include "engine/format/reference.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

bool cow_reference_has_protocol(const char *name)
{
	return name[strcspn(name, ":/")] == ':';
}

char *cow_reference_resolve(const char *image_path, const char *name)
{
	const char *slash = strrchr(image_path, '/');
	char *path;
	if (name[0] == '/' || !slash)
		return strdup(name);
	if (asprintf(&path, "%.*s/%s", (int)(slash - image_path), image_path, name) < 0)
		return NULL;
	return path;
}

int cow_reference_backing_name(const uint8_t *cluster, const struct cow_header *h, char name[1024],
			       struct cow_error *err)
{
	name[0] = '\0';
	if (!h->backing_name_off)
		return 0;
	const uint8_t *src = cluster + h->backing_name_off;
	const uint8_t *nul = memchr(src, 0, h->backing_name_bytes);
	if (nul)
		return cow_error_set(err, -EINVAL,
				     "backing file name at offset %" PRIu64 ": holds a NUL byte",
				     (uint64_t)(nul - cluster));
	memcpy(name, src, h->backing_name_bytes);
	name[h->backing_name_bytes] = '\0';
	return 0;
}
