/* SPDX-License-Identifier: MIT */
#include "engine/crypt/unlock.h"

#include <errno.h>
#include <string.h>

#include "engine/base/log.h"
#include "engine/crypt/luks.h"

static int open_luks(const struct cow_locked *image, const struct cow_secret *const *secrets,
		     size_t nr, struct cow_crypt_key **out, struct cow_error *err)
{
	struct cow_luks luks;
	struct cow_error last = { 0 };
	int ret = cow_luks_load(image->loop, image->file, image->ext->crypto_off,
				image->ext->crypto_bytes, &luks, err);
	if (ret)
		return ret;
	for (size_t i = 0; i < nr; i++) {
		struct cow_error own = { 0 };
		ret = cow_luks_unlock(image->loop, image->file, &luks, secrets[i], out, &own);
		if (!ret)
			return 0;
		/* What could not be read explains more than what did not fit. */
		if (!last.code || last.code == -EACCES)
			last = own;
	}
	return cow_error_set(err, last.code, "%s", last.text);
}

static int open_legacy(const struct cow_file *file, const struct cow_secret *const *secrets,
		       size_t nr, struct cow_crypt_key **out, struct cow_error *err)
{
	if (nr != 1)
		return cow_error_set(
			err, -EACCES,
			"%zu passphrases: legacy AES encryption cannot tell which is right: give "
			"one only",
			nr);
	cow_log(COW_LOG_WARNING,
		"%s: legacy AES encryption is weak, and a wrong passphrase goes unnoticed: convert "
		"the "
		"image to LUKS",
		file->path);
	int ret = cow_crypt_key_new_legacy(secrets[0], out);
	return ret ? cow_error_set(err, ret, "legacy AES key: %s", strerror(-ret)) : 0;
}

int cow_unlock_key(const struct cow_locked *image, const struct cow_secret *const *secrets,
		   size_t nr_secrets, struct cow_crypt_key **out, struct cow_error *err)
{
	const struct cow_header *h = image->h;
	*out = NULL;
	if (h->crypt_method == QCOW2_CRYPT_NONE)
		return 0;
	if (!nr_secrets)
		return cow_error_set(
			err, -EACCES,
			"encrypted (%s), and no passphrase is given: name its source "
			"(--key-file, --key-credential, --key-keyring or --key-prompt)",
			h->crypt_method == QCOW2_CRYPT_LUKS ? "LUKS" : "legacy AES");
	if (h->crypt_method == QCOW2_CRYPT_LUKS)
		return open_luks(image, secrets, nr_secrets, out, err);
	return open_legacy(image->file, secrets, nr_secrets, out, err);
}
