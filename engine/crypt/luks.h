/* SPDX-License-Identifier: MIT */
/*
 * The LUKS (version 1) header of an encrypted image: where the key of its sectors comes from.
 * FORMAT.md section 2.
 *
 * It lies in the image file at the offset that qcow2's encryption header extension gives; all
 * offsets inside it count from there. The master key is kept in eight key slots, each enciphered
 * with a key derived from a passphrase (PBKDF2) after it was spread over 4000 stripes
 * (anti-forensic split), so that wiping a few sectors destroys it.
 *
 * A header is hostile input: what it asks for in memory and in work is bounded before it is done.
 */
#ifndef COW_LUKS_H
#define COW_LUKS_H

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/crypt/crypt.h"
#include "engine/loop/loop.h"
#include "uapi/luks.h"

/*
 * Of PBKDF2, for one slot: above a minute of work on today's processors. More is taken for an
 * attack on our time.
 */
#define COW_LUKS_MAX_ITERATIONS (1u << 27)
/* For a passphrase that none of the slots has: some minutes. */
#define COW_LUKS_MAX_WORK (1ull << 28)

struct cow_luks_slot {
	bool active;
	uint32_t iterations;
	uint8_t salt[LUKS1_SALT_BYTES];
	uint64_t key_off; /* bytes from the header's start */
};

/* The header in host byte order, verified. */
struct cow_luks {
	uint64_t area_off; /* of the header in its file; set by cow_luks_load() */
	char cipher_name[LUKS1_NAME_BYTES], cipher_mode[LUKS1_NAME_BYTES],
		hash_name[LUKS1_NAME_BYTES];
	struct cow_crypt_cipher cipher;
	uint64_t payload_off; /* bytes: the header's length with all key material */
	uint8_t digest[LUKS1_DIGEST_BYTES], digest_salt[LUKS1_SALT_BYTES];
	uint32_t digest_iterations;
	char uuid[LUKS1_UUID_BYTES];
	struct cow_luks_slot slots[LUKS1_SLOTS];
};

/* Blocking, control plane. */

/* Reads and verifies the header at off in file. */
COW_MUST_CHECK int cow_luks_load(struct cow_loop *loop, struct cow_file *file, uint64_t off,
				 uint64_t area_bytes, struct cow_luks *luks, struct cow_error *err);

/*
 * Tries the passphrase on every active slot; a try takes about a second, as long as the image's
 * maker has set. -EACCES: it is none of this image's.
 */
COW_MUST_CHECK int cow_luks_unlock(struct cow_loop *loop, struct cow_file *file,
				   const struct cow_luks *luks, const struct cow_secret *secret,
				   struct cow_crypt_key **key, struct cow_error *err);

#endif
