/* SPDX-License-Identifier: MIT */
/*
 * The sector cipher: vectors of IEEE 1619 for XTS, CBC and ESSIV rebuilt block by block from plain
 * AES, IVs per sector, and that nothing is allocated once the contexts are made.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "engine/crypt/crypt.h"
#include "engine/crypt/secret.h"

#define SECTOR COW_CRYPT_SECTOR_BYTES

static unsigned nr_allocations; /* by OpenSSL */

static void *count_malloc(size_t bytes, const char *file, int line)
{
	nr_allocations++;
	return malloc(bytes);
}

static void *count_realloc(void *p, size_t bytes, const char *file, int line)
{
	nr_allocations++;
	return realloc(p, bytes);
}

static void count_free(void *p, const char *file, int line)
{
	free(p);
}

struct pair {
	struct cow_crypt_key *key;
	struct cow_crypt *crypt;
};

static struct pair open_pair(struct cow_crypt_cipher cipher, const uint8_t *key)
{
	struct pair p;
	assert_int_equal(cow_crypt_key_new(&cipher, key, &p.key), 0);
	assert_int_equal(cow_crypt_new(p.key, &p.crypt), 0);
	return p;
}

static void close_pair(struct pair *p)
{
	cow_crypt_free(p->crypt);
	cow_crypt_key_free(p->key);
}

static void from_hex(const char *hex, uint8_t *out)
{
	for (unsigned byte; sscanf(hex, "%2x", &byte) == 1; hex += 2)
		*out++ = (uint8_t)byte;
}

/* ---- XTS ---- */

/*
 * IEEE 1619-2007, annex B: plaintext is 00..ff twice; the first and the last 32 bytes of the
 * ciphertext.
 */
static const struct {
	unsigned key_bytes;
	const char *key;
	uint64_t sector;
	const char *first, *last;
} xts_vectors[] = {
	{ 32, "2718281828459045235360287471352631415926535897932384626433832795", 0, /* vector 4 */
	  "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c",
	  "3ff262735779a418f20a282df920147beabe421ee5319d0568" },
	{ 64,
	  "2718281828459045235360287471352662497757247093699959574966967627314159265358979323846264"
	  "3383279502884197169399375105"
	  "820974944592",
	  0xff, /* vector 10 */
	  "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b",
	  "6ffda9fcea70b9c6e693e148c151" },
};

static void fill_vector(uint8_t *sector)
{
	for (unsigned i = 0; i < SECTOR; i++)
		sector[i] = (uint8_t)i;
}

static void hex_tail(const uint8_t *bytes, size_t nr, char *out)
{
	for (size_t i = 0; i < nr; i++)
		sprintf(out + 2 * i, "%02x", bytes[i]);
}

static void xts_by_ieee(void **state)
{
	for (size_t i = 0; i < sizeof(xts_vectors) / sizeof(xts_vectors[0]); i++) {
		uint8_t key[64], plain[SECTOR], buf[SECTOR], first[32];
		char hex[2 * SECTOR + 1];
		fill_vector(plain);
		from_hex(xts_vectors[i].key, key);
		from_hex(xts_vectors[i].first, first);
		struct pair p =
			open_pair((struct cow_crypt_cipher){ COW_CRYPT_XTS, COW_CRYPT_PLAIN64,
							     xts_vectors[i].key_bytes },
				  key);
		uint64_t off = xts_vectors[i].sector * SECTOR;
		assert_int_equal(cow_crypt_encrypt(p.crypt, off, plain, buf, SECTOR), 0);
		assert_memory_equal(buf, first, sizeof(first));
		hex_tail(buf, SECTOR, hex);
		assert_string_equal(hex + 2 * SECTOR - strlen(xts_vectors[i].last),
				    xts_vectors[i].last);
		assert_int_equal(cow_crypt_decrypt(p.crypt, off, buf, SECTOR), 0);
		assert_memory_equal(buf, plain, SECTOR);
		close_pair(&p);
	}
}

static void xts_refuses_equal_halves(void **state)
{
	static const uint8_t key[64] = { 0 };
	struct cow_crypt_cipher cipher = { COW_CRYPT_XTS, COW_CRYPT_PLAIN64, 64 };
	struct cow_crypt_key *k;
	struct cow_crypt *crypt = NULL;
	assert_int_equal(cow_crypt_key_new(&cipher, key, &k), 0);
	assert_int_equal(cow_crypt_new(k, &crypt), -EINVAL);
	assert_null(crypt);
	cow_crypt_key_free(k);
}

/* ---- CBC, from single blocks ---- */

static void aes_block(const uint8_t *key, unsigned key_bytes, const uint8_t in[16], uint8_t out[16])
{
	const EVP_CIPHER *cipher = key_bytes == 16   ? EVP_aes_128_ecb()
				   : key_bytes == 24 ? EVP_aes_192_ecb()
						     : EVP_aes_256_ecb();
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int n;
	assert_true(EVP_EncryptInit_ex(ctx, cipher, NULL, key, NULL));
	EVP_CIPHER_CTX_set_padding(ctx, 0);
	assert_true(EVP_EncryptUpdate(ctx, out, &n, in, 16) && n == 16);
	EVP_CIPHER_CTX_free(ctx);
}

static void reference_cbc(const uint8_t *key, unsigned key_bytes, enum cow_crypt_iv iv,
			  uint64_t number, const uint8_t *in, uint8_t *out)
{
	uint8_t chain[16] = { 0 }, hash[32];
	for (unsigned i = 0; i < (iv == COW_CRYPT_PLAIN ? 4 : 8); i++)
		chain[i] = (uint8_t)(number >> (8 * i));
	if (iv == COW_CRYPT_ESSIV_SHA256) {
		assert_true(EVP_Digest(key, key_bytes, hash, NULL, EVP_sha256(), NULL));
		aes_block(hash, 32, chain, chain);
	}
	for (unsigned at = 0; at < SECTOR; at += 16) {
		for (unsigned i = 0; i < 16; i++)
			chain[i] ^= in[at + i];
		aes_block(key, key_bytes, chain, chain);
		memcpy(out + at, chain, 16);
	}
}

static void cbc_by_blocks(void **state)
{
	static const enum cow_crypt_iv ivs[] = { COW_CRYPT_PLAIN, COW_CRYPT_PLAIN64,
						 COW_CRYPT_ESSIV_SHA256 };
	const uint64_t first = 0xfffffffe; /* the third sector's number is beyond 32 bits */
	uint8_t key[32], plain[4 * SECTOR], got[4 * SECTOR], want[4 * SECTOR];
	for (unsigned i = 0; i < sizeof(plain); i++)
		plain[i] = (uint8_t)(i * 37 + i / 256);
	for (unsigned i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)(i * 11 + 3);
	for (unsigned bytes = 16; bytes <= 32; bytes += 8) {
		for (unsigned v = 0; v < 3; v++) {
			struct pair p = open_pair(
				(struct cow_crypt_cipher){ COW_CRYPT_CBC, ivs[v], bytes }, key);
			for (unsigned s = 0; s < 4; s++)
				reference_cbc(key, bytes, ivs[v], first + s, plain + s * SECTOR,
					      want + s * SECTOR);
			assert_int_equal(
				cow_crypt_encrypt(p.crypt, first * SECTOR, plain, got, sizeof(got)),
				0);
			assert_memory_equal(got, want, sizeof(want));
			assert_int_equal(
				cow_crypt_decrypt(p.crypt, first * SECTOR, got, sizeof(got)), 0);
			assert_memory_equal(got, plain, sizeof(plain));
			close_pair(&p);
		}
	}
}

/* ---- all ---- */

static const struct cow_crypt_cipher all[] = {
	{ COW_CRYPT_XTS, COW_CRYPT_PLAIN64, 32 },
	{ COW_CRYPT_XTS, COW_CRYPT_PLAIN64, 64 },
	{ COW_CRYPT_XTS, COW_CRYPT_ESSIV_SHA256, 64 },
	{ COW_CRYPT_CBC, COW_CRYPT_PLAIN64, 16 },
	{ COW_CRYPT_CBC, COW_CRYPT_PLAIN, 24 },
	{ COW_CRYPT_CBC, COW_CRYPT_ESSIV_SHA256, 32 },
};
#define NR_ALL (sizeof(all) / sizeof(all[0]))
#define RUN_BYTES (100u * SECTOR) /* more than the IVs made at once, and no multiple of them */

static void make_run(uint8_t *buf, uint8_t key[64])
{
	for (unsigned i = 0; i < RUN_BYTES; i++)
		buf[i] = (uint8_t)(i * 131 + i / 512);
	for (unsigned i = 0; i < 64; i++)
		key[i] = (uint8_t)(200 - i);
}

/* A run is the same as its sectors one by one, in place or not. */
static void runs_are_sectors(void **state)
{
	static uint8_t plain[RUN_BYTES], run[RUN_BYTES], single[RUN_BYTES];
	uint8_t key[64];
	make_run(plain, key);
	for (size_t c = 0; c < NR_ALL; c++) {
		struct pair p = open_pair(all[c], key);
		uint64_t off = 7ull << 40;
		assert_int_equal(cow_crypt_encrypt(p.crypt, off, plain, run, RUN_BYTES), 0);
		memcpy(single, plain, RUN_BYTES);
		for (unsigned at = RUN_BYTES; at; at -= SECTOR)
			assert_int_equal(cow_crypt_encrypt(p.crypt, off + at - SECTOR,
							   single + at - SECTOR,
							   single + at - SECTOR, SECTOR),
					 0);
		assert_memory_equal(run, single, RUN_BYTES);
		assert_memory_not_equal(run, plain, SECTOR);
		assert_int_equal(cow_crypt_decrypt(p.crypt, off, run, RUN_BYTES), 0);
		assert_memory_equal(run, plain, RUN_BYTES);
		close_pair(&p);
	}
}

static void nothing_is_allocated(void **state)
{
	static uint8_t buf[RUN_BYTES];
	uint8_t key[64];
	make_run(buf, key);
	assert_true(nr_allocations > 0); /* the counter works */
	for (size_t c = 0; c < NR_ALL; c++) {
		struct pair p = open_pair(all[c], key);
		unsigned before = nr_allocations;
		assert_int_equal(cow_crypt_encrypt(p.crypt, 0, buf, buf, RUN_BYTES), 0);
		assert_int_equal(cow_crypt_decrypt(p.crypt, 0, buf, RUN_BYTES), 0);
		assert_int_equal(nr_allocations, before);
		close_pair(&p);
	}
}

static void unknown_ciphers(void **state)
{
	static const struct cow_crypt_cipher unknown[] = {
		{ COW_CRYPT_XTS, COW_CRYPT_PLAIN64, 16 },
		{ COW_CRYPT_XTS, COW_CRYPT_PLAIN64, 48 },
		{ COW_CRYPT_CBC, COW_CRYPT_PLAIN64, 64 },
		{ COW_CRYPT_CBC, COW_CRYPT_PLAIN64, 0 },
	};
	static const uint8_t key[64] = { 1 };
	struct cow_crypt_key *k;
	for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++)
		assert_int_equal(cow_crypt_key_new(&unknown[i], key, &k), -ENOTSUP);
}

/* Sixteen bytes of the passphrase, zeros where it is shorter. */
static void legacy_key(void **state)
{
	struct cow_secret *secret = cow_secret_new();
	static const uint8_t plain[SECTOR] = { 1, 2, 3 };
	uint8_t key[16] = "short", got[SECTOR], want[SECTOR];
	assert_non_null(secret);
	for (unsigned i = 0; i < 2; i++) {
		memcpy(secret->data, i ? "sixteen and more bytes" : "short", i ? 22 : 5);
		secret->bytes = i ? 22 : 5;
		struct pair p;
		assert_int_equal(cow_crypt_key_new_legacy(secret, &p.key), 0);
		assert_true(cow_crypt_key_uses_guest_offset(p.key));
		assert_int_equal(cow_crypt_new(p.key, &p.crypt), 0);
		reference_cbc(i ? (const uint8_t *)"sixteen and more" : key, 16, COW_CRYPT_PLAIN64,
			      9, plain, want);
		assert_int_equal(cow_crypt_encrypt(p.crypt, 9 * SECTOR, plain, got, SECTOR), 0);
		assert_memory_equal(got, want, SECTOR);
		close_pair(&p);
	}
	cow_secret_free(secret);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(xts_by_ieee),		cmocka_unit_test(xts_refuses_equal_halves),
		cmocka_unit_test(cbc_by_blocks),	cmocka_unit_test(runs_are_sectors),
		cmocka_unit_test(nothing_is_allocated), cmocka_unit_test(unknown_ciphers),
		cmocka_unit_test(legacy_key),
	};
	if (!CRYPTO_set_mem_functions(count_malloc, count_realloc, count_free))
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
