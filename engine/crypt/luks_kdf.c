/* SPDX-License-Identifier: MIT */
/* See luks_kdf.h. In this order: hashes; anti-forensic split; how long a try takes. */
#include "engine/crypt/luks_kdf.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include <openssl/evp.h>

#include "engine/base/be.h"
#include "engine/crypt/crypt.h"
#include "engine/crypt/luks.h"

#define MIN_ITERATIONS 1000u

/* ---- hashes ---- */

static const struct {
	const char *name;
	const EVP_MD *(*md)(void);
} hashes[] = {
	{ "sha1", EVP_sha1 },	  { "sha224", EVP_sha224 }, { "sha256", EVP_sha256 },
	{ "sha384", EVP_sha384 }, { "sha512", EVP_sha512 }, { "ripemd160", EVP_ripemd160 },
};

static const EVP_MD *find_hash(const char *name)
{
	for (size_t i = 0; i < sizeof(hashes) / sizeof(hashes[0]); i++)
		if (!strcmp(hashes[i].name, name))
			return hashes[i].md();
	return NULL;
}

/* Known, and not left out of this OpenSSL. */
bool cow_luks_hash_known(const char *hash)
{
	const EVP_MD *md = find_hash(hash);
	uint8_t digest[EVP_MAX_MD_SIZE];
	return md && EVP_Digest("", 0, digest, NULL, md, NULL);
}

int cow_luks_derive(const char *hash, const void *pass, size_t pass_bytes, const uint8_t *salt,
		    size_t salt_bytes, uint32_t iterations, uint8_t *out, size_t out_bytes)
{
	return PKCS5_PBKDF2_HMAC(pass, (int)pass_bytes, salt, (int)salt_bytes, (int)iterations,
				 find_hash(hash), (int)out_bytes, out)
		       ? 0
		       : -ENOMEM;
}

/* ---- anti-forensic split ---- */

/*
 * Each digest-sized piece of block becomes the hash of (its number, itself); the last one is cut.
 */
static int diffuse(EVP_MD_CTX *ctx, const EVP_MD *md, uint8_t *block, size_t bytes)
{
	uint8_t digest[EVP_MAX_MD_SIZE], number[4];
	size_t piece = (size_t)EVP_MD_get_size(md);
	uint32_t i = 0;
	bool ok = true;
	for (size_t at = 0; at < bytes && ok; at += piece, i++) {
		size_t n = bytes - at < piece ? bytes - at : piece;
		cow_store32_be(number, i);
		ok = EVP_DigestInit_ex(ctx, md, NULL) &&
		     EVP_DigestUpdate(ctx, number, sizeof(number)) &&
		     EVP_DigestUpdate(ctx, block + at, n) && EVP_DigestFinal_ex(ctx, digest, NULL);
		if (ok)
			memcpy(block + at, digest, n);
	}
	explicit_bzero(digest, sizeof(digest));
	return ok ? 0 : -EIO;
}

static void xor_into(uint8_t *to, const uint8_t *from, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		to[i] ^= from[i];
}

/* What all blocks but the last come to: the key is that xor the last block. */
static int fold(const char *hash, const uint8_t *material, size_t bytes, uint32_t stripes,
		uint8_t *out)
{
	const EVP_MD *md = find_hash(hash);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	int ret = ctx ? 0 : -ENOMEM;
	memset(out, 0, bytes);
	for (uint32_t i = 0; i + 1 < stripes && !ret; i++) {
		xor_into(out, material + i * bytes, bytes);
		ret = diffuse(ctx, md, out, bytes);
	}
	EVP_MD_CTX_free(ctx);
	return ret;
}

int cow_luks_split(const char *hash, const uint8_t *key, size_t key_bytes, uint32_t stripes,
		   uint8_t *material)
{
	uint8_t *last = material + (stripes - 1) * key_bytes;
	int ret = fold(hash, material, key_bytes, stripes, last);
	xor_into(last, key, key_bytes);
	return ret;
}

int cow_luks_merge(const char *hash, const uint8_t *material, size_t key_bytes, uint32_t stripes,
		   uint8_t *key)
{
	int ret = fold(hash, material, key_bytes, stripes, key);
	xor_into(key, material + (stripes - 1) * key_bytes, key_bytes);
	return ret;
}

/* ---- how long a try takes ---- */

static uint64_t cpu_nsec(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#define SAMPLE_NSEC 50000000u

uint32_t cow_luks_calibrate(const char *hash, size_t key_bytes, unsigned ms)
{
	static const uint8_t salt[LUKS1_SALT_BYTES];
	const uint64_t most = COW_LUKS_MAX_ITERATIONS / 2;
	uint8_t out[COW_CRYPT_MAX_KEY_BYTES];
	uint64_t spent = 1, iterations = MIN_ITERATIONS / 2;
	/* Until the sample is long enough to be one. */
	while (spent < SAMPLE_NSEC && iterations < most) {
		iterations *= 2;
		uint64_t start = cpu_nsec();
		if (cow_luks_derive(hash, "calibrate", 9, salt, sizeof(salt), (uint32_t)iterations,
				    out, key_bytes))
			return MIN_ITERATIONS;
		spent = cpu_nsec() - start + 1;
	}
	double want = (double)iterations * ms * 1e6 / (double)spent;
	return want < MIN_ITERATIONS ? MIN_ITERATIONS
	       : want > (double)most ? (uint32_t)most
				     : (uint32_t)want;
}
