/* SPDX-License-Identifier: MIT */
/* See slots.h. In this order: chance, which repeats; what is on disk; the verb. */
#define OPENSSL_SUPPRESS_DEPRECATED /* the way to other random numbers */
#include "tests/sim/slots.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/rand.h>

#include "engine/base/assert.h"
#include "engine/base/buf.h"
#include "engine/crypt/luks_header.h"
#include "engine/crypt/luks_kdf.h"
#include "engine/crypt/luks_work.h"
#include "engine/edit/amend_keys.h"
#include "engine/format/format.h"
#include "tests/sim/run.h"
#include "tests/sim/snapshot.h"

#define TOP "/sim/top"

/* ---- chance ---- */

static struct sim_random salts;

static int random_bytes(unsigned char *to, int nr)
{
	for (int i = 0; i < nr; i++)
		to[i] = (uint8_t)sim_random_next(&salts);
	return 1;
}

/* Salts and key material: the same for the same seed. */
static void begin_chance(const struct sim_run *run)
{
	static const RAND_METHOD method = { .bytes = random_bytes, .pseudorand = random_bytes };
	salts.state = sim_mix(run->script->config.seed + run->tool.slots.slot);
	cow_assert(RAND_set_rand_method(&method));
}

static void end_chance(void)
{
	cow_assert(RAND_set_rand_method(NULL));
}

/* ---- what is on disk ---- */

static const struct memory_content *top(struct sim_run *run)
{
	return &memory_disk_find(&run->world.disk, TOP)->now;
}

static void load(struct sim_run *run, struct cow_luks *luks)
{
	struct cow_header h = sim_snapshot_header(run);
	struct cow_extensions ext;
	struct cow_error err = { 0 };
	uint8_t *cluster = cow_buf_alloc(cow_cluster_bytes(&h));
	uint8_t buf[sizeof(struct luks1_header_be)];
	cow_assert(cluster);
	memory_content_read(top(run), 0, cluster, cow_cluster_bytes(&h));
	if (cow_extensions_decode(cluster, &h, &ext, &err))
		sim_fail("the header's extensions: %s", err.text);
	memory_content_read(top(run), ext.crypto_off, buf, sizeof(buf));
	if (cow_luks_decode(buf, ext.crypto_bytes, luks, &err))
		sim_fail("the LUKS header: %s", err.text);
	luks->area_off = ext.crypto_off;
	free(cluster);
}

static uint32_t active(const struct cow_luks *luks)
{
	uint32_t slots = 0;
	for (unsigned i = 0; i < LUKS1_SLOTS; i++)
		slots |= luks->slots[i].active ? 1u << i : 0;
	return slots;
}

static void read_material(struct sim_run *run, const struct cow_luks *luks, unsigned slot,
			  struct cow_luks_work *work)
{
	memory_content_read(top(run), luks->area_off + luks->slots[slot].key_off, work->material,
			    work->material_bytes);
}

static bool opens(struct sim_run *run, const struct cow_luks *luks, unsigned slot,
		  struct cow_luks_work *work)
{
	read_material(run, luks, slot, work);
	cow_assert(!cow_luks_work_slot_key(luks, &luks->slots[slot], run->secret, work));
	cow_assert(!cow_luks_work_decrypt(luks, work));
	cow_assert(!cow_luks_merge(luks->hash_name, work->material, luks->cipher.key_bytes,
				   LUKS1_STRIPES, work->key));
	cow_assert(!cow_luks_work_digest(luks, work));
	return !memcmp(work->digest, luks->digest, sizeof(luks->digest));
}

static uint64_t hash_of(struct sim_run *run, const struct cow_luks *luks, unsigned slot)
{
	struct cow_luks_work *work = cow_luks_work_new(luks);
	uint64_t hash = 0;
	cow_assert(work);
	read_material(run, luks, slot, work);
	for (size_t i = 0; i < work->material_bytes; i++)
		hash = hash * 31 + work->material[i];
	cow_luks_work_free(work);
	return hash;
}

/* ---- the verb ---- */

bool sim_slots_choose(struct sim_run *run, const struct sim_action *a)
{
	static const unsigned slots[] = { 6, 7, 0, 3 };
	struct sim_slots *s = &run->tool.slots;
	struct cow_luks luks;
	uint64_t encrypt = run->script->config.encrypt;
	if (encrypt != SIM_ENCRYPT_XTS && encrypt != SIM_ENCRYPT_CBC)
		return false;
	load(run, &luks);
	s->slot = slots[a->queue % 4];
	s->was = active(&luks);
	s->goal = s->was ^ 1u << s->slot;
	s->material = hash_of(run, &luks, s->slot);
	s->chosen = s->goal != 0;
	return s->chosen;
}

int sim_slots_run(struct sim_run *run, struct cow_file *file, struct cow_error *err)
{
	struct sim_slots *s = &run->tool.slots;
	const struct cow_secret *secret = run->secret;
	struct cow_luks luks;
	struct cow_luks_change change = { .slot = (int)s->slot,
					  .iterations = 1,
					  .new_secret = secret,
					  .secrets = &secret,
					  .nr_secrets = 1 };
	bool fills = s->goal & 1u << s->slot;
	load(run, &luks);
	change.what = fills ? COW_LUKS_ADD_KEY : COW_LUKS_REMOVE_KEY;
	/* once more: what was cut off may be there already, but for the wiping */
	bool there = active(&luks) == s->goal;
	if (there && fills)
		return 0;
	change.force = there;
	begin_chance(run);
	int ret = cow_amend_keys(&run->control->base, file, &change, err);
	end_chance();
	return ret;
}

bool sim_slots_done(struct sim_run *run)
{
	const struct sim_slots *s = &run->tool.slots;
	struct cow_luks luks;
	load(run, &luks);
	return active(&luks) == s->goal && hash_of(run, &luks, s->slot) != s->material;
}

void sim_slots_check(struct sim_run *run)
{
	const struct sim_slots *s = &run->tool.slots;
	struct cow_luks luks;
	if (!s->chosen)
		return;
	load(run, &luks);
	struct cow_luks_work *work = cow_luks_work_new(&luks);
	cow_assert(work);
	if (active(&luks) != s->was && active(&luks) != s->goal)
		sim_fail("key slots %#x are active, were %#x, and should become %#x", active(&luks),
			 s->was, s->goal);
	for (unsigned i = 0; i < LUKS1_SLOTS; i++)
		if (luks.slots[i].active && !opens(run, &luks, i, work))
			sim_fail("key slot %u is active, and nobody can open it", i);
	cow_luks_work_free(work);
}
