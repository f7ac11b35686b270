/* SPDX-License-Identifier: MIT */
#include "tests/sim/keys.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/core/load.h"
#include "engine/crypt/luks_format.h"
#include "engine/crypt/luks_header.h"
#include "engine/crypt/luks_work.h"
#include "engine/crypt/luks_kdf.h"
#include "engine/crypt/secret.h"
#include "engine/loop/blocking.h"

#define CRYPT_METHOD_OFF 32 /* in the header */

struct cow_secret *sim_keys_secret(void)
{
	static const char passphrase[] = "simulated";
	struct cow_secret *s = cow_secret_new();
	cow_assert(s);
	memcpy(s->data, passphrase, sizeof(passphrase) - 1);
	s->bytes = sizeof(passphrase) - 1;
	return s;
}

static void randomize(struct sim_random *r, uint8_t *to, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		to[i] = (uint8_t)sim_random_next(r);
}

/* The header that cow_create() has made, with a key of ours. */
static void make_key(struct sim_run *run, struct cow_luks *l, struct cow_luks_work *work)
{
	struct cow_luks_slot *slot = &l->slots[0];
	l->digest_iterations = slot->iterations = 1;
	randomize(&run->random, l->digest_salt, sizeof(l->digest_salt));
	randomize(&run->random, slot->salt, sizeof(slot->salt));
	randomize(&run->random, work->key, l->cipher.key_bytes);
	randomize(&run->random, work->material, l->cipher.key_bytes);
	memset(l->uuid, 0, sizeof(l->uuid));
	cow_assert(!cow_luks_work_digest(l, work));
	memcpy(l->digest, work->digest, sizeof(l->digest));
	cow_assert(!cow_luks_split(l->hash_name, work->key, l->cipher.key_bytes, LUKS1_STRIPES,
				   work->material));
	cow_assert(!cow_luks_work_slot_key(l, slot, run->secret, work));
	cow_assert(!cow_luks_work_encrypt(l, work));
}

static void replace_key(struct sim_run *run, struct cow_file *file,
			const struct cow_extensions *ext)
{
	struct cow_luks l;
	struct cow_error err = { 0 };
	uint8_t *sector = cow_buf_alloc(4096);
	struct cow_loop *loop = &run->control->base;
	if (cow_luks_load(loop, file, ext->crypto_off, ext->crypto_bytes, &l, &err))
		sim_fail("the new LUKS header: %s", err.text);
	struct cow_luks_work *work = cow_luks_work_new(&l);
	cow_assert(sector && work);
	make_key(run, &l, work);
	cow_luks_encode(&l, sector);
	cow_assert(!cow_loop_write(loop, file, ext->crypto_off, sector, 4096));
	cow_assert(!cow_loop_write(loop, file, ext->crypto_off + l.slots[0].key_off, work->material,
				   work->material_bytes));
	cow_luks_work_free(work);
	free(sector);
}

/* An image in the clear and without contents becomes a legacy AES one by the header alone. */
static void make_legacy(struct sim_run *run, struct cow_file *file, uint8_t *cluster)
{
	cow_store32_be(cluster + CRYPT_METHOD_OFF, QCOW2_CRYPT_AES);
	cow_assert(!cow_loop_write(&run->control->base, file, 0, cluster, 512));
}

static void finish(struct sim_run *run, const char *path, uint64_t kind)
{
	const struct cow_host_ops *ops = run->world.disk.host.ops;
	struct cow_error err = { 0 };
	struct cow_extensions ext;
	struct cow_header h;
	struct cow_file *file;
	uint8_t *cluster;
	if (ops->open(&run->world.disk.host, path, COW_OPEN_WRITE, &file, &err) ||
	    cow_load_header(&run->control->base, file, &h, &cluster, &err) ||
	    cow_extensions_decode(cluster, &h, &ext, &err))
		sim_fail("the new image: %s", err.text);
	if (kind == SIM_ENCRYPT_LEGACY)
		make_legacy(run, file, cluster);
	else
		replace_key(run, file, &ext);
	free(cluster);
	ops->close(file);
}

void sim_keys_create(struct sim_run *run, const char *path, uint64_t kind,
		     struct cow_create_options *options)
{
	static const struct cow_crypt_cipher xts = { COW_CRYPT_XTS, COW_CRYPT_PLAIN64, 32 },
					     cbc = { COW_CRYPT_CBC, COW_CRYPT_ESSIV_SHA256, 16 };
	struct cow_luks_format format = { .cipher = kind == SIM_ENCRYPT_CBC ? cbc : xts,
					  .hash_name = "sha256",
					  .iter_ms = 1 };
	struct cow_error err = { 0 };
	if (kind == SIM_ENCRYPT_XTS || kind == SIM_ENCRYPT_CBC) {
		options->encrypt = &format;
		options->secret = run->secret;
	}
	if (cow_create(&run->world.disk.host, &run->control->base, path, options, &err))
		sim_fail("create %s: %s", path, err.text);
	if (kind)
		finish(run, path, kind);
}
