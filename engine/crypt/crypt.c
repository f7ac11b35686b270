/* SPDX-License-Identifier: MIT */
/*
 * OpenSSL's EVP (hardware AES where there is some) on sectors. A context keeps its key schedule;
 * each sector sets a new IV only. IVs are made for IV_BATCH sectors at once, because ESSIV
 * enciphers them: one call instead of one per sector.
 */
#include "engine/crypt/crypt.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/sha.h>

#include "engine/base/assert.h"

#define IV_BYTES 16u
#define IV_BATCH 32u

struct cow_crypt_key {
	struct cow_crypt_cipher cipher;
	bool guest_offset;
	uint8_t key[COW_CRYPT_MAX_KEY_BYTES];
	uint8_t essiv_key[SHA256_DIGEST_LENGTH];
};

struct cow_crypt {
	enum cow_crypt_iv iv;
	EVP_CIPHER_CTX *encrypt, *decrypt;
	EVP_CIPHER_CTX *essiv; /* AES-256-ECB over the IVs, ESSIV only */
	uint8_t ivs[IV_BATCH][IV_BYTES];
};

/* ---- keys ---- */

static const EVP_CIPHER *evp_cipher(const struct cow_crypt_cipher *cipher)
{
	if (cipher->mode == COW_CRYPT_XTS)
		return cipher->key_bytes == 32	 ? EVP_aes_128_xts()
		       : cipher->key_bytes == 64 ? EVP_aes_256_xts()
						 : NULL;
	switch (cipher->key_bytes) {
	case 16:
		return EVP_aes_128_cbc();
	case 24:
		return EVP_aes_192_cbc();
	case 32:
		return EVP_aes_256_cbc();
	default:
		return NULL;
	}
}

bool cow_crypt_cipher_valid(const struct cow_crypt_cipher *cipher)
{
	return evp_cipher(cipher) != NULL;
}

int cow_crypt_key_new(const struct cow_crypt_cipher *cipher, const uint8_t *key,
		      struct cow_crypt_key **out)
{
	if (!cow_crypt_cipher_valid(cipher))
		return -ENOTSUP;
	struct cow_crypt_key *k = cow_secret_memory_new(sizeof(*k));
	if (!k)
		return -ENOMEM;
	cow_assert(cipher->key_bytes <= COW_CRYPT_MAX_KEY_BYTES); /* evp_cipher() knows no other */
	k->cipher = *cipher;
	memcpy(k->key, key, cipher->key_bytes);
	if (cipher->iv == COW_CRYPT_ESSIV_SHA256 &&
	    !EVP_Digest(key, cipher->key_bytes, k->essiv_key, NULL, EVP_sha256(), NULL)) {
		cow_crypt_key_free(k);
		return -ENOMEM;
	}
	*out = k;
	return 0;
}

int cow_crypt_key_new_legacy(const struct cow_secret *secret, struct cow_crypt_key **out)
{
	static const struct cow_crypt_cipher cipher = { COW_CRYPT_CBC, COW_CRYPT_PLAIN64, 16 };
	uint8_t key[16] = { 0 };
	memcpy(key, secret->data, secret->bytes < sizeof(key) ? secret->bytes : sizeof(key));
	int ret = cow_crypt_key_new(&cipher, key, out);
	explicit_bzero(key, sizeof(key));
	if (!ret)
		(*out)->guest_offset = true;
	return ret;
}

void cow_crypt_key_free(struct cow_crypt_key *key)
{
	cow_secret_memory_free(key, sizeof(*key));
}

const struct cow_crypt_cipher *cow_crypt_key_cipher(const struct cow_crypt_key *key)
{
	return &key->cipher;
}

bool cow_crypt_key_uses_guest_offset(const struct cow_crypt_key *key)
{
	return key->guest_offset;
}

/* ---- contexts ---- */

static int new_context(const EVP_CIPHER *cipher, const uint8_t *key, int encrypt,
		       EVP_CIPHER_CTX **out)
{
	static const uint8_t iv[IV_BYTES];
	*out = EVP_CIPHER_CTX_new();
	if (!*out)
		return -ENOMEM;
	if (!EVP_CipherInit_ex(*out, cipher, NULL, key, iv, encrypt))
		return -EINVAL;
	EVP_CIPHER_CTX_set_padding(*out, 0);
	return 0;
}

int cow_crypt_new(const struct cow_crypt_key *key, struct cow_crypt **out)
{
	const EVP_CIPHER *cipher = evp_cipher(&key->cipher);
	struct cow_crypt *crypt = calloc(1, sizeof(*crypt));
	if (!crypt)
		return -ENOMEM;
	crypt->iv = key->cipher.iv;
	int ret = new_context(cipher, key->key, 1, &crypt->encrypt);
	if (!ret)
		ret = new_context(cipher, key->key, 0, &crypt->decrypt);
	if (!ret && crypt->iv == COW_CRYPT_ESSIV_SHA256)
		ret = new_context(EVP_aes_256_ecb(), key->essiv_key, 1, &crypt->essiv);
	if (ret) {
		cow_crypt_free(crypt);
		return ret;
	}
	*out = crypt;
	return 0;
}

/* OpenSSL wipes the key schedules. */
void cow_crypt_free(struct cow_crypt *crypt)
{
	if (!crypt)
		return;
	EVP_CIPHER_CTX_free(crypt->encrypt);
	EVP_CIPHER_CTX_free(crypt->decrypt);
	EVP_CIPHER_CTX_free(crypt->essiv);
	free(crypt);
}

/* ---- sectors ---- */

static uint64_t iv_number(enum cow_crypt_iv iv, uint64_t sector)
{
	return htole64(iv == COW_CRYPT_PLAIN ? (uint32_t)sector : sector);
}

static bool make_ivs(struct cow_crypt *crypt, uint64_t sector, unsigned nr)
{
	int bytes = (int)(nr * IV_BYTES), done;
	cow_assert(nr && nr <= IV_BATCH);
	for (unsigned i = 0; i < nr; i++) {
		uint64_t number = iv_number(crypt->iv, sector + i);
		memcpy(crypt->ivs[i], &number, sizeof(number));
		memset(crypt->ivs[i] + sizeof(number), 0, IV_BYTES - sizeof(number));
	}
	return !crypt->essiv ||
	       (EVP_EncryptUpdate(crypt->essiv, crypt->ivs[0], &done, crypt->ivs[0], bytes) &&
		done == bytes);
}

static bool run_sector(EVP_CIPHER_CTX *ctx, const uint8_t *iv, const uint8_t *in, uint8_t *out)
{
	int done;
	return EVP_CipherInit_ex2(ctx, NULL, NULL, iv, -1, NULL) &&
	       EVP_CipherUpdate(ctx, out, &done, in, COW_CRYPT_SECTOR_BYTES) &&
	       done == COW_CRYPT_SECTOR_BYTES;
}

static int run(struct cow_crypt *crypt, EVP_CIPHER_CTX *ctx, uint64_t off, const uint8_t *in,
	       uint8_t *out, size_t bytes)
{
	cow_assert(off % COW_CRYPT_SECTOR_BYTES == 0 && bytes % COW_CRYPT_SECTOR_BYTES == 0);
	uint64_t sector = off / COW_CRYPT_SECTOR_BYTES;
	size_t left = bytes / COW_CRYPT_SECTOR_BYTES;
	while (left) {
		unsigned nr = left < IV_BATCH ? (unsigned)left : IV_BATCH;
		bool ok = make_ivs(crypt, sector, nr);
		for (unsigned i = 0; i < nr && ok; i++) {
			ok = run_sector(ctx, crypt->ivs[i], in, out);
			in += COW_CRYPT_SECTOR_BYTES;
			out += COW_CRYPT_SECTOR_BYTES;
		}
		if (!ok)
			return -EIO;
		sector += nr;
		left -= nr;
	}
	return 0;
}

int cow_crypt_encrypt(struct cow_crypt *crypt, uint64_t off, const void *in, void *out,
		      size_t bytes)
{
	return run(crypt, crypt->encrypt, off, in, out, bytes);
}

int cow_crypt_decrypt(struct cow_crypt *crypt, uint64_t off, void *buf, size_t bytes)
{
	return run(crypt, crypt->decrypt, off, buf, buf, bytes);
}
