/* SPDX-License-Identifier: MIT */
/*
 * The cipher of encrypted images: sectors of 512 bytes, each with an initialisation vector made of
 * its number. FORMAT.md section 2.
 *
 * struct cow_crypt_key is what an image has: the cipher and the key, constant from open to close,
 * shared by all threads. struct cow_crypt is what a queue has for each encrypted image of its
 * chain: contexts made once, so that nothing is allocated and no key is set up on the I/O path. One
 * thread at a time.
 */
#ifndef COW_CRYPT_H
#define COW_CRYPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/result.h"
#include "engine/crypt/secret.h"

#define COW_CRYPT_SECTOR_BYTES 512u
#define COW_CRYPT_MAX_KEY_BYTES 64u

enum cow_crypt_mode { COW_CRYPT_XTS, COW_CRYPT_CBC };
enum cow_crypt_iv { COW_CRYPT_PLAIN, COW_CRYPT_PLAIN64, COW_CRYPT_ESSIV_SHA256 };

/* AES with a key of key_bytes: XTS 32 or 64 (two keys), CBC 16, 24 or 32. */
struct cow_crypt_cipher {
	enum cow_crypt_mode mode;
	enum cow_crypt_iv iv;
	uint32_t key_bytes;
};

struct cow_crypt_key;
struct cow_crypt;

bool cow_crypt_cipher_valid(const struct cow_crypt_cipher *cipher);

/* Copies the key's cipher->key_bytes. 0, -ENOTSUP (this cipher), -ENOMEM. */
COW_MUST_CHECK int cow_crypt_key_new(const struct cow_crypt_cipher *cipher, const uint8_t *key,
				     struct cow_crypt_key **out);
/*
 * The key of a legacy AES image (crypt_method 1): its IVs are made of guest offsets. Any passphrase
 * gives a key.
 */
COW_MUST_CHECK int cow_crypt_key_new_legacy(const struct cow_secret *secret,
					    struct cow_crypt_key **out);
/* All contexts made of it are freed before. NULL is allowed. */
void cow_crypt_key_free(struct cow_crypt_key *key);

const struct cow_crypt_cipher *cow_crypt_key_cipher(const struct cow_crypt_key *key);
/* `off` below is the guest's offset (legacy AES), not the host file's (LUKS). */
bool cow_crypt_key_uses_guest_offset(const struct cow_crypt_key *key);

/* 0, -ENOMEM, or -EINVAL when OpenSSL refuses the key (XTS with two equal halves). */
COW_MUST_CHECK int cow_crypt_new(const struct cow_crypt_key *key, struct cow_crypt **out);
void cow_crypt_free(struct cow_crypt *crypt);

/*
 * off and bytes are multiples of 512. in == out is allowed, other overlap is not. 0, or -EIO: the
 * cipher failed, which it has no reason to; out is undefined then.
 */
COW_MUST_CHECK int cow_crypt_encrypt(struct cow_crypt *crypt, uint64_t off, const void *in,
				     void *out, size_t bytes);
COW_MUST_CHECK int cow_crypt_decrypt(struct cow_crypt *crypt, uint64_t off, void *buf,
				     size_t bytes);

#endif
