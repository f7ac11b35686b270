/* SPDX-License-Identifier: MIT */
/* See luks_change.h. In this order: passphrases; adding; removing. */
#include "engine/crypt/luks_change.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/crypt/luks_kdf.h"
#include "engine/crypt/luks_slot.h"
#include "engine/crypt/luks_work.h"

#define DEFAULT_ITER_MS 2000u /* as QEMU */

struct change {
	struct cow_luks_area area;
	const struct cow_luks *luks;
	const struct cow_luks_change *c;
	struct cow_error *err;
	struct cow_error unread; /* of a slot that could not be tried, if any */
};

/* ---- passphrases ---- */

static unsigned nr_active(const struct cow_luks *luks)
{
	unsigned nr = 0;
	for (unsigned i = 0; i < LUKS1_SLOTS; i++)
		nr += luks->slots[i].active;
	return nr;
}

/* Does it open one of the active slots of `slots`, a bit each? 0 or -EACCES; work->key is the master key. */
static int open_one_of(struct change *c, unsigned slots, const struct cow_secret *secret)
{
	int ret = -EACCES;
	for (unsigned i = 0; i < LUKS1_SLOTS && ret; i++)
		if (c->luks->slots[i].active && slots & 1u << i)
			ret = cow_luks_slot_try(&c->area, i, secret, &c->unread);
	return ret ? -EACCES : 0;
}

/* What could not be read explains more than what did not fit. */
static int not_opened(struct change *c, const char *text)
{
	if (c->unread.code)
		return cow_error_set(c->err, c->unread.code, "%s", c->unread.text);
	return cow_error_set(c->err, -EACCES, "%s (key slots in use: %u)", text,
			     nr_active(c->luks));
}

/* Any of those that open the image. */
static int open_any(struct change *c, unsigned slots)
{
	int ret = c->c->old_secret ? open_one_of(c, slots, c->c->old_secret) : -EACCES;
	for (size_t i = 0; i < c->c->nr_secrets && ret; i++)
		ret = open_one_of(c, slots, c->c->secrets[i]);
	return ret;
}

#define ALL_SLOTS ((1u << LUKS1_SLOTS) - 1)

static int check_slot(const struct change *c)
{
	if (c->c->slot >= (int)LUKS1_SLOTS)
		return cow_error_set(c->err, -EINVAL, "key slot %d: there are %u, from 0 on",
				     c->c->slot, LUKS1_SLOTS);
	return 0;
}

/* ---- adding ---- */

static int choose_free(struct change *c, unsigned *slot)
{
	if (c->c->slot >= 0) {
		*slot = (unsigned)c->c->slot;
		return c->luks->slots[*slot].active
			       ? cow_error_set(c->err, -EBUSY,
					       "key slot %u: is in use: remove it first, with "
					       "encrypt.state=inactive",
					       *slot)
			       : 0;
	}
	for (*slot = 0; *slot < LUKS1_SLOTS; (*slot)++)
		if (!c->luks->slots[*slot].active)
			return 0;
	return cow_error_set(c->err, -EBUSY,
			     "all %u key slots are in use: remove one first, with "
			     "encrypt.state=inactive",
			     LUKS1_SLOTS);
}

static int add(struct change *c)
{
	unsigned slot, ms = c->c->iter_ms ? c->c->iter_ms : DEFAULT_ITER_MS;
	uint32_t iterations = c->c->iterations;
	cow_assert(c->c->new_secret);
	int ret = choose_free(c, &slot);
	if (ret)
		return ret;
	if (open_any(c, ALL_SLOTS))
		return not_opened(
			c,
			"wrong passphrase: what is to open the image opens none of its key slots");
	if (!iterations)
		iterations = cow_luks_calibrate(c->luks->hash_name, c->luks->cipher.key_bytes, ms);
	return cow_luks_slot_fill(&c->area, slot, iterations, c->c->new_secret, c->err);
}

/* ---- removing ---- */

/* All that it opens. A slot that cannot be read may be one of them. */
static int slots_of(struct change *c, const struct cow_secret *secret, unsigned *slots)
{
	*slots = 0;
	for (unsigned i = 0; i < LUKS1_SLOTS; i++) {
		if (!c->luks->slots[i].active)
			continue;
		int ret = cow_luks_slot_try(&c->area, i, secret, c->err);
		if (ret && ret != -EACCES)
			return ret;
		*slots |= ret ? 0 : 1u << i;
	}
	return 0;
}

static int choose_named(struct change *c, unsigned *slots)
{
	unsigned slot = (unsigned)c->c->slot, own = 1u << slot;
	*slots = own;
	if (!c->luks->slots[slot].active)
		return c->c->force ? 0
				   : cow_error_set(c->err, -ENOENT,
						   "key slot %u: is not in use (--force overwrites "
						   "its key material all the same)",
						   slot);
	if (c->c->old_secret && open_one_of(c, own, c->c->old_secret))
		return not_opened(
			c, "encrypt.keyslot: the passphrase to be removed is not this one's");
	return 0;
}

static int choose_used(struct change *c, unsigned *slots)
{
	cow_assert(c->c->slot >= 0 || c->c->old_secret);
	if (c->c->slot >= 0)
		return choose_named(c, slots);
	int ret = slots_of(c, c->c->old_secret, slots);
	if (ret)
		return ret;
	return *slots ? 0 : not_opened(c, "the passphrase to be removed opens no key slot");
}

/* Somebody must be able to open the image afterwards: who says so shows it. */
static int check_others(struct change *c, unsigned slots)
{
	unsigned others = 0;
	for (unsigned i = 0; i < LUKS1_SLOTS; i++)
		others += c->luks->slots[i].active && !(slots & 1u << i);
	if (c->c->force)
		return 0;
	if (!others)
		return cow_error_set(
			c->err, -EBUSY,
			"no other key slot is in use: without it nobody can read the "
			"image any more: add a passphrase first (--force destroys it)");
	if (open_any(c, ALL_SLOTS & ~slots))
		return not_opened(c, "no passphrase was given that opens the image afterwards: "
				     "name one that stays, with --key-file (--force does without)");
	return 0;
}

static int remove_slots(struct change *c)
{
	unsigned slots;
	int ret = choose_used(c, &slots);
	if (!ret)
		ret = check_others(c, slots);
	for (unsigned i = 0; i < LUKS1_SLOTS && !ret; i++)
		if (slots & 1u << i)
			ret = cow_luks_slot_empty(&c->area, i, c->err);
	return ret;
}

int cow_luks_change(struct cow_loop *loop, struct cow_file *file, const struct cow_luks *luks,
		    const struct cow_luks_change *change, struct cow_error *err)
{
	struct change c = {
		.area = { loop, file, luks, NULL }, .luks = luks, .c = change, .err = err
	};
	int ret = check_slot(&c);
	if (ret)
		return ret;
	c.area.work = cow_luks_work_new(luks);
	if (!c.area.work)
		return cow_error_no_memory(err);
	ret = change->what == COW_LUKS_ADD_KEY ? add(&c) : remove_slots(&c);
	cow_luks_work_free(c.area.work);
	return ret;
}
