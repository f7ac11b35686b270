/* SPDX-License-Identifier: MIT */
/*
 * Check and repair of a whole image. A check writes nothing; what repair calls repaired stays
 * clean; a second repair of what is clean writes nothing.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/check/check.h"
#include "tests/memory/memory_host.h"

#define MAX_BYTES (1u << 20)
#define ROOM_BYTES (1u << 20) /* for new refcount structures */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void count_change(void *ctx, const struct cow_io *io)
{
	if (io->kind != COW_IO_SYNC)
		++*(unsigned *)ctx;
}

static void ignore(void *ctx, const char *text)
{
}

static int check(struct memory_host *disk, enum cow_repair repair, struct cow_check_result *result)
{
	struct cow_check_options options = { .repair = repair, .finding = ignore };
	struct cow_error err = { 0 };
	int ret = cow_check_file(&disk->loop, &disk->self.file, &options, result, &err);
	cow_assert(!ret == !err.code);
	return ret;
}

static bool clean(const struct cow_check_result *r)
{
	return !r->corruptions && !r->leaks && !r->check_errors;
}

static void check_then_repair(struct memory_host *disk, const unsigned *changes)
{
	struct cow_check_result first, repaired, after;
	int ret = check(disk, COW_REPAIR_NONE, &first);
	cow_assert(*changes == 0);
	if (ret || check(disk, COW_REPAIR_ALL, &repaired))
		return;
	cow_assert(!check(disk, COW_REPAIR_NONE, &after));
	cow_assert(after.corruptions == repaired.corruptions && after.leaks == repaired.leaks);
	if (!clean(&after))
		return;
	unsigned before = *changes;
	cow_assert(!check(disk, COW_REPAIR_ALL, &repaired) && clean(&repaired));
	cow_assert(*changes == before);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct memory_host disk;
	unsigned changes = 0;
	if (size > MAX_BYTES || memory_host_init(&disk, data, size, size + ROOM_BYTES))
		return 0;
	disk.changed = count_change;
	disk.ctx = &changes;
	check_then_repair(&disk, &changes);
	memory_host_fini(&disk);
	return 0;
}
