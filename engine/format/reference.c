/* SPDX-License-Identifier: MIT */
#include "engine/format/reference.h"

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
