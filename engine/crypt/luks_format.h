/* SPDX-License-Identifier: MIT */
/* A new header for an encrypted image. */
#ifndef COW_LUKS_FORMAT_H
#define COW_LUKS_FORMAT_H

#include "engine/base/result.h"
#include "engine/crypt/luks.h"

struct cow_luks_format {
	struct cow_crypt_cipher cipher;
	const char *hash_name; /* "sha1", "sha256", "sha512", ... */
	unsigned iter_ms;      /* how long one try shall take; 0: 1000 */
};

/* aes-256, xts-plain64, sha256. */
void cow_luks_format_default(struct cow_luks_format *format);
/* 0, or -EINVAL / -ENOTSUP with the option that is wrong. */
COW_MUST_CHECK int cow_luks_format_check(const struct cow_luks_format *format,
					 struct cow_error *err);
/* The length of the header with room for eight slots. */
uint64_t cow_luks_format_bytes(const struct cow_luks_format *format);
/*
 * Makes a master key, puts it under secret into slot 0 and writes header and key material to [off,
 * off + cow_luks_format_bytes()). The other slots' material is left as it is.
 */
COW_MUST_CHECK int cow_luks_format(struct cow_loop *loop, struct cow_file *file, uint64_t off,
				   const struct cow_luks_format *format,
				   const struct cow_secret *secret, struct cow_error *err);

#endif
