/* SPDX-License-Identifier: MIT */
/* The image /disk on a host in memory: made, and checked. For tests whose fixture is their own. */
#ifndef COW_TEST_DISK_FIXTURE_H
#define COW_TEST_DISK_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/check/check.h"
#include "engine/create/create.h"
#include "tests/memory/memory_host.h"

static inline void disk_create(struct memory_host *m, const struct cow_create_options *options)
{
	struct cow_error err = { 0 };
	if (cow_create(&m->host, &m->loop, "/disk", options, &err))
		fail_msg("create: %s", err.text);
}

static inline void disk_print_finding(void *ctx, const char *text)
{
	print_message("  %s\n", text);
}

/* Nothing in it is wrong. The clusters that leak. */
static inline uint64_t disk_expect_sound(struct memory_host *m)
{
	const struct cow_check_options options = { .repair = COW_REPAIR_NONE,
						   .finding = disk_print_finding };
	struct cow_check_result result;
	struct cow_error err = { 0 };
	struct cow_file *file;
	assert_int_equal(m->host.ops->open(&m->host, "/disk", 0, &file, &err), 0);
	int ret = cow_check_file(&m->loop, file, &options, &result, &err);
	m->host.ops->close(file);
	if (ret)
		fail_msg("check: %s", err.text);
	assert_int_equal(result.corruptions, 0);
	assert_int_equal(result.check_errors, 0);
	return result.leaks;
}

static inline void disk_expect_clean(struct memory_host *m)
{
	assert_int_equal(disk_expect_sound(m), 0);
}

#endif
