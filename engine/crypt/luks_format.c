/* SPDX-License-Identifier: MIT */
/*
 * A new LUKS header, laid out as QEMU and cryptsetup do it: the header, then from 4096 on the
 * material of the eight slots.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "engine/base/buf.h"
#include "engine/crypt/luks_format.h"
#include "engine/crypt/luks_header.h"
#include "engine/crypt/luks_work.h"
#include "engine/crypt/luks_kdf.h"
#include "engine/loop/blocking.h"

#define DEFAULT_ITER_MS 1000u
#define MAX_ITER_MS 60000u
#define DIGEST_SHARE 8u /* a digest's iterations: this part of a slot's, as QEMU does it */
#define MIN_ITERATIONS 1000u

/* ---- options ---- */

void cow_luks_format_default(struct cow_luks_format *format)
{
	*format = (struct cow_luks_format){
		.cipher = { COW_CRYPT_XTS, COW_CRYPT_PLAIN64, 64 },
		.hash_name = "sha256",
		.iter_ms = DEFAULT_ITER_MS,
	};
}

int cow_luks_format_check(const struct cow_luks_format *format, struct cow_error *err)
{
	if (!cow_luks_mode_name(&format->cipher) || !cow_crypt_cipher_valid(&format->cipher))
		return cow_error_set(
			err, -ENOTSUP,
			"encryption: a key of %u bits does not go with this cipher mode",
			format->cipher.key_bytes * 8);
	if (!cow_luks_hash_known(format->hash_name))
		return cow_error_set(err, -ENOTSUP, "encryption: hash %s is not supported",
				     format->hash_name);
	if (format->iter_ms > MAX_ITER_MS)
		return cow_error_set(err, -EINVAL,
				     "encryption: iteration time of %u ms: at most %u",
				     format->iter_ms, MAX_ITER_MS);
	return 0;
}

static uint64_t slot_bytes(const struct cow_crypt_cipher *cipher)
{
	uint64_t bytes = (uint64_t)cipher->key_bytes * LUKS1_STRIPES;
	return (bytes + LUKS1_ALIGN_BYTES - 1) / LUKS1_ALIGN_BYTES * LUKS1_ALIGN_BYTES;
}

uint64_t cow_luks_format_bytes(const struct cow_luks_format *format)
{
	return LUKS1_ALIGN_BYTES + LUKS1_SLOTS * slot_bytes(&format->cipher);
}

/* ---- the header ---- */

/* Random, version 4. */
static bool make_uuid(char uuid[LUKS1_UUID_BYTES])
{
	uint8_t r[16];
	if (RAND_bytes(r, sizeof(r)) != 1)
		return false;
	r[6] = (r[6] & 0x0f) | 0x40;
	r[8] = (r[8] & 0x3f) | 0x80;
	snprintf(uuid, LUKS1_UUID_BYTES,
		 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", r[0], r[1],
		 r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11], r[12], r[13], r[14],
		 r[15]);
	return true;
}

static int make_header(const struct cow_luks_format *format, struct cow_luks *l)
{
	unsigned ms = format->iter_ms ? format->iter_ms : DEFAULT_ITER_MS;
	uint32_t iterations = cow_luks_calibrate(format->hash_name, format->cipher.key_bytes, ms);
	uint32_t digest_iterations = iterations / DIGEST_SHARE;
	memset(l, 0, sizeof(*l));
	strcpy(l->cipher_name, "aes");
	snprintf(l->cipher_mode, sizeof(l->cipher_mode), "%s", cow_luks_mode_name(&format->cipher));
	snprintf(l->hash_name, sizeof(l->hash_name), "%s", format->hash_name);
	l->cipher = format->cipher;
	l->payload_off = cow_luks_format_bytes(format);
	l->digest_iterations =
		digest_iterations < MIN_ITERATIONS ? MIN_ITERATIONS : digest_iterations;
	for (unsigned i = 0; i < LUKS1_SLOTS; i++)
		l->slots[i].key_off = LUKS1_ALIGN_BYTES + i * slot_bytes(&format->cipher);
	l->slots[0].active = true;
	l->slots[0].iterations = iterations;
	bool ok = make_uuid(l->uuid) && RAND_bytes(l->digest_salt, sizeof(l->digest_salt)) == 1 &&
		  RAND_bytes(l->slots[0].salt, sizeof(l->slots[0].salt)) == 1;
	return ok ? 0 : -EIO;
}

/* A fresh master key; its digest goes into the header, itself into the material, enciphered. */
static int make_key(struct cow_luks *l, const struct cow_secret *secret, struct cow_luks_work *work)
{
	bool ok = RAND_priv_bytes(work->key, (int)l->cipher.key_bytes) == 1 &&
		  RAND_priv_bytes(work->material, (int)work->material_bytes) == 1;
	int ret = ok ? cow_luks_work_digest(l, work) : -EIO;
	if (!ret) {
		memcpy(l->digest, work->digest, sizeof(l->digest));
		ret = cow_luks_split(l->hash_name, work->key, l->cipher.key_bytes, LUKS1_STRIPES,
				     work->material);
	}
	if (!ret)
		ret = cow_luks_work_slot_key(l, &l->slots[0], secret, work);
	if (!ret)
		ret = cow_luks_work_encrypt(l, work);
	return ret;
}

/* ---- writing ---- */

/* buf is what the file gets from off on: header, zeros, material of slot 0. */
static int write_header(struct cow_loop *loop, struct cow_file *file, uint64_t off,
			const struct cow_luks *l, const struct cow_luks_work *work)
{
	size_t bytes = LUKS1_ALIGN_BYTES + work->material_bytes;
	uint8_t *buf = cow_buf_alloc(bytes);
	if (!buf)
		return -ENOMEM;
	cow_luks_encode(l, buf);
	memcpy(buf + l->slots[0].key_off, work->material, work->material_bytes);
	int ret = cow_loop_write(loop, file, off, buf, bytes);
	free(buf);
	return ret;
}

int cow_luks_format(struct cow_loop *loop, struct cow_file *file, uint64_t off,
		    const struct cow_luks_format *format, const struct cow_secret *secret,
		    struct cow_error *err)
{
	struct cow_luks l;
	struct cow_luks_work *work = NULL;
	int ret = cow_luks_format_check(format, err);
	if (!ret)
		ret = make_header(format, &l);
	if (!ret) {
		work = cow_luks_work_new(&l);
		ret = work ? make_key(&l, secret, work) : -ENOMEM;
	}
	if (!ret)
		ret = write_header(loop, file, off, &l, work);
	cow_luks_work_free(work);
	return ret ? cow_error_set(err, ret, "LUKS header: cannot make it: %s", strerror(-ret)) : 0;
}
