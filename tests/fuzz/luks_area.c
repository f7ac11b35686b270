/* SPDX-License-Identifier: MIT */
#include "tests/fuzz/luks_area.h"

#include <string.h>

#include "engine/base/assert.h"
#include "engine/crypt/luks_header.h"
#include "engine/crypt/luks_work.h"
#include "engine/crypt/luks_kdf.h"
#include "engine/crypt/secret.h"

#define SLOT_BYTES (64u << 10)

const struct cow_secret *luks_area_secret(void)
{
	static struct cow_secret *secret;
	if (!secret) {
		secret = cow_secret_new();
		cow_assert(secret);
		secret->bytes = 4;
		memcpy(secret->data, "fuzz", 4);
	}
	return secret;
}

static void fill_header(struct cow_luks *l)
{
	memset(l, 0, sizeof(*l));
	l->cipher = (struct cow_crypt_cipher){ COW_CRYPT_CBC, COW_CRYPT_ESSIV_SHA256, 16 };
	strcpy(l->cipher_name, "aes");
	strcpy(l->cipher_mode, cow_luks_mode_name(&l->cipher));
	strcpy(l->hash_name, "sha256");
	l->payload_off = LUKS_AREA_BYTES;
	l->digest_iterations = 1;
	for (unsigned i = 0; i < LUKS1_SLOTS; i++)
		l->slots[i].key_off = LUKS1_ALIGN_BYTES + i * SLOT_BYTES;
	l->slots[0].active = true;
	l->slots[0].iterations = 1;
}

/* The master key is zeros. */
static void make_area(uint8_t *area)
{
	struct cow_luks l;
	fill_header(&l);
	struct cow_luks_work *work = cow_luks_work_new(&l);
	cow_assert(work && !cow_luks_work_digest(&l, work));
	memcpy(l.digest, work->digest, sizeof(l.digest));
	cow_assert(!cow_luks_split(l.hash_name, work->key, l.cipher.key_bytes, LUKS1_STRIPES,
				   work->material));
	cow_assert(!cow_luks_work_slot_key(&l, &l.slots[0], luks_area_secret(), work));
	cow_assert(!cow_luks_work_encrypt(&l, work));
	cow_luks_encode(&l, area);
	memcpy(area + l.slots[0].key_off, work->material, work->material_bytes);
	cow_luks_work_free(work);
}

void luks_area_put(struct memory_content *c)
{
	static uint8_t area[LUKS_AREA_BYTES];
	static bool made;
	if (!made)
		make_area(area);
	made = true;
	memory_content_write(c, LUKS_AREA_OFF, area, sizeof(area));
	memory_content_resize(c, LUKS_AREA_OFF + LUKS_AREA_BYTES);
}
