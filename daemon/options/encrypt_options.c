/* SPDX-License-Identifier: MIT */
#include "daemon/options/encrypt_options.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/number.h"
#include "engine/crypt/luks_format.h"

#define MAX_ITER_MS 60000u

void cow_encrypt_options_init(struct cow_encrypt_options *e)
{
	*e = (struct cow_encrypt_options){ .aes_bits = 256 };
	cow_luks_format_default(&e->format);
}

static bool parse_format(struct cow_encrypt_options *e, const char *value)
{
	e->wanted = true;
	return !strcmp(value, "luks");
}

/*
 * With 192 bits the key material is no whole number of sectors in CBC, at which QEMU dies; XTS has
 * no such key.
 */
static bool parse_cipher(struct cow_encrypt_options *e, const char *value)
{
	e->aes_bits = !strcmp(value, "aes-128") ? 128 : 256;
	return e->aes_bits == 128 || !strcmp(value, "aes-256");
}

static bool parse_mode(struct cow_encrypt_options *e, const char *value)
{
	e->format.cipher.mode = !strcmp(value, "cbc") ? COW_CRYPT_CBC : COW_CRYPT_XTS;
	return e->format.cipher.mode == COW_CRYPT_CBC || !strcmp(value, "xts");
}

static bool parse_ivgen(struct cow_encrypt_options *e, const char *value)
{
	static const char *const names[] = {
		[COW_CRYPT_PLAIN] = "plain",
		[COW_CRYPT_PLAIN64] = "plain64",
		[COW_CRYPT_ESSIV_SHA256] = "essiv",
	};
	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(names[i], value)) {
			e->format.cipher.iv = (enum cow_crypt_iv)i;
			return true;
		}
	}
	return false;
}

static bool parse_ivgen_hash(struct cow_encrypt_options *e, const char *value)
{
	return !strcmp(value, "sha256");
}

/* An unknown one is refused by cow_luks_format_check(). */
static bool parse_hash(struct cow_encrypt_options *e, const char *value)
{
	e->format.hash_name = value;
	return true;
}

static bool parse_iter_time(struct cow_encrypt_options *e, const char *value)
{
	uint64_t ms;
	if (!cow_number_parse(value, MAX_ITER_MS, &ms) || !ms)
		return false;
	e->format.iter_ms = (unsigned)ms;
	return true;
}

static const struct {
	const char *name;
	bool (*parse)(struct cow_encrypt_options *e, const char *value);
} values[] = {
	{ "format", parse_format },	  { "cipher-alg", parse_cipher },
	{ "cipher-mode", parse_mode },	  { "ivgen-alg", parse_ivgen },
	{ "hash-alg", parse_hash },	  { "ivgen-hash-alg", parse_ivgen_hash },
	{ "iter-time", parse_iter_time },
};

bool cow_encrypt_option_parse(struct cow_encrypt_options *e, const char *name, const char *value,
			      bool *known)
{
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		if (strcmp(values[i].name, name))
			continue;
		*known = true;
		e->modified |= values[i].parse != parse_format;
		return values[i].parse(e, value);
	}
	*known = false;
	return false;
}

void cow_encrypt_options_finish(struct cow_encrypt_options *e)
{
	e->format.cipher.key_bytes =
		e->aes_bits / 8 * (e->format.cipher.mode == COW_CRYPT_XTS ? 2 : 1);
}
