/* SPDX-License-Identifier: MIT */
#include "engine/crypt/luks_work.h"

#include "engine/crypt/luks_header.h"
#include "engine/crypt/luks_kdf.h"

struct cow_luks_work *cow_luks_work_new(const struct cow_luks *luks)
{
	size_t bytes = cow_luks_material_bytes(luks);
	struct cow_luks_work *work = cow_secret_memory_new(sizeof(*work) + bytes);
	if (work)
		work->material_bytes = bytes;
	return work;
}

void cow_luks_work_free(struct cow_luks_work *work)
{
	if (work)
		cow_secret_memory_free(work, sizeof(*work) + work->material_bytes);
}

int cow_luks_work_slot_key(const struct cow_luks *luks, const struct cow_luks_slot *slot,
			   const struct cow_secret *secret, struct cow_luks_work *work)
{
	return cow_luks_derive(luks->hash_name, secret->data, secret->bytes, slot->salt,
			       sizeof(slot->salt), slot->iterations, work->slot_key,
			       luks->cipher.key_bytes);
}

enum direction { ENCRYPT, DECRYPT };

static int crypt_material(const struct cow_luks *luks, struct cow_luks_work *work,
			  enum direction direction)
{
	struct cow_crypt_key *key = NULL;
	struct cow_crypt *crypt = NULL;
	int ret = cow_crypt_key_new(&luks->cipher, work->slot_key, &key);
	if (!ret)
		ret = cow_crypt_new(key, &crypt);
	if (!ret && direction == ENCRYPT)
		ret = cow_crypt_encrypt(crypt, 0, work->material, work->material,
					work->material_bytes);
	else if (!ret)
		ret = cow_crypt_decrypt(crypt, 0, work->material, work->material_bytes);
	cow_crypt_free(crypt);
	cow_crypt_key_free(key);
	return ret;
}

int cow_luks_work_encrypt(const struct cow_luks *luks, struct cow_luks_work *work)
{
	return crypt_material(luks, work, ENCRYPT);
}

int cow_luks_work_decrypt(const struct cow_luks *luks, struct cow_luks_work *work)
{
	return crypt_material(luks, work, DECRYPT);
}

int cow_luks_work_digest(const struct cow_luks *luks, struct cow_luks_work *work)
{
	return cow_luks_derive(luks->hash_name, work->key, luks->cipher.key_bytes,
			       luks->digest_salt, sizeof(luks->digest_salt),
			       luks->digest_iterations, work->digest, sizeof(work->digest));
}
