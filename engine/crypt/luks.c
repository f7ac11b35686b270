/* SPDX-License-Identifier: MIT */
/* Unlocking: header -> passphrase -> the image's key. */
#include "engine/crypt/luks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#include "engine/base/buf.h"
#include "engine/crypt/luks_header.h"
#include "engine/crypt/luks_work.h"
#include "engine/crypt/luks_kdf.h"
#include "engine/loop/blocking.h"

#define HEADER_READ_BYTES 4096u

int cow_luks_load(struct cow_loop *loop, struct cow_file *file, uint64_t off, uint64_t area_bytes,
		  struct cow_luks *luks, struct cow_error *err)
{
	if (off > file->size_bytes || area_bytes > file->size_bytes - off)
		return cow_error_set(err, -EINVAL,
				     "LUKS header at offset %" PRIu64 ": %" PRIu64
				     " bytes run past the end "
				     "of the file",
				     off, area_bytes);
	uint8_t *buf = cow_buf_alloc(HEADER_READ_BYTES);
	if (!buf)
		return cow_error_no_memory(err);
	int ret = cow_loop_read(loop, file, off, buf, HEADER_READ_BYTES);
	if (ret)
		cow_error_set(err, ret, "LUKS header: cannot read: %s", strerror(-ret));
	else
		ret = cow_luks_decode(buf, area_bytes, luks, err);
	luks->area_off = off;
	free(buf);
	return ret;
}

/* ---- unlocking ---- */

static int read_material(struct cow_loop *loop, struct cow_file *file, uint64_t off,
			 struct cow_luks_work *work, struct cow_error *err)
{
	uint8_t *buf = cow_buf_alloc(work->material_bytes); /* still enciphered: needs no lock */
	if (!buf)
		return cow_error_no_memory(err);
	int ret = cow_loop_read(loop, file, off, buf, work->material_bytes);
	if (ret)
		cow_error_set(err, ret, "LUKS key material at offset %" PRIu64 ": cannot read: %s",
			      off, strerror(-ret));
	else
		memcpy(work->material, buf, work->material_bytes);
	free(buf);
	return ret;
}

/* -EACCES: the passphrase is not this slot's. Else work->key is the master key. */
static int try_slot(const struct cow_luks *luks, const struct cow_luks_slot *slot,
		    const struct cow_secret *secret, struct cow_luks_work *work)
{
	int ret = cow_luks_work_slot_key(luks, slot, secret, work);
	if (!ret)
		ret = cow_luks_work_decrypt(luks, work);
	if (!ret)
		ret = cow_luks_merge(luks->hash_name, work->material, luks->cipher.key_bytes,
				     LUKS1_STRIPES, work->key);
	if (!ret)
		ret = cow_luks_work_digest(luks, work);
	if (ret)
		return ret;
	return CRYPTO_memcmp(work->digest, luks->digest, sizeof(luks->digest)) ? -EACCES : 0;
}

static int wrong_passphrase(const struct cow_luks *luks, const struct cow_secret *secret,
			    struct cow_error *err)
{
	unsigned active = 0;
	for (unsigned i = 0; i < LUKS1_SLOTS; i++)
		active += luks->slots[i].active;
	if (!active)
		return cow_error_set(
			err, -EACCES,
			"no key slot is active: this image cannot be unlocked any more");
	bool newline = secret->bytes && secret->data[secret->bytes - 1] == '\n';
	return cow_error_set(err, -EACCES, "wrong passphrase: it opens no key slot (%u in use)%s",
			     active, newline ? "; it ends with a newline, which counts" : "");
}

static int find_slot(struct cow_loop *loop, struct cow_file *file, const struct cow_luks *luks,
		     const struct cow_secret *secret, struct cow_luks_work *work,
		     struct cow_error *err)
{
	struct cow_error unread = { 0 };
	for (unsigned i = 0; i < LUKS1_SLOTS; i++) {
		const struct cow_luks_slot *slot = &luks->slots[i];
		if (!slot->active)
			continue;
		/* Another slot may be whole, and the passphrase be that one's. */
		if (read_material(loop, file, luks->area_off + slot->key_off, work, &unread))
			continue;
		int ret = try_slot(luks, slot, secret, work);
		if (ret != -EACCES)
			return ret ? cow_error_set(err, ret, "LUKS key slot %u: %s", i,
						   strerror(-ret))
				   : 0;
	}
	if (unread.code)
		return cow_error_set(err, unread.code,
				     "%s; the passphrase opens none of the other key slots",
				     unread.text);
	return wrong_passphrase(luks, secret, err);
}

int cow_luks_unlock(struct cow_loop *loop, struct cow_file *file, const struct cow_luks *luks,
		    const struct cow_secret *secret, struct cow_crypt_key **key,
		    struct cow_error *err)
{
	struct cow_luks_work *work = cow_luks_work_new(luks);
	if (!work)
		return cow_error_no_memory(err);
	int ret = find_slot(loop, file, luks, secret, work, err);
	if (!ret) {
		ret = cow_crypt_key_new(&luks->cipher, work->key, key);
		if (ret)
			cow_error_set(err, ret, "LUKS key: %s", strerror(-ret));
	}
	cow_luks_work_free(work);
	return ret;
}
