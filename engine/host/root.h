/* SPDX-License-Identifier: MIT */
/*
 * A folder that is held open, and what is opened below it. Its owner may rename, link and exchange
 * anything meanwhile: what is opened lies below the folder (see path.h). Hosts without
 * links and owners (tests) have names only.
 */
#ifndef COW_ROOT_H
#define COW_ROOT_H

#include "engine/base/result.h"
#include "engine/host/file.h"

struct cow_root {
	struct cow_host *host;
	char *path; /* as it was called when it was opened: absolute, without links; owned */
	bool slash; /* it is "/": everything lies below it */
};

/* 0 or -errno with a text. */
COW_MUST_CHECK int cow_root_open(struct cow_host *host, const char *dir, struct cow_root **out,
				 struct cow_error *err);

/*
 * The folder that path lies in, and its name there (malloc'ed). What is opened through this root must
 * belong to the owner of the links that path goes through, if that is neither root nor the caller.
 */
COW_MUST_CHECK int cow_root_of(struct cow_host *host, const char *path, struct cow_root **out,
			       char **name, struct cow_error *err);

/* Opens name below the root; flags without CREATE. */
COW_MUST_CHECK int cow_root_open_file(struct cow_root *root, const char *name, unsigned flags,
				      struct cow_file **out, struct cow_error *err);

/* NULL is fine. */
void cow_root_close(struct cow_root *root);

/* The part of path (resolved) below the root; NULL: it lies elsewhere. */
const char *cow_root_below(const struct cow_root *root, const char *path);

#endif
