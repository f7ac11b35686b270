/* SPDX-License-Identifier: MIT */
/* See luks_slot.h. In this order: trying; the header's sectors; filling; emptying. */
#include "engine/crypt/luks_slot.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include "engine/base/assert.h"
#include "engine/base/buf.h"
#include "engine/crypt/luks_header.h"
#include "engine/crypt/luks_kdf.h"
#include "engine/loop/blocking.h"

#define SECTOR LUKS1_SECTOR_BYTES
#define HEADER_BYTES (2 * SECTOR) /* the header in whole sectors; key material lies behind */
#define SLOT_BYTES sizeof(struct luks1_slot_be)

/* ---- trying ---- */

static int read_material(const struct cow_luks_area *a, unsigned slot, struct cow_error *err)
{
	struct cow_luks_work *work = a->work;
	uint64_t off = a->luks->area_off + a->luks->slots[slot].key_off;
	uint8_t *buf = cow_buf_alloc(work->material_bytes); /* still enciphered: needs no lock */
	if (!buf)
		return cow_error_no_memory(err);
	int ret = cow_loop_read(a->loop, a->file, off, buf, work->material_bytes);
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

int cow_luks_slot_try(const struct cow_luks_area *a, unsigned slot, const struct cow_secret *secret,
		      struct cow_error *err)
{
	int ret = read_material(a, slot, err);
	if (ret)
		return ret;
	ret = try_slot(a->luks, &a->luks->slots[slot], secret, a->work);
	return ret && ret != -EACCES
		       ? cow_error_set(err, ret, "LUKS key slot %u: %s", slot, strerror(-ret))
		       : ret;
}

/* ---- the header's sectors ---- */

struct header {
	const struct cow_luks_area *a;
	uint64_t off;
	uint8_t *old, *buf; /* HEADER_BYTES each: as it stands; as it shall be */
};

static size_t slot_at(unsigned slot)
{
	return offsetof(struct luks1_header_be, slots) + slot * SLOT_BYTES;
}

/* What is not the slot's stays as it is, byte for byte. */
static int begin(struct header *h, const struct cow_luks *luks, unsigned slot)
{
	uint8_t encoded[sizeof(struct luks1_header_be)];
	h->old = cow_buf_alloc(2u * HEADER_BYTES);
	if (!h->old)
		return -ENOMEM;
	h->buf = h->old + HEADER_BYTES;
	h->off = luks->area_off;
	int ret = cow_loop_read(h->a->loop, h->a->file, h->off, h->old, HEADER_BYTES);
	if (ret)
		return ret;
	memcpy(h->buf, h->old, HEADER_BYTES);
	cow_luks_encode(luks, encoded);
	memcpy(h->buf + slot_at(slot), encoded + slot_at(slot), SLOT_BYTES);
	return 0;
}

/* One sector is written whole or not at all; each stands before the next one is written. */
static int write_sector(struct header *h, size_t at)
{
	cow_assert(h->off % SECTOR == 0 && at < HEADER_BYTES);
	if (!memcmp(h->buf + at, h->old + at, SECTOR))
		return 0;
	int ret = cow_loop_write(h->a->loop, h->a->file, h->off + at, h->buf + at, SECTOR);
	return ret ? ret : cow_loop_sync(h->a->loop, h->a->file);
}

/* The sector that the slot's state is in. */
static size_t state_sector(unsigned slot)
{
	return slot_at(slot) / SECTOR * SECTOR;
}

static int write_state(struct header *h, unsigned slot)
{
	return write_sector(h, state_sector(slot));
}

static int write_rest(struct header *h, unsigned slot)
{
	return write_sector(h, SECTOR - state_sector(slot));
}

/* ---- filling ---- */

static int make_material(const struct cow_luks *luks, const struct cow_luks_slot *slot,
			 const struct cow_secret *secret, struct cow_luks_work *work)
{
	if (RAND_priv_bytes(work->material, (int)work->material_bytes) != 1)
		return -EIO;
	int ret = cow_luks_split(luks->hash_name, work->key, luks->cipher.key_bytes, LUKS1_STRIPES,
				 work->material);
	if (!ret)
		ret = cow_luks_work_slot_key(luks, slot, secret, work);
	return ret ? ret : cow_luks_work_encrypt(luks, work);
}

/* Enciphered or random: needs no lock. */
static int write_material(const struct cow_luks_area *a, unsigned slot)
{
	struct cow_luks_work *work = a->work;
	uint64_t off = a->luks->area_off + a->luks->slots[slot].key_off;
	uint8_t *buf = cow_buf_alloc(work->material_bytes);
	if (!buf)
		return -ENOMEM;
	memcpy(buf, work->material, work->material_bytes);
	int ret = cow_loop_write(a->loop, a->file, off, buf, work->material_bytes);
	free(buf);
	return ret ? ret : cow_loop_sync(a->loop, a->file);
}

/* next: the header with the slot as it shall be, but for the salt. */
static int fill(struct header *h, struct cow_luks *next, unsigned slot,
		const struct cow_secret *secret)
{
	struct cow_luks_slot *s = &next->slots[slot];
	int ret = RAND_bytes(s->salt, sizeof(s->salt)) == 1 ? 0 : -EIO;
	if (!ret)
		ret = make_material(next, s, secret, h->a->work);
	if (!ret)
		ret = begin(h, next, slot);
	if (!ret)
		ret = write_material(h->a, slot);
	if (!ret)
		ret = write_rest(h, slot);
	return ret ? ret : write_state(h, slot);
}

/* What nobody could open afterwards, for what it asks of us, is not written. */
static int verify(const struct cow_luks *luks, struct cow_error *err)
{
	uint8_t encoded[sizeof(struct luks1_header_be)];
	struct cow_luks decoded;
	cow_luks_encode(luks, encoded);
	return cow_luks_decode(encoded, luks->payload_off, &decoded, err);
}

static int cannot_write(unsigned slot, int ret, struct cow_error *err)
{
	return ret ? cow_error_set(err, ret, "LUKS key slot %u: cannot write it: %s", slot,
				   strerror(-ret))
		   : 0;
}

int cow_luks_slot_fill(const struct cow_luks_area *a, unsigned slot, uint32_t iterations,
		       const struct cow_secret *secret, struct cow_error *err)
{
	struct header h = { .a = a };
	struct cow_luks next = *a->luks;
	cow_assert(slot < LUKS1_SLOTS && !a->luks->slots[slot].active && iterations);
	next.slots[slot].active = true;
	next.slots[slot].iterations = iterations;
	int ret = verify(&next, err);
	if (ret)
		return ret;
	ret = fill(&h, &next, slot, secret);
	free(h.old);
	return cannot_write(slot, ret, err);
}

/* ---- emptying ---- */

static int disable(const struct cow_luks_area *a, const struct cow_luks *next, unsigned slot)
{
	struct header h = { .a = a };
	int ret = begin(&h, next, slot);
	if (!ret)
		ret = write_state(&h, slot);
	if (!ret)
		ret = write_rest(&h, slot);
	free(h.old);
	return ret;
}

static int wipe(const struct cow_luks_area *a, unsigned slot)
{
	int ret = RAND_bytes(a->work->material, (int)a->work->material_bytes) == 1 ? 0 : -EIO;
	return ret ? ret : write_material(a, slot);
}

int cow_luks_slot_empty(const struct cow_luks_area *a, unsigned slot, struct cow_error *err)
{
	struct cow_luks next = *a->luks;
	struct cow_luks_slot *s = &next.slots[slot];
	cow_assert(slot < LUKS1_SLOTS);
	s->active = false;
	s->iterations = 0;
	memset(s->salt, 0, sizeof(s->salt));
	int ret = disable(a, &next, slot);
	if (ret)
		return cannot_write(slot, ret, err);
	ret = wipe(a, slot);
	return ret ? cow_error_set(err, ret,
				   "LUKS key slot %u: removed, but its key material cannot be "
				   "overwritten: %s: try again with --force",
				   slot, strerror(-ret))
		   : 0;
}
