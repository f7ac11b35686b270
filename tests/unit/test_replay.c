/* SPDX-License-Identifier: MIT */
/*
 * What a process leaves to its successor: the odd ends. That nothing acknowledged is lost, at any
 * moment and again and again, is the simulator's. die() is the death of a process: its file and its
 * memory stay as they were.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine/meta/outlive.h"
#include "tests/unit/request_fixture.h"

static int replay_setup(void **state)
{
	request_setup(state);
	struct fixture *f = *state;
	close_image(f);
	f->options.outlive_fd = memfd_create("test_replay", MFD_CLOEXEC);
	assert_true(f->options.outlive_fd > 0);
	open_image(f);
	return 0;
}

static int replay_teardown(void **state)
{
	struct fixture *f = *state;
	close(f->options.outlive_fd);
	return request_teardown(state);
}

static int copy_memory(int from)
{
	uint8_t page[4096];
	int to = memfd_create("test_replay", MFD_CLOEXEC);
	assert_true(to > 0);
	assert_int_equal(ftruncate(to, lseek(from, 0, SEEK_END)), 0);
	for (off_t at = lseek(from, 0, SEEK_DATA); at >= 0; at = lseek(from, at, SEEK_DATA)) {
		assert_int_equal(pread(from, page, sizeof(page), at), sizeof(page));
		assert_int_equal(pwrite(to, page, sizeof(page), at), sizeof(page));
		at += (off_t)sizeof(page);
	}
	return to;
}

/* The process goes on, to a close that is not seen, since what it left is a copy. */
static void die(struct fixture *f)
{
	struct memory_content left = { 0 };
	struct cow_error err = { 0 };
	int memory = copy_memory(f->options.outlive_fd);
	memory_content_copy(&left, &f->m->file->now);
	f->m->fail_error = 0;
	cow_queue_free(f->queue);
	COW_IGNORE(cow_image_close(f->image, &f->m->loop, &err));
	f->image = NULL;
	close(f->options.outlive_fd);
	f->options.outlive_fd = memory;
	memory_restore(f->m, &left);
	memory_content_fini(&left);
}

static struct cow_outlive_head *map_head(const struct fixture *f)
{
	void *head = mmap(NULL, sizeof(struct cow_outlive_head), PROT_READ | PROT_WRITE, MAP_SHARED,
			  f->options.outlive_fd, 0);
	assert_true(head != MAP_FAILED);
	return head;
}

static void unmap_head(struct cow_outlive_head *head)
{
	munmap(head, sizeof(*head));
}

static void expect_no_open(struct fixture *f, int error, const char *text)
{
	struct cow_error err = { 0 };
	struct cow_image *image;
	int ret = cow_image_open(&f->m->host, &f->m->loop, "/disk", &f->options, &image, &err);
	assert_int_equal(ret, error);
	if (!strstr(err.text, text))
		fail_msg("says: %s", err.text);
}

/* For the teardown: nobody comes after this one. */
static void forget(struct fixture *f)
{
	assert_int_equal(ftruncate(f->options.outlive_fd, 0), 0);
	open_image(f);
	close_image(f);
	const struct cow_check_options options = { .repair = COW_REPAIR_LEAKS };
	struct cow_check_result result;
	struct cow_error err = { 0 };
	struct cow_file *file = open_file(f);
	assert_int_equal(cow_check_file(&f->m->loop, file, &options, &result, &err), 0);
	f->m->host.ops->close(file);
}

static void test_what_was_acknowledged(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, 512, 1);
	write_bytes(f, 3 * CLUSTER, 2 * CLUSTER, 2);
	die(f);
	open_image(f);
	expect_bytes(f, 0, 512, 1);
	expect_bytes(f, 3 * CLUSTER, 2 * CLUSTER, 2);
}

/* The close gives back what the dead one had set aside: request_teardown() looks for leaks. */
static void test_leaks_are_given_back(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, 512, 1);
	die(f);
	disk_expect_sound(f->m);
	open_image(f);
}

/* Killed while it opens the image: it has replayed, its own memory is empty. */
static void test_leaks_of_one_before_the_last(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, 512, 1);
	settle(f);
	die(f);
	open_image(f);
	struct cow_outlive_head *head = map_head(f);
	atomic_store(&head->magic, 0); /* cow_outlive_complete() is still to come */
	unmap_head(head);
	die(f);
	open_image(f);
	expect_bytes(f, 0, 512, 1);
}

static void test_an_image_in_doubt(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, 512, 1);
	f->m->fail_kind = COW_IO_SYNC;
	f->m->fail_error = -EIO;
	assert_int_equal(cow_queue_do(f->queue, COW_OP_FLUSH, 0, 0, 0, NULL), -EIO);
	assert_non_null(cow_image_failure(f->image));
	die(f);
	expect_no_open(f, -ENOTRECOVERABLE, "in doubt");
	forget(f);
}

static void test_another_version(void **state)
{
	struct fixture *f = *state;
	write_bytes(f, 0, 512, 1);
	die(f);
	struct cow_outlive_head *head = map_head(f);
	head->version++;
	unmap_head(head);
	expect_no_open(f, -ENOTSUP, "another version");
	forget(f);
}

/* Who filled the memory had met a hostile image. */
static void spoil_slots(struct cow_outlive_head *head)
{
	head->l2.nr_slots = UINT64_MAX / 2;
}

static void spoil_slices(struct cow_outlive_head *head)
{
	head->refs.slice_bytes = 12345;
}

static void spoil_place(struct cow_outlive_head *head)
{
	head->l2.data_off = 1ull << 60;
}

static void spoil_table(struct cow_outlive_head *head)
{
	head->l1.capacity = 1ull << 60;
}

static void spoil_target(struct cow_outlive_head *head)
{
	head->l1.off = UINT64_MAX - 511;
}

static void test_nonsense(void **state)
{
	void (*const spoils[])(struct cow_outlive_head *) = {
		spoil_slots, spoil_slices, spoil_place, spoil_table, spoil_target,
	};
	struct fixture *f = *state;
	for (size_t i = 0; i < sizeof(spoils) / sizeof(spoils[0]); i++) {
		write_bytes(f, 0, 512, 1);
		write_bytes(f, 8ull << 20, 512, 1);
		die(f);
		struct memory_content before = { 0 };
		memory_content_copy(&before, &f->m->file->now);
		struct cow_outlive_head *head = map_head(f);
		spoils[i](head);
		unmap_head(head);
		expect_no_open(f, -EUCLEAN, "cannot write what the daemon that died");
		memory_restore(f->m, &before);
		memory_content_fini(&before);
		forget(f);
		open_image(f);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, replay_setup, replay_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_what_was_acknowledged),
		TEST(test_leaks_are_given_back),
		TEST(test_leaks_of_one_before_the_last),
		TEST(test_an_image_in_doubt),
		TEST(test_another_version),
		TEST(test_nonsense),
	};
	return cmocka_run_group_tests_name("replay", tests, NULL, NULL);
}
