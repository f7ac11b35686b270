/* SPDX-License-Identifier: MIT */
/* The one write of a header that switches to a new image: what may be believed when the host refuses it. */
#include "engine/core/switch.h"

#include "tests/unit/space_fixture.h"

/* The host's answer to the write; how many of its bytes it does all the same. */
struct refusal {
	struct space *s;
	int error;
	uint64_t bytes;
};

static int64_t refuse(void *ctx, const struct cow_io *io)
{
	const struct refusal *r = ctx;
	if (io->kind != COW_IO_WRITE)
		return 0;
	memcpy(r->s->m->bytes + io->offset, io->vec[0].iov_base, r->bytes);
	return r->error;
}

static int switch_to(struct space *s, uint8_t value, bool *begun)
{
	uint8_t *sector = cow_buf_alloc(COW_SWITCH_BYTES);
	memset(sector, value, COW_SWITCH_BYTES);
	int ret = cow_switch_header(&s->m->loop, s->core.file, sector, begun);
	free(sector);
	return ret;
}

static void test_switched(void **state)
{
	struct space *s = *state;
	bool begun;
	unsigned from = s->m->nr_trace;
	assert_int_equal(switch_to(s, 7, &begun), 0);
	assert_true(begun);
	assert_int_equal(s->m->bytes[0], 7);
	assert_int_equal(s->m->bytes[COW_SWITCH_BYTES - 1], 7);
	/* what it leads to, then it */
	unsigned at = 0;
	const enum cow_io_kind order[] = { COW_IO_SYNC, COW_IO_WRITE, COW_IO_SYNC };
	for (unsigned i = from; i < s->m->nr_trace; i++)
		if (s->m->trace[i].kind != COW_IO_READ)
			assert_int_equal(s->m->trace[i].kind, order[at++]);
	assert_int_equal(at, 3);
}

/* Only who has seen the old one there knows that it is. */
static void test_refused(void **state)
{
	struct space *s = *state;
	struct refusal r = { .s = s, .error = -ENOSPC };
	bool begun;
	s->m->fault = refuse;
	s->m->ctx = &r;
	assert_int_equal(switch_to(s, 7, &begun), -ENOSPC);
	assert_int_not_equal(s->m->bytes[0], 7);
	r.bytes = 16;
	assert_int_equal(switch_to(s, 7, &begun), -ENOTRECOVERABLE);
	assert_true(begun);
	s->m->fault = NULL;
}

static void test_failed(void **state)
{
	struct space *s = *state;
	struct refusal r = { .s = s, .error = -EIO };
	bool begun;
	s->m->fault = refuse;
	s->m->ctx = &r;
	assert_int_equal(switch_to(s, 7, &begun), -ENOTRECOVERABLE);
	s->m->fault = NULL;
	s->m->fail_kind = COW_IO_SYNC;
	s->m->fail_error = -ENOSPC;
	assert_int_equal(switch_to(s, 7, &begun), -ENOTRECOVERABLE);
	assert_false(begun);
	s->m->fail_error = -EIO;
	s->m->fail_skip = 1;
	assert_int_equal(switch_to(s, 7, &begun), -ENOTRECOVERABLE);
	assert_true(begun);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_switched, space_setup, space_teardown),
		cmocka_unit_test_setup_teardown(test_refused, space_setup, space_teardown),
		cmocka_unit_test_setup_teardown(test_failed, space_setup, space_teardown),
	};
	return cmocka_run_group_tests_name("switch", tests, NULL, NULL);
}
