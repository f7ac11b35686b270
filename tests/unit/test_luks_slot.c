/* SPDX-License-Identifier: MIT */
/*
 * Key slots filled and emptied, with power lost and the host failing at every step: each active slot
 * can be opened at every moment, whichever sector of the header it is in.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/crypt/luks_change.h"
#include "engine/crypt/luks_format.h"
#include "engine/crypt/luks_header.h"
#include "engine/crypt/luks_slot.h"
#include "engine/crypt/luks_work.h"
#include "engine/loop/blocking.h"
#include "tests/memory/memory_host.h"
#include "tests/unit/secret_fixture.h"

#define AREA_OFF 0x10000u
#define ROUNDS 3u /* of chance, for each moment */

struct fixture {
	struct memory_host *m;
	struct cow_file *file;
	struct cow_secret *first, *second;
	struct cow_luks_format format;
	struct cow_error err;
	/* what goes wrong with the next change: see memory_host.h */
	enum cow_io_kind fail_kind;
	unsigned fail_skip;
	int fail_error;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	f->m = memory_host_new();
	f->m->host.ops->open(&f->m->host, "image", COW_OPEN_WRITE, &f->file, &f->err);
	f->first = secret_of("first");
	f->second = secret_of("second");
	cow_luks_format_default(&f->format);
	f->format.iter_ms = 1;
	f->format.cipher.key_bytes = 32;
	uint64_t bytes = cow_luks_format_bytes(&f->format);
	assert_int_equal(cow_loop_resize(&f->m->loop, f->file, AREA_OFF + bytes), 0);
	assert_int_equal(
		cow_luks_format(&f->m->loop, f->file, AREA_OFF, &f->format, f->first, NULL), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	f->m->host.ops->close(f->file);
	memory_host_free(f->m);
	cow_secret_free(f->first);
	cow_secret_free(f->second);
	free(f);
	return 0;
}

static struct cow_luks must_load(struct fixture *f)
{
	struct cow_luks l;
	assert_int_equal(cow_luks_load(&f->m->loop, f->file, AREA_OFF,
				       cow_luks_format_bytes(&f->format), &l, NULL),
			 0);
	return l;
}

static int change(struct fixture *f, const struct cow_luks_change *c)
{
	struct cow_luks l = must_load(f);
	f->err = (struct cow_error){ 0 };
	f->m->fail_kind = f->fail_kind;
	f->m->fail_skip = f->fail_skip;
	f->m->fail_error = f->fail_error;
	int ret = cow_luks_change(&f->m->loop, f->file, &l, c, &f->err);
	f->m->fail_error = f->fail_error = 0;
	assert_true(!ret || f->err.text[0]);
	return ret;
}

static int add(struct fixture *f, int slot)
{
	const struct cow_secret *opens = f->first;
	struct cow_luks_change c = { .what = COW_LUKS_ADD_KEY, .slot = slot, .iterations = 2 };
	c.new_secret = f->second;
	c.secrets = &opens;
	c.nr_secrets = 1;
	return change(f, &c);
}

static int drop(struct fixture *f, int slot)
{
	const struct cow_secret *opens = f->first;
	struct cow_luks_change c = { .what = COW_LUKS_REMOVE_KEY, .slot = slot };
	c.secrets = &opens;
	c.nr_secrets = 1;
	return change(f, &c);
}

static int try_slot(struct fixture *f, const struct cow_luks *l, unsigned slot,
		    const struct cow_secret *secret)
{
	struct cow_luks_area area = { &f->m->loop, f->file, l, cow_luks_work_new(l) };
	assert_non_null(area.work);
	int ret = cow_luks_slot_try(&area, slot, secret, NULL);
	cow_luks_work_free(area.work);
	return ret;
}

/* Every active slot is what it should be; returns whether `slot` is active. */
static bool must_open(struct fixture *f, unsigned slot)
{
	struct cow_luks l = must_load(f);
	for (unsigned i = 0; i < LUKS1_SLOTS; i++) {
		if (l.slots[i].active != (i == 0))
			assert_true(i == slot);
		if (l.slots[i].active)
			assert_int_equal(try_slot(f, &l, i, i ? f->second : f->first), 0);
	}
	return l.slots[slot].active;
}

/* Power goes after so many changes. Returns whether all was done before. */
static bool cut_off(struct fixture *f, int (*run)(struct fixture *, int), int slot, unsigned nr)
{
	memory_keep_changes(f->m);
	memory_power_off_after(f->m, nr);
	bool done = !run(f, slot);
	assert_true(done || f->m->powered_off);
	memory_power_on(f->m);
	return done;
}

static void power_lost_anywhere(void **state)
{
	struct fixture *f = *state;
	for (unsigned i = 0; i < 4 * ROUNDS; i++) {
		static const int slots[] = { 1, 5, 6, 7 };
		int slot = slots[i % 4];
		for (unsigned nr = 0; !cut_off(f, add, slot, nr); nr++)
			if (must_open(f, (unsigned)slot)) /* the last sync was cut off */
				assert_int_equal(drop(f, slot), 0);
		assert_true(must_open(f, (unsigned)slot));
		for (unsigned nr = 0; !cut_off(f, drop, slot, nr); nr++)
			if (!must_open(f, (unsigned)slot))
				assert_int_equal(add(f, slot), 0);
		assert_false(must_open(f, (unsigned)slot));
	}
}

static void fails_anywhere(void **state)
{
	static const enum cow_io_kind kinds[] = { COW_IO_READ, COW_IO_WRITE, COW_IO_SYNC };
	struct fixture *f = *state;
	for (unsigned i = 0; i < 3; i++) {
		int ret = -EIO;
		for (unsigned skip = 0; ret; skip++) {
			f->fail_kind = kinds[i];
			f->fail_skip = skip;
			f->fail_error = -ENOSPC;
			ret = add(f, 6);
			assert_true(!ret || ret == -ENOSPC);
			if (must_open(f, 6))
				assert_int_equal(drop(f, 6), 0);
		}
	}
}

/* Whatever its header once said: neither salt nor key material is there any more. */
static void nothing_is_left(void **state)
{
	struct fixture *f = *state;
	for (int slot = 1; slot < (int)LUKS1_SLOTS; slot++) {
		assert_int_equal(add(f, slot), 0);
		struct cow_luks was = must_load(f);
		size_t bytes = cow_luks_material_bytes(&was);
		uint8_t *material = malloc(bytes);
		const uint8_t *at = f->m->bytes + AREA_OFF + was.slots[slot].key_off;
		memcpy(material, at, bytes);
		assert_int_equal(drop(f, slot), 0);
		for (size_t i = 0; i + 512 <= bytes; i += 512)
			assert_memory_not_equal(material + i, at + i, 512);
		struct cow_luks l = must_load(f);
		static const uint8_t none[LUKS1_SALT_BYTES];
		assert_memory_equal(l.slots[slot].salt, none, sizeof(none));
		assert_int_equal(l.slots[slot].key_off, was.slots[slot].key_off);
		free(material);
	}
}

/* What would be refused afterwards is not written. */
static void too_much_work(void **state)
{
	struct fixture *f = *state;
	const struct cow_secret *opens = f->first;
	struct cow_luks_change c = { .what = COW_LUKS_ADD_KEY,
				     .slot = COW_LUKS_ANY_SLOT,
				     .new_secret = f->second,
				     .secrets = &opens,
				     .nr_secrets = 1,
				     .iterations = COW_LUKS_MAX_ITERATIONS + 1 };
	assert_int_equal(change(f, &c), -EINVAL);
	assert_false(must_open(f, 1));
}

static void never_the_last_one(void **state)
{
	struct fixture *f = *state;
	const struct cow_secret *opens = f->first;
	struct cow_luks_change c = { .what = COW_LUKS_REMOVE_KEY, .slot = COW_LUKS_ANY_SLOT };
	c.old_secret = f->first;
	c.secrets = &opens;
	c.nr_secrets = 1;
	assert_int_equal(change(f, &c), -EBUSY);
	assert_int_equal(drop(f, 0), -EBUSY);
	assert_int_equal(add(f, 3), 0);
	assert_int_equal(change(f, &c), -EACCES); /* nobody says to have the other one */
	assert_int_equal(drop(f, 0), -EACCES);
	assert_true(must_open(f, 3));
	opens = f->second;
	assert_int_equal(change(f, &c), 0);
	assert_int_equal(drop(f, 3), -EBUSY);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(power_lost_anywhere, setup, teardown),
		cmocka_unit_test_setup_teardown(fails_anywhere, setup, teardown),
		cmocka_unit_test_setup_teardown(nothing_is_left, setup, teardown),
		cmocka_unit_test_setup_teardown(too_much_work, setup, teardown),
		cmocka_unit_test_setup_teardown(never_the_last_one, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
