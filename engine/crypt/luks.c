/* SPDX-License-Identifier: MIT */
/* Unlocking: header -> passphrase -> the image's key. */
#include "engine/crypt/luks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/crypt/luks_header.h"
#include "engine/crypt/luks_slot.h"
#include "engine/crypt/luks_work.h"
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

static int find_slot(const struct cow_luks_area *area, const struct cow_secret *secret,
		     struct cow_error *err)
{
	struct cow_error unread = { 0 };
	for (unsigned i = 0; i < LUKS1_SLOTS; i++) {
		/* Another slot may be whole, and the passphrase be that one's. */
		if (area->luks->slots[i].active && !cow_luks_slot_try(area, i, secret, &unread))
			return 0;
	}
	if (unread.code)
		return cow_error_set(err, unread.code,
				     "%s; the passphrase opens none of the other key slots",
				     unread.text);
	return wrong_passphrase(area->luks, secret, err);
}

int cow_luks_unlock(struct cow_loop *loop, struct cow_file *file, const struct cow_luks *luks,
		    const struct cow_secret *secret, struct cow_crypt_key **key,
		    struct cow_error *err)
{
	struct cow_luks_area area = { loop, file, luks, cow_luks_work_new(luks) };
	if (!area.work)
		return cow_error_no_memory(err);
	int ret = find_slot(&area, secret, err);
	if (!ret) {
		ret = cow_crypt_key_new(&luks->cipher, area.work->key, key);
		if (ret)
			cow_error_set(err, ret, "LUKS key: %s", strerror(-ret));
	}
	cow_luks_work_free(area.work);
	return ret;
}
