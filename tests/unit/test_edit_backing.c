/* SPDX-License-Identifier: MIT */
/* Another backing file's name: until the header's sector is written, the old header holds. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/base/be.h"
#include "engine/create/create.h"
#include "engine/edit/edit_backing.h"
#include "engine/format/format.h"
#include "tests/memory/memory_host.h"

#define FEATURES 112u  /* behind the header: the feature names, as long as QEMU's may be */
#define EXTENSION 512u /* what follows them: the first that is not in the header's sector */
#define EXTENSION_BYTES 32u
#define UNKNOWN 0x12345678u

static void put(struct memory_host *m, uint64_t at, uint32_t type, uint32_t bytes)
{
	cow_store32_be(m->bytes + at, type);
	cow_store32_be(m->bytes + at + 4, bytes);
	memory_fill(m, at + 8, 0x5a, bytes);
}

/* An image without a backing file whose extensions go on behind the sector. */
static void make(struct memory_host *m)
{
	struct cow_create_options options = { .size_bytes = 1 << 20, .has_size = true };
	assert_int_equal(cow_create(&m->host, &m->loop, "/disk", &options, NULL), 0);
	memory_fill(m, FEATURES, 0, 65536 - FEATURES);
	put(m, FEATURES, QCOW2_EXT_FEATURE_NAMES, EXTENSION - FEATURES - 8);
	put(m, EXTENSION, UNKNOWN, EXTENSION_BYTES);
}

static int rename_to(struct memory_host *m, const char *name)
{
	struct cow_file *file;
	assert_int_equal(m->host.ops->open(&m->host, "/disk", COW_OPEN_WRITE, &file, NULL), 0);
	int ret = cow_edit_backing(&m->loop, file, name, "raw", NULL);
	m->host.ops->close(file);
	return ret;
}

static void refused_sector(void **state)
{
	struct memory_host *m = memory_host_new();
	char name[700];
	uint8_t before[EXTENSION + EXTENSION_BYTES + 16];
	memset(name, 'n', sizeof(name));
	name[sizeof(name) - 1] = 0;
	make(m);
	memcpy(before, m->bytes, sizeof(before));
	m->fail_error = -ENOSPC;
	m->fail_kind = COW_IO_WRITE;
	m->fail_skip = 1; /* the name's own */
	assert_int_equal(rename_to(m, name), -ENOSPC);
	assert_memory_equal(m->bytes, before, sizeof(before));
	assert_int_equal(rename_to(m, name), 0);
	uint64_t off = cow_load64_be(m->bytes + 8);
	assert_int_equal(cow_load32_be(m->bytes + 16), sizeof(name) - 1);
	assert_memory_equal(m->bytes + off, name, sizeof(name) - 1);
	assert_int_equal(cow_load32_be(m->bytes + FEATURES), UNKNOWN);
	memory_host_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(refused_sector) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
