/* SPDX-License-Identifier: MIT */
/* The LUKS header: decode, verify, encode. Pure. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/base/be.h"
#include "engine/crypt/luks_header.h"
#include "engine/crypt/luks_work.h"
#include "engine/crypt/luks_kdf.h"

#define AT(field) offsetof(struct luks1_header_be, field)
#define MATERIAL_START                                                                             \
	LUKS1_SECTOR_BYTES * 2ull /* no key material before: the header itself, in whole sectors */

static int bad(struct cow_error *err, const char *what, size_t at, uint64_t value, const char *rule)
{
	return cow_error_set(err, -EINVAL, "LUKS header: %s at offset %zu: %" PRIu64 " %s", what,
			     at, value, rule);
}

/* ---- names ---- */

static const struct {
	const char *name;
	enum cow_crypt_mode mode;
	enum cow_crypt_iv iv;
} modes[] = {
	{ "xts-plain64", COW_CRYPT_XTS, COW_CRYPT_PLAIN64 },
	{ "xts-plain", COW_CRYPT_XTS, COW_CRYPT_PLAIN },
	{ "xts-essiv:sha256", COW_CRYPT_XTS, COW_CRYPT_ESSIV_SHA256 },
	{ "cbc-plain64", COW_CRYPT_CBC, COW_CRYPT_PLAIN64 },
	{ "cbc-plain", COW_CRYPT_CBC, COW_CRYPT_PLAIN },
	{ "cbc-essiv:sha256", COW_CRYPT_CBC, COW_CRYPT_ESSIV_SHA256 },
};
#define NR_MODES (sizeof(modes) / sizeof(modes[0]))

const char *cow_luks_mode_name(const struct cow_crypt_cipher *cipher)
{
	for (size_t i = 0; i < NR_MODES; i++)
		if (modes[i].mode == cipher->mode && modes[i].iv == cipher->iv)
			return modes[i].name;
	return NULL;
}

static bool find_mode(const char *name, struct cow_crypt_cipher *cipher)
{
	for (size_t i = 0; i < NR_MODES; i++) {
		if (!strcmp(modes[i].name, name)) {
			cipher->mode = modes[i].mode;
			cipher->iv = modes[i].iv;
			return true;
		}
	}
	return false;
}

/* A name is shown to the user: letters, digits and a few signs only. */
static int load_name(const uint8_t *buf, size_t at, const char *what, char out[LUKS1_NAME_BYTES],
		     struct cow_error *err)
{
	size_t len = strnlen((const char *)buf + at, LUKS1_NAME_BYTES);
	if (len == LUKS1_NAME_BYTES)
		return cow_error_set(err, -EINVAL, "LUKS header: %s at offset %zu: has no end",
				     what, at);
	for (size_t i = 0; i < len; i++)
		if (buf[at + i] <= ' ' || buf[at + i] > '~')
			return cow_error_set(
				err, -EINVAL,
				"LUKS header: %s at offset %zu: holds a byte that is no "
				"letter",
				what, at);
	memset(out, 0, LUKS1_NAME_BYTES);
	memcpy(out, buf + at, len);
	return 0;
}

static int load_names(const uint8_t *buf, struct cow_luks *l, struct cow_error *err)
{
	int ret = load_name(buf, AT(cipher_name), "cipher name", l->cipher_name, err);
	if (!ret)
		ret = load_name(buf, AT(cipher_mode), "cipher mode", l->cipher_mode, err);
	if (!ret)
		ret = load_name(buf, AT(hash_name), "hash name", l->hash_name, err);
	return ret;
}

static int load_cipher(const uint8_t *buf, struct cow_luks *l, struct cow_error *err)
{
	int ret = load_names(buf, l, err);
	if (ret)
		return ret;
	l->cipher.key_bytes = cow_load32_be(buf + AT(key_bytes));
	if (strcmp(l->cipher_name, "aes"))
		return cow_error_set(err, -ENOTSUP, "LUKS cipher %s is not supported: only aes is",
				     l->cipher_name);
	if (!find_mode(l->cipher_mode, &l->cipher))
		return cow_error_set(
			err, -ENOTSUP,
			"LUKS cipher mode %s is not supported: only xts and cbc with plain64, "
			"plain or essiv:sha256 are",
			l->cipher_mode);
	if (!cow_crypt_cipher_valid(&l->cipher))
		return cow_error_set(err, -ENOTSUP,
				     "LUKS key of %" PRIu32 " bytes for aes-%s is not supported",
				     l->cipher.key_bytes, l->cipher_mode);
	if (!cow_luks_hash_known(l->hash_name))
		return cow_error_set(err, -ENOTSUP, "LUKS hash %s is not supported", l->hash_name);
	return 0;
}

/* ---- slots ---- */

static uint64_t round_up(uint64_t n, uint64_t unit)
{
	return (n + unit - 1) / unit * unit;
}

uint64_t cow_luks_material_bytes(const struct cow_luks *luks)
{
	return round_up((uint64_t)luks->cipher.key_bytes * LUKS1_STRIPES, LUKS1_SECTOR_BYTES);
}

static int load_slot(const uint8_t *buf, unsigned i, struct cow_luks *l, struct cow_error *err)
{
	struct cow_luks_slot *s = &l->slots[i];
	size_t at = AT(slots) + i * sizeof(struct luks1_slot_be);
	uint32_t active = cow_load32_be(buf + at), stripes = cow_load32_be(buf + at + 44);
	if (active != LUKS1_SLOT_ACTIVE && active != LUKS1_SLOT_INACTIVE)
		return bad(err, "key slot state", at, active, "is neither active nor inactive");
	s->active = active == LUKS1_SLOT_ACTIVE;
	s->iterations = cow_load32_be(buf + at + 4);
	memcpy(s->salt, buf + at + 8, LUKS1_SALT_BYTES);
	s->key_off = (uint64_t)cow_load32_be(buf + at + 40) * LUKS1_SECTOR_BYTES;
	if (stripes != LUKS1_STRIPES)
		return bad(err, "key slot stripes", at + 44, stripes, "is not 4000");
	if (s->active && (!s->iterations || s->iterations > COW_LUKS_MAX_ITERATIONS))
		return bad(err, "key slot iterations", at + 4, s->iterations,
			   "is 0 or more than 2^27");
	if (s->key_off < MATERIAL_START || s->key_off + cow_luks_material_bytes(l) > l->payload_off)
		return bad(err, "key slot material", at + 40, s->key_off,
			   "lies outside the header's area");
	return 0;
}

static int verify_apart(const struct cow_luks *l, struct cow_error *err)
{
	uint64_t bytes = cow_luks_material_bytes(l);
	for (unsigned i = 0; i < LUKS1_SLOTS; i++) {
		for (unsigned k = 0; k < i; k++) {
			uint64_t a = l->slots[i].key_off, b = l->slots[k].key_off;
			if (a < b + bytes && b < a + bytes)
				return bad(err, "key slot material",
					   AT(slots) + i * sizeof(struct luks1_slot_be) + 40, a,
					   "overlaps another slot's");
		}
	}
	return 0;
}

/* A wrong passphrase is tried on every active slot. */
static int verify_work(const struct cow_luks *l, struct cow_error *err)
{
	uint64_t work = 0;
	for (unsigned i = 0; i < LUKS1_SLOTS; i++)
		if (l->slots[i].active)
			work += (uint64_t)l->slots[i].iterations + l->digest_iterations;
	if (work > COW_LUKS_MAX_WORK)
		return bad(err, "iterations of all key slots", AT(slots), work,
			   "are more than 2^28");
	return 0;
}

static int load_slots(const uint8_t *buf, struct cow_luks *l, struct cow_error *err)
{
	for (unsigned i = 0; i < LUKS1_SLOTS; i++) {
		int ret = load_slot(buf, i, l, err);
		if (ret)
			return ret;
	}
	int ret = verify_apart(l, err);
	return ret ? ret : verify_work(l, err);
}

/* ---- the whole ---- */

int cow_luks_decode(const uint8_t *buf, uint64_t area_bytes, struct cow_luks *l,
		    struct cow_error *err)
{
	memset(l, 0, sizeof(*l));
	if (memcmp(buf, LUKS1_MAGIC, LUKS1_MAGIC_BYTES))
		return cow_error_set(err, -EINVAL, "LUKS header: magic at offset 0 is wrong");
	unsigned version = cow_load16_be(buf + AT(version));
	if (version != LUKS1_VERSION)
		return cow_error_set(err, -ENOTSUP,
				     "LUKS version %u is not supported: only version 1 is",
				     version);
	int ret = load_cipher(buf, l, err);
	if (ret)
		return ret;
	l->payload_off = (uint64_t)cow_load32_be(buf + AT(payload_offset)) * LUKS1_SECTOR_BYTES;
	if (l->payload_off > area_bytes)
		return bad(err, "payload offset", AT(payload_offset), l->payload_off,
			   "is past the encryption header's end");
	memcpy(l->digest, buf + AT(digest), sizeof(l->digest));
	memcpy(l->digest_salt, buf + AT(digest_salt), sizeof(l->digest_salt));
	l->digest_iterations = cow_load32_be(buf + AT(digest_iterations));
	if (!l->digest_iterations || l->digest_iterations > COW_LUKS_MAX_ITERATIONS)
		return bad(err, "digest iterations", AT(digest_iterations), l->digest_iterations,
			   "is 0 or more than 2^27");
	memcpy(l->uuid, buf + AT(uuid), sizeof(l->uuid) - 1);
	return load_slots(buf, l, err);
}

static void encode_slot(const struct cow_luks_slot *s, uint8_t *buf)
{
	cow_store32_be(buf, s->active ? LUKS1_SLOT_ACTIVE : LUKS1_SLOT_INACTIVE);
	cow_store32_be(buf + 4, s->iterations);
	memcpy(buf + 8, s->salt, LUKS1_SALT_BYTES);
	cow_store32_be(buf + 40, (uint32_t)(s->key_off / LUKS1_SECTOR_BYTES));
	cow_store32_be(buf + 44, LUKS1_STRIPES);
}

void cow_luks_encode(const struct cow_luks *l, uint8_t *buf)
{
	memset(buf, 0, sizeof(struct luks1_header_be));
	memcpy(buf, LUKS1_MAGIC, LUKS1_MAGIC_BYTES);
	cow_store16_be(buf + AT(version), LUKS1_VERSION);
	memcpy(buf + AT(cipher_name), l->cipher_name, LUKS1_NAME_BYTES);
	memcpy(buf + AT(cipher_mode), l->cipher_mode, LUKS1_NAME_BYTES);
	memcpy(buf + AT(hash_name), l->hash_name, LUKS1_NAME_BYTES);
	cow_store32_be(buf + AT(payload_offset), (uint32_t)(l->payload_off / LUKS1_SECTOR_BYTES));
	cow_store32_be(buf + AT(key_bytes), l->cipher.key_bytes);
	memcpy(buf + AT(digest), l->digest, sizeof(l->digest));
	memcpy(buf + AT(digest_salt), l->digest_salt, sizeof(l->digest_salt));
	cow_store32_be(buf + AT(digest_iterations), l->digest_iterations);
	memcpy(buf + AT(uuid), l->uuid, sizeof(l->uuid));
	for (unsigned i = 0; i < LUKS1_SLOTS; i++)
		encode_slot(&l->slots[i], buf + AT(slots) + i * sizeof(struct luks1_slot_be));
}
