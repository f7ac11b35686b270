/* SPDX-License-Identifier: MIT */
/* From an image's header and the passphrases at hand to the key of its sectors. */
#ifndef COW_UNLOCK_H
#define COW_UNLOCK_H

#include "engine/base/result.h"
#include "engine/crypt/crypt.h"
#include "engine/format/format.h"
#include "engine/loop/loop.h"

/* An image, perhaps encrypted: its file, open, and what its first cluster says. */
struct cow_locked {
	struct cow_loop *loop;
	struct cow_file *file;
	const struct cow_header *h;
	const struct cow_extensions *ext;
};

/*
 * *out: NULL for an image that is not encrypted. LUKS: the first of the secrets that opens a key slot; -EACCES with a clear text if none
 * does, or none is given. Legacy AES: -EACCES unless there is exactly one secret, since nothing in
 * the image tells a right one from a wrong one; logs a warning about the weakness.
 */
COW_MUST_CHECK int cow_unlock_key(const struct cow_locked *image,
				  const struct cow_secret *const *secrets, size_t nr_secrets,
				  struct cow_crypt_key **out, struct cow_error *err);

#endif
