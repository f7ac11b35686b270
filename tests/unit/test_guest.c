/* SPDX-License-Identifier: MIT */
/* Requests whose bytes are in pages of the guest's (loop/guest.h): what the simulator's never do is fail to be copied. */
#include "engine/loop/guest.h"
#include "tests/unit/request_fixture.h"

struct pages {
	struct memory_guest memory;
	uint8_t *pages, *base;
	int (*fetch)(const struct cow_guest *guest, uint64_t off, uint64_t bytes);
	int (*store)(const struct cow_guest *guest, uint64_t off, uint64_t bytes);
};

static void make_pages(struct pages *p, int value)
{
	p->pages = cow_buf_alloc(MAX_BYTES);
	p->base = cow_buf_alloc(MAX_BYTES);
	memset(p->pages, value, MAX_BYTES);
	memory_guest_init(&p->memory, p->pages, p->base, MAX_BYTES);
	p->fetch = p->memory.guest.fetch;
	p->store = p->memory.guest.store;
}

static void free_pages(struct pages *p)
{
	free(p->pages);
	free(p->base);
}

static int fails(const struct cow_guest *guest, uint64_t off, uint64_t bytes)
{
	return -EFAULT;
}

static void start_guest(struct fixture *f, const struct pages *p, enum cow_op_kind kind,
			uint64_t off, uint64_t length)
{
	f->results[0] = PENDING;
	cow_queue_set_guest(f->queue, 0, &p->memory.guest);
	cow_queue_submit(f->queue, 0, kind, 0, off, length, p->base, note_result, &f->results[0]);
	run(f);
}

static void expect_pages(const struct pages *p, uint64_t length, int value)
{
	for (uint64_t i = 0; i < length; i++)
		assert_int_equal(p->pages[i], value);
}

/* In one run, straight; and zeros, which have to be stored. */
static void test_read(void **state)
{
	struct fixture *f = *state;
	struct pages p;
	make_pages(&p, 9);
	write_bytes(f, 0, CLUSTER, 1);
	start_guest(f, &p, COW_OP_READ, 0, CLUSTER);
	assert_int_equal(f->results[0], 0);
	expect_pages(&p, CLUSTER, 1);
	assert_int_equal(p.base[0], 0x5a); /* nobody has been here */
	p.memory.guest.store = fails;
	start_guest(f, &p, COW_OP_READ, 0, CLUSTER);
	assert_int_equal(f->results[0], 0);
	start_guest(f, &p, COW_OP_READ, 4 * CLUSTER, CLUSTER);
	assert_int_equal(f->results[0], -EFAULT);
	p.memory.guest.store = p.store;
	start_guest(f, &p, COW_OP_READ, 4 * CLUSTER, CLUSTER);
	assert_int_equal(f->results[0], 0);
	expect_pages(&p, CLUSTER, 0);
	free_pages(&p);
}

/* In place, straight; copy on write has to fetch, and nothing has changed if that fails. */
static void test_write(void **state)
{
	struct fixture *f = *state;
	struct pages p;
	make_pages(&p, 2);
	write_bytes(f, 0, CLUSTER, 1);
	p.memory.guest.fetch = fails;
	start_guest(f, &p, COW_OP_WRITE, 0, 512);
	assert_int_equal(f->results[0], 0);
	expect_bytes(f, 0, 512, 2);
	take_snapshot(f);
	start_guest(f, &p, COW_OP_WRITE, 1024, 512);
	assert_int_equal(f->results[0], -EFAULT);
	expect_bytes(f, 512, CLUSTER - 512, 1);
	p.memory.guest.fetch = p.fetch;
	start_guest(f, &p, COW_OP_WRITE, 1024, 512);
	assert_int_equal(f->results[0], 0);
	expect_bytes(f, 0, 512, 2);
	expect_bytes(f, 512, 512, 1);
	expect_bytes(f, 1024, 512, 2);
	expect_bytes(f, 1536, CLUSTER - 1536, 1);
	free_pages(&p);
}

/* They are gone when the request ends: the next one has its bytes at hand. */
static void test_once(void **state)
{
	struct fixture *f = *state;
	struct pages p;
	make_pages(&p, 3);
	start_guest(f, &p, COW_OP_WRITE, SIZE_BYTES, 512);
	assert_int_equal(f->results[0], -EINVAL);
	write_bytes(f, 0, 512, 1);
	expect_bytes(f, 0, 512, 1);
	start_guest(f, &p, COW_OP_WRITE, 0, 512);
	write_bytes(f, 512, 512, 1);
	expect_bytes(f, 0, 512, 3);
	expect_bytes(f, 512, 512, 1);
	free_pages(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_read, request_setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_write, request_setup, request_teardown),
		cmocka_unit_test_setup_teardown(test_once, request_setup, request_teardown),
	};
	return cmocka_run_group_tests_name("guest", tests, NULL, NULL);
}
