/* SPDX-License-Identifier: MIT */
/* See root.h. The real host's roots are in system.c; here are those of hosts with names only. */
#include "engine/host/root.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct cow_root *plain_root(struct cow_host *host, char *path)
{
	struct cow_root *root = path ? calloc(1, sizeof(*root)) : NULL;
	if (!root) {
		free(path);
		return NULL;
	}
	root->host = host;
	root->path = path;
	return root;
}

int cow_root_open(struct cow_host *host, const char *dir, struct cow_root **out,
		  struct cow_error *err)
{
	char *path;
	if (host->ops->root_open)
		return host->ops->root_open(host, dir, out, err);
	int ret = host->ops->realpath(host, dir, &path);
	if (ret)
		return cow_error_set(err, ret, "%s: cannot open: %s", dir, strerror(-ret));
	*out = plain_root(host, path);
	return *out ? 0 : cow_error_no_memory(err);
}

static int plain_root_of(struct cow_host *host, char *real, struct cow_root **out, char **name)
{
	char *slash = strrchr(real, '/');
	*name = strdup(slash ? slash + 1 : real);
	*out = plain_root(host, slash ? strndup(real, (size_t)(slash - real)) : strdup("."));
	if (*name && *out)
		return 0;
	free(*name);
	cow_root_close(*out);
	return -ENOMEM;
}

int cow_root_of(struct cow_host *host, const char *path, struct cow_root **out, char **name,
		struct cow_error *err)
{
	char *real;
	if (host->ops->root_of)
		return host->ops->root_of(host, path, out, name, err);
	int ret = host->ops->realpath(host, path, &real);
	if (ret)
		return cow_error_set(err, ret, "%s: cannot open: %s", path, strerror(-ret));
	ret = plain_root_of(host, real, out, name);
	free(real);
	return ret ? cow_error_set(err, ret, "out of memory") : 0;
}

int cow_root_open_file(struct cow_root *root, const char *name, unsigned flags,
		       struct cow_file **out, struct cow_error *err)
{
	char *path;
	if (root->host->ops->root_open_file)
		return root->host->ops->root_open_file(root, name, flags, out, err);
	bool bare = !strcmp(root->path, "."), slash = !strcmp(root->path, "/");
	if (asprintf(&path, "%s%s%s", bare || slash ? "" : root->path, bare ? "" : "/", name) < 0)
		return cow_error_no_memory(err);
	int ret = root->host->ops->open(root->host, path, flags, out, err);
	free(path);
	return ret;
}

void cow_root_close(struct cow_root *root)
{
	if (!root)
		return;
	if (root->host->ops->root_close) {
		root->host->ops->root_close(root);
		return;
	}
	free(root->path);
	free(root);
}

const char *cow_root_below(const struct cow_root *root, const char *path)
{
	size_t n = strlen(root->path);
	if (n && root->path[n - 1] == '/')
		n--;
	return strncmp(path, root->path, n) || path[n] != '/' || !path[n + 1] ? NULL : path + n + 1;
}
