/* SPDX-License-Identifier: MIT */
/* The steps of a key slot's work. */
#ifndef COW_LUKS_WORK_H
#define COW_LUKS_WORK_H

#include "engine/base/result.h"
#include "engine/crypt/luks.h"

/* What a key slot's work needs, in locked memory. Its length is sizeof + material_bytes. */
struct cow_luks_work {
	size_t material_bytes;
	uint8_t slot_key[COW_CRYPT_MAX_KEY_BYTES]; /* of the passphrase */
	uint8_t key[COW_CRYPT_MAX_KEY_BYTES];	   /* master key, or a candidate */
	uint8_t digest[LUKS1_DIGEST_BYTES];
	uint8_t material[];
};

struct cow_luks_work *cow_luks_work_new(const struct cow_luks *luks);
void cow_luks_work_free(struct cow_luks_work *work);

/* slot_key = what the passphrase gives for this slot. */
COW_MUST_CHECK int cow_luks_work_slot_key(const struct cow_luks *luks,
					  const struct cow_luks_slot *slot,
					  const struct cow_secret *secret,
					  struct cow_luks_work *work);
/*
 * Key material is enciphered like the image's sectors, with slot_key, its own first sector being
 * sector 0.
 */
COW_MUST_CHECK int cow_luks_work_encrypt(const struct cow_luks *luks, struct cow_luks_work *work);
COW_MUST_CHECK int cow_luks_work_decrypt(const struct cow_luks *luks, struct cow_luks_work *work);
/* digest = of work->key, with the header's salt and iterations. */
COW_MUST_CHECK int cow_luks_work_digest(const struct cow_luks *luks, struct cow_luks_work *work);

#endif
