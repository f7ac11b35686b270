/* SPDX-License-Identifier: MIT */
/*
 * LUKS headers: known vectors of the key derivation, the anti-forensic split both ways, headers
 * that break one rule each, and that what is formatted is unlocked by its passphrase only. Headers
 * made by QEMU are in tests/interop/encryption.
 */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/be.h"
#include "engine/crypt/luks_format.h"
#include "engine/crypt/luks_header.h"
#include "engine/crypt/secret.h"
#include "engine/crypt/unlock.h"
#include "engine/crypt/luks_work.h"
#include "engine/crypt/luks_kdf.h"
#include "engine/loop/blocking.h"
#include "tests/memory/memory_host.h"
#include "tests/unit/secret_fixture.h"

#define HEADER_BYTES sizeof(struct luks1_header_be)
#define AREA_OFF 0x40000u
#define SLOT(i, field)                                                                             \
	(offsetof(struct luks1_header_be, slots) + (i) * sizeof(struct luks1_slot_be) +            \
	 offsetof(struct luks1_slot_be, field))
#define AT(field) offsetof(struct luks1_header_be, field)

/* ---- derivation ---- */

static const struct {
	const char *hash, *pass, *salt;
	uint32_t iterations;
	const char *key;
} derivations[] = {
	/* RFC 6070 */
	{ "sha1", "password", "salt", 1, "0c60c80f961f0e71f3a9b524af6012062fe037a6" },
	{ "sha1", "password", "salt", 4096, "4b007901b765489abead49d926f721d065a429c1" },
	{ "sha1", "passwordPASSWORDpassword", "saltSALTsaltSALTsaltSALTsaltSALTsalt", 4096,
	  "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038" },
	/* RFC 7914, section 11 */
	{ "sha256", "passwd", "salt", 1,
	  "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"
	  "49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783" },
	{ "sha512", "password", "salt", 1,
	  "867f70cf1ade02cff3752599a3a53dc4af34c7a669815ae5d513554e1c8cf252" },
};

static void to_hex(const uint8_t *bytes, size_t nr, char *out)
{
	for (size_t i = 0; i < nr; i++)
		sprintf(out + 2 * i, "%02x", bytes[i]);
}

static void derivation_by_rfc(void **state)
{
	for (size_t i = 0; i < sizeof(derivations) / sizeof(derivations[0]); i++) {
		uint8_t out[64];
		char hex[129];
		size_t bytes = strlen(derivations[i].key) / 2;
		assert_int_equal(cow_luks_derive(derivations[i].hash, derivations[i].pass,
						 strlen(derivations[i].pass),
						 (const uint8_t *)derivations[i].salt,
						 strlen(derivations[i].salt),
						 derivations[i].iterations, out, bytes),
				 0);
		to_hex(out, bytes, hex);
		assert_string_equal(hex, derivations[i].key);
	}
}

/* ---- the split ---- */

static void split_and_merge(void **state)
{
	static const char *const names[] = { "sha1", "sha224", "sha256", "sha384", "sha512" };
	static uint8_t material[64 * LUKS1_STRIPES];
	uint8_t key[64], back[64];
	for (unsigned i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)(i * 5 + 1);
	for (size_t h = 0; h < sizeof(names) / sizeof(names[0]); h++) {
		for (size_t bytes = 16; bytes <= 64; bytes *= 2) {
			for (size_t i = 0; i < bytes * LUKS1_STRIPES; i++)
				material[i] = (uint8_t)(i * 2654435761u >> 13);
			assert_int_equal(
				cow_luks_split(names[h], key, bytes, LUKS1_STRIPES, material), 0);
			assert_int_equal(
				cow_luks_merge(names[h], material, bytes, LUKS1_STRIPES, back), 0);
			assert_memory_equal(back, key, bytes);
			material[bytes * 17] ^= 1; /* any stripe lost: all lost */
			assert_int_equal(
				cow_luks_merge(names[h], material, bytes, LUKS1_STRIPES, back), 0);
			assert_memory_not_equal(back, key, bytes);
		}
	}
}

/* Two stripes of zeros: the key is the diffused first one. */
static void split_by_hand(void **state)
{
	uint8_t material[64] = { 0 }, key[32] = { 0 };
	char hex[65];
	assert_int_equal(cow_luks_merge("sha256", material, 32, 2, key), 0);
	to_hex(key, 32, hex); /* sha256 of 4 + 32 zero bytes */
	assert_string_equal(hex,
			    "6db65fd59fd356f6729140571b5bcd6bb3b83492a16e1bf0a3884442fc3c8a0e");
}

/* ---- decoding ---- */

static struct cow_luks sound(void)
{
	struct cow_luks l = { .cipher_name = "aes",
			      .cipher_mode = "xts-plain64",
			      .hash_name = "sha256",
			      .cipher = { COW_CRYPT_XTS, COW_CRYPT_PLAIN64, 64 },
			      .payload_off = 2068480,
			      .digest_iterations = 1000,
			      .uuid = "00000000-0000-4000-8000-000000000000" };
	for (unsigned i = 0; i < LUKS1_SLOTS; i++)
		l.slots[i].key_off = 4096 + i * 258048u;
	l.slots[0].active = true;
	l.slots[0].iterations = 1000;
	return l;
}

static const struct {
	size_t off;
	unsigned bytes;
	uint64_t value;
	int code;
	const char *text;
} broken[] = {
	{ AT(magic), 4, 0x4c554b54, -EINVAL, "magic at offset 0" },
	{ AT(version), 2, 2, -ENOTSUP, "LUKS version 2" },
	{ AT(cipher_name), 4, 0x61657300 + '2', -ENOTSUP, "LUKS cipher aes2" },
	{ AT(cipher_name), 4, 0x61650a00, -EINVAL, "cipher name at offset 8" },
	{ AT(cipher_mode), 4, 0x7874732b, -ENOTSUP, "LUKS cipher mode xts+plain64" },
	{ AT(hash_name), 4, 0x6d643500, -ENOTSUP, "LUKS hash md5" },
	{ AT(payload_offset), 4, 4041, -EINVAL, "payload offset at offset 104" },
	{ AT(payload_offset), 4, 0xffffffff, -EINVAL, "payload offset at offset 104" },
	{ AT(payload_offset), 4, 3000, -EINVAL, "key slot material at offset" },
	{ AT(payload_offset), 4, 0, -EINVAL, "key slot material at offset 248" },
	{ AT(key_bytes), 4, 0, -ENOTSUP, "LUKS key of 0 bytes" },
	{ AT(key_bytes), 4, 48, -ENOTSUP, "LUKS key of 48 bytes" },
	{ AT(key_bytes), 4, 0xffffffff, -ENOTSUP, "LUKS key of 4294967295 bytes" },
	{ AT(digest_iterations), 4, 0, -EINVAL, "digest iterations at offset 164" },
	{ AT(digest_iterations), 4, 0xffffffff, -EINVAL, "digest iterations at offset 164" },
	{ SLOT(0, active), 4, 1, -EINVAL, "key slot state at offset 208" },
	{ SLOT(0, iterations), 4, 0, -EINVAL, "key slot iterations at offset 212" },
	{ SLOT(0, iterations), 4, (1u << 27) + 1, -EINVAL, "key slot iterations at offset 212" },
	{ SLOT(7, stripes), 4, 3999, -EINVAL, "key slot stripes at offset 588" },
	{ SLOT(0, stripes), 4, 0xffffffff, -EINVAL, "key slot stripes at offset 252" },
	{ SLOT(3, key_offset), 4, 0, -EINVAL, "key slot material at offset 392" },
	{ SLOT(3, key_offset), 4, 1, -EINVAL, "key slot material at offset 392" },
	{ SLOT(3, key_offset), 4, 0xffffffff, -EINVAL, "key slot material at offset 392" },
	{ SLOT(3, key_offset), 4, 8 + 2 * 504 + 499, -EINVAL, "overlaps another slot's" },
};

static void store(uint8_t *at, unsigned bytes, uint64_t value)
{
	while (bytes--) {
		at[bytes] = (uint8_t)value;
		value >>= 8;
	}
}

static void one_broken_field(void **state)
{
	for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); i++) {
		uint8_t buf[HEADER_BYTES];
		struct cow_luks l = sound();
		struct cow_error err = { 0 };
		cow_luks_encode(&l, buf);
		store(buf + broken[i].off, broken[i].bytes, broken[i].value);
		int ret = cow_luks_decode(buf, 2068480, &l, &err);
		if (ret != broken[i].code || !strstr(err.text, broken[i].text))
			fail_msg("row %zu: %d, not %d: '%s' without '%s'", i, ret, broken[i].code,
				 err.text, broken[i].text);
	}
}

static void too_much_work(void **state)
{
	uint8_t buf[HEADER_BYTES];
	struct cow_luks l = sound();
	struct cow_error err = { 0 };
	for (unsigned i = 0; i < LUKS1_SLOTS; i++) {
		l.slots[i].active = true;
		l.slots[i].iterations = 1u << 25;
	}
	l.digest_iterations = 1;
	cow_luks_encode(&l, buf);
	assert_int_equal(cow_luks_decode(buf, 2068480, &l, &err), -EINVAL);
	assert_non_null(strstr(err.text, "more than 2^28"));
	l.slots[7].iterations -= 8;
	cow_luks_encode(&l, buf);
	assert_int_equal(cow_luks_decode(buf, 2068480, &l, NULL), 0);
}

static void names_without_an_end(void **state)
{
	static const size_t names[] = { AT(cipher_name), AT(cipher_mode), AT(hash_name) };
	for (unsigned i = 0; i < 3; i++) {
		uint8_t buf[HEADER_BYTES];
		struct cow_luks l = sound();
		struct cow_error err = { 0 };
		cow_luks_encode(&l, buf);
		memset(buf + names[i], 'a', LUKS1_NAME_BYTES);
		assert_int_equal(cow_luks_decode(buf, 2068480, &l, &err), -EINVAL);
		assert_non_null(strstr(err.text, "has no end"));
	}
}

static void sound_header_survives(void **state)
{
	uint8_t buf[HEADER_BYTES], again[HEADER_BYTES];
	struct cow_luks l = sound(), back;
	struct cow_error err = { 0 };
	cow_luks_encode(&l, buf);
	assert_int_equal(cow_luks_decode(buf, 2068480, &back, &err), 0);
	assert_int_equal(back.cipher.mode, COW_CRYPT_XTS);
	assert_int_equal(back.cipher.iv, COW_CRYPT_PLAIN64);
	cow_luks_encode(&back, again);
	assert_memory_equal(buf, again, HEADER_BYTES);
}

/* Whatever stands there: a verdict, and if it is accepted, in bounds. */
static void random_damage(void **state)
{
	uint64_t rng = 88172645463325252ull;
	for (unsigned round = 0; round < 200000; round++) {
		uint8_t buf[HEADER_BYTES];
		struct cow_luks l = sound();
		cow_luks_encode(&l, buf);
		for (unsigned k = 0; k < 1 + round % 4; k++) {
			rng ^= rng << 13, rng ^= rng >> 7, rng ^= rng << 17;
			buf[rng % HEADER_BYTES] = (uint8_t)(rng >> 32);
		}
		if (cow_luks_decode(buf, 2068480, &l, NULL))
			continue;
		assert_true(l.payload_off <= 2068480 &&
			    l.digest_iterations <= COW_LUKS_MAX_ITERATIONS);
		for (unsigned i = 0; i < LUKS1_SLOTS; i++) {
			assert_true(l.slots[i].key_off + cow_luks_material_bytes(&l) <=
				    l.payload_off);
			assert_true(!l.slots[i].active ||
				    l.slots[i].iterations <= COW_LUKS_MAX_ITERATIONS);
		}
	}
}

/* ---- format and unlock ---- */

struct fixture {
	struct memory_host *m;
	struct cow_file *file;
	struct cow_secret *right, *wrong;
	struct cow_luks_format format;
	struct cow_error err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->m = memory_host_new();
	f->m->host.ops->open(&f->m->host, "image", COW_OPEN_WRITE, &f->file, &f->err);
	f->right = secret_of("correct horse");
	f->wrong = secret_of("correct horse\n");
	cow_luks_format_default(&f->format);
	f->format.iter_ms = 1;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	f->m->host.ops->close(f->file);
	memory_host_free(f->m);
	cow_secret_free(f->right);
	cow_secret_free(f->wrong);
	free(f);
	return 0;
}

static void must_format(struct fixture *f)
{
	uint64_t bytes = cow_luks_format_bytes(&f->format);
	assert_int_equal(cow_loop_resize(&f->m->loop, f->file, AREA_OFF + bytes), 0);
	assert_int_equal(
		cow_luks_format(&f->m->loop, f->file, AREA_OFF, &f->format, f->right, &f->err), 0);
}

static struct cow_luks must_load(struct fixture *f)
{
	struct cow_luks l;
	assert_int_equal(cow_luks_load(&f->m->loop, f->file, AREA_OFF,
				       cow_luks_format_bytes(&f->format), &l, &f->err),
			 0);
	return l;
}

static int unlock(struct fixture *f, const struct cow_luks *l, const struct cow_secret *secret,
		  struct cow_crypt_key **key)
{
	f->err = (struct cow_error){ 0 };
	return cow_luks_unlock(&f->m->loop, f->file, l, secret, key, &f->err);
}

static void formatted_is_unlocked(void **state)
{
	static const struct cow_crypt_cipher ciphers[] = {
		{ COW_CRYPT_XTS, COW_CRYPT_PLAIN64, 64 },
		{ COW_CRYPT_XTS, COW_CRYPT_PLAIN, 32 },
		{ COW_CRYPT_CBC, COW_CRYPT_ESSIV_SHA256, 32 },
		{ COW_CRYPT_CBC, COW_CRYPT_PLAIN64, 16 },
		{ COW_CRYPT_CBC, COW_CRYPT_PLAIN64, 24 }, /* material of half sectors */
	};
	struct fixture *f = *state;
	for (size_t i = 0; i < sizeof(ciphers) / sizeof(ciphers[0]); i++) {
		struct cow_crypt_key *key = NULL;
		f->format.cipher = ciphers[i];
		f->format.hash_name = i % 2 ? "sha512" : "sha1";
		must_format(f);
		struct cow_luks l = must_load(f);
		assert_int_equal(unlock(f, &l, f->right, &key), 0);
		assert_memory_equal(cow_crypt_key_cipher(key), &ciphers[i], sizeof(ciphers[i]));
		assert_false(cow_crypt_key_uses_guest_offset(key));
		cow_crypt_key_free(key);
		key = NULL;
		assert_int_equal(unlock(f, &l, f->wrong, &key), -EACCES);
		assert_non_null(strstr(f->err.text, "wrong passphrase"));
		assert_non_null(strstr(f->err.text, "newline"));
		assert_null(key);
	}
}

static void keys_are_fresh(void **state)
{
	struct fixture *f = *state;
	must_format(f);
	struct cow_luks a = must_load(f);
	must_format(f);
	struct cow_luks b = must_load(f);
	assert_memory_not_equal(a.digest, b.digest, sizeof(a.digest));
	assert_memory_not_equal(a.digest_salt, b.digest_salt, sizeof(a.digest_salt));
	assert_memory_not_equal(a.slots[0].salt, b.slots[0].salt, sizeof(a.slots[0].salt));
	assert_string_not_equal(a.uuid, b.uuid);
}

/* One bit of the material: the key is gone. */
static void damaged_material(void **state)
{
	struct fixture *f = *state;
	struct cow_crypt_key *key;
	must_format(f);
	struct cow_luks l = must_load(f);
	f->m->bytes[AREA_OFF + l.slots[0].key_off + 123456] ^= 4;
	assert_int_equal(unlock(f, &l, f->right, &key), -EACCES);
}

static void no_active_slot(void **state)
{
	struct fixture *f = *state;
	struct cow_crypt_key *key;
	must_format(f);
	struct cow_luks l = must_load(f);
	l.slots[0].active = false;
	assert_int_equal(unlock(f, &l, f->right, &key), -EACCES);
	assert_non_null(strstr(f->err.text, "no key slot is active"));
}

static void unreadable_material(void **state)
{
	struct fixture *f = *state;
	struct cow_crypt_key *key;
	must_format(f);
	struct cow_luks l = must_load(f);
	f->m->fail_kind = COW_IO_READ;
	f->m->fail_error = -EIO;
	assert_int_equal(unlock(f, &l, f->right, &key), -EIO);
	assert_non_null(strstr(f->err.text, "cannot read"));
}

/* A slot that cannot be read does not hide the one that the passphrase opens. */
static void unreadable_slot_of_two(void **state)
{
	struct fixture *f = *state;
	struct cow_crypt_key *key;
	must_format(f);
	struct cow_luks l = must_load(f);
	l.slots[1] = l.slots[0];
	f->m->fail_kind = COW_IO_READ;
	f->m->fail_error = -EIO;
	assert_int_equal(unlock(f, &l, f->right, &key), 0);
	cow_crypt_key_free(key);
}

static void header_past_the_end(void **state)
{
	struct fixture *f = *state;
	struct cow_luks l;
	uint64_t bytes = cow_luks_format_bytes(&f->format);
	must_format(f);
	assert_int_equal(cow_luks_load(&f->m->loop, f->file, AREA_OFF + 512, bytes, &l, &f->err),
			 -EINVAL);
	assert_non_null(strstr(f->err.text, "past the end"));
	assert_int_equal(cow_luks_load(&f->m->loop, f->file, UINT64_MAX - 511, bytes, &l, NULL),
			 -EINVAL);
}

/* ---- an image's key ---- */

static int open_image(struct fixture *f, uint32_t method, const struct cow_secret *const *secrets,
		      size_t nr, struct cow_crypt_key **key)
{
	struct cow_header h = { .crypt_method = method };
	struct cow_extensions ext = { .has_crypto = true,
				      .crypto_off = AREA_OFF,
				      .crypto_bytes = cow_luks_format_bytes(&f->format) };
	f->err = (struct cow_error){ 0 };
	return cow_unlock_key(&(struct cow_locked){ &f->m->loop, f->file, &h, &ext }, secrets, nr,
			      key, &f->err);
}

static void any_secret_opens(void **state)
{
	struct fixture *f = *state;
	const struct cow_secret *secrets[] = { f->wrong, f->right };
	struct cow_crypt_key *key;
	must_format(f);
	assert_int_equal(open_image(f, QCOW2_CRYPT_NONE, NULL, 0, &key), 0);
	assert_null(key);
	assert_int_equal(open_image(f, QCOW2_CRYPT_LUKS, secrets, 2, &key), 0);
	assert_non_null(key);
	cow_crypt_key_free(key);
	assert_int_equal(open_image(f, QCOW2_CRYPT_LUKS, secrets, 1, &key), -EACCES);
	assert_null(key);
	assert_int_equal(open_image(f, QCOW2_CRYPT_LUKS, NULL, 0, &key), -EACCES);
	assert_non_null(strstr(f->err.text, "--key-file"));
}

static void legacy_takes_one_secret(void **state)
{
	struct fixture *f = *state;
	const struct cow_secret *secrets[] = { f->right, f->wrong };
	struct cow_crypt_key *key;
	assert_int_equal(open_image(f, QCOW2_CRYPT_AES, secrets, 2, &key), -EACCES);
	assert_int_equal(open_image(f, QCOW2_CRYPT_AES, secrets, 1, &key), 0);
	assert_true(cow_crypt_key_uses_guest_offset(key));
	cow_crypt_key_free(key);
}

static void calibration_is_bounded(void **state)
{
	uint32_t one = cow_luks_calibrate("sha256", 64, 1),
		 hundred = cow_luks_calibrate("sha256", 64, 100);
	assert_true(one >= 1000 && hundred > one);
	assert_true(cow_luks_calibrate("sha256", 64, 0) == 1000);
	assert_true(cow_luks_calibrate("sha256", 16, 4000000000u) <= COW_LUKS_MAX_ITERATIONS / 2);
}

#define WITH_FILE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(derivation_by_rfc),
		cmocka_unit_test(split_and_merge),
		cmocka_unit_test(split_by_hand),
		cmocka_unit_test(one_broken_field),
		cmocka_unit_test(names_without_an_end),
		cmocka_unit_test(too_much_work),
		cmocka_unit_test(sound_header_survives),
		cmocka_unit_test(random_damage),
		WITH_FILE(formatted_is_unlocked),
		WITH_FILE(keys_are_fresh),
		WITH_FILE(damaged_material),
		WITH_FILE(no_active_slot),
		WITH_FILE(unreadable_material),
		WITH_FILE(unreadable_slot_of_two),
		WITH_FILE(header_past_the_end),
		WITH_FILE(any_secret_opens),
		WITH_FILE(legacy_takes_one_secret),
		cmocka_unit_test(calibration_is_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
