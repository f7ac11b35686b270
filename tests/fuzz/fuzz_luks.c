/* SPDX-License-Identifier: MIT */
/*
 * The LUKS header: what is accepted stays in its area and within the work that we are willing to
 * do, and encodes to itself.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/crypt/luks.h"
#include "engine/crypt/luks_header.h"

#define HEADER_BYTES sizeof(struct luks1_header_be)
#define AREA_BYTES (4u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_bounds(const struct cow_luks *l)
{
	uint64_t bytes = cow_luks_material_bytes(l);
	cow_assert(cow_crypt_cipher_valid(&l->cipher) &&
		   l->cipher.key_bytes <= COW_CRYPT_MAX_KEY_BYTES);
	cow_assert(l->payload_off <= AREA_BYTES);
	cow_assert(l->digest_iterations && l->digest_iterations <= COW_LUKS_MAX_ITERATIONS);
	for (unsigned i = 0; i < LUKS1_SLOTS; i++) {
		const struct cow_luks_slot *s = &l->slots[i];
		cow_assert(s->key_off >= HEADER_BYTES && s->key_off + bytes <= l->payload_off);
		cow_assert(!s->active ||
			   (s->iterations && s->iterations <= COW_LUKS_MAX_ITERATIONS));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cow_luks l, again;
	struct cow_error err = { 0 };
	if (size < HEADER_BYTES)
		return 0;
	/* A copy of the exact length: the sanitizer sees any byte read behind it. */
	uint8_t *copy = malloc(HEADER_BYTES);
	memcpy(copy, data, HEADER_BYTES);
	int ret = cow_luks_decode(copy, AREA_BYTES, &l, &err);
	cow_assert(ret == err.code);
	if (!ret) {
		check_bounds(&l);
		cow_luks_encode(&l, copy);
		cow_assert(!cow_luks_decode(copy, AREA_BYTES, &again, &err));
		cow_assert(!memcmp(&l.cipher, &again.cipher, sizeof(l.cipher)) &&
			   !memcmp(l.uuid, again.uuid, sizeof(l.uuid)));
	}
	free(copy);
	return 0;
}
