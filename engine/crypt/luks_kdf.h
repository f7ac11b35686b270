/* SPDX-License-Identifier: MIT */
/*
 * The hashing of LUKS: key derivation, and the anti-forensic split. Pure; hashes are named as in
 * the header.
 */
#ifndef COW_LUKS_KDF_H
#define COW_LUKS_KDF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/result.h"
#include "engine/crypt/secret.h"

bool cow_luks_hash_known(const char *hash);

/* PBKDF2 with HMAC of hash. 0 or -ENOMEM. */
COW_MUST_CHECK int cow_luks_derive(const char *hash, const void *pass, size_t pass_bytes,
				   const uint8_t *salt, size_t salt_bytes, uint32_t iterations,
				   uint8_t *out, size_t out_bytes);

/*
 * key (key_bytes) <-> stripes blocks of key_bytes each; split: all blocks but the last are random
 * already. -ENOMEM, or -EIO when the hash fails.
 */
COW_MUST_CHECK int cow_luks_split(const char *hash, const uint8_t *key, size_t key_bytes,
				  uint32_t stripes, uint8_t *material);
COW_MUST_CHECK int cow_luks_merge(const char *hash, const uint8_t *material, size_t key_bytes,
				  uint32_t stripes, uint8_t *key);

/* Iterations that take about ms on this processor, bounded. */
uint32_t cow_luks_calibrate(const char *hash, size_t key_bytes, unsigned ms);

#endif
