/* SPDX-License-Identifier: MIT */
/* The pure parts of the ublk server: requests and answers, device parameters, affinity, sizes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/device/affinity.c"
#include "daemon/options/cmd.c"
#include "daemon/device/params.c"
#undef SECTOR_SHIFT
#include "daemon/device/request.c"
#include "engine/request/kind.h"

/* ---- requests ---- */

static struct cow_request decode(uint32_t op_flags, uint64_t sector, uint32_t sectors)
{
	struct ub_io_desc desc = { .op_flags = op_flags,
				   .start_sector = sector,
				   .nr_sectors = sectors };
	struct cow_request request;
	assert_int_equal(cow_request_decode(&desc, 1 << 20, &request), 0);
	return request;
}

static void requests_are_told_in_bytes(void **state)
{
	struct cow_request r = decode(UB_IO_OP_READ, 1ull << 40, 2048);
	assert_int_equal(r.kind, COW_OP_READ);
	assert_int_equal(r.offset, 1ull << 49);
	assert_int_equal(r.length, 1 << 20);
	r = decode(UB_IO_OP_DISCARD, 0, UINT32_MAX);
	assert_int_equal(r.kind, COW_OP_DISCARD);
	assert_int_equal(r.length, (uint64_t)UINT32_MAX * 512);
}

static void flags_go_where_they_mean_something(void **state)
{
	uint32_t all = UB_IO_F_FUA | UB_IO_F_NOUNMAP | UB_IO_F_META | UB_IO_F_SWAP;
	assert_int_equal(decode(UB_IO_OP_WRITE | all, 0, 8).flags, COW_OP_FUA);
	assert_int_equal(decode(UB_IO_OP_WRITE_ZEROES | all, 0, 8).flags,
			 COW_OP_FUA | COW_OP_NOUNMAP);
	assert_int_equal(decode(UB_IO_OP_WRITE_ZEROES, 0, 8).flags, 0);
	assert_int_equal(decode(UB_IO_OP_READ | all, 0, 8).flags, 0);
	assert_int_equal(decode(UB_IO_OP_DISCARD | all, 0, 8).flags, 0);
}

static void a_flush_has_no_range(void **state)
{
	struct cow_request r = decode(UB_IO_OP_FLUSH, UINT64_MAX, 8);
	assert_int_equal(r.kind, COW_OP_FLUSH);
	assert_int_equal(r.offset, 0);
	assert_int_equal(r.length, 0);
}

static void what_was_not_offered_is_refused(void **state)
{
	struct cow_request r;
	struct ub_io_desc desc = { .op_flags = UB_IO_OP_WRITE_SAME, .nr_sectors = 1 };
	assert_int_equal(cow_request_decode(&desc, 4096, &r), -EOPNOTSUPP);
	desc.op_flags = 255;
	assert_int_equal(cow_request_decode(&desc, 4096, &r), -EOPNOTSUPP);
	desc.op_flags = UB_IO_OP_WRITE;
	desc.nr_sectors = 9;
	assert_int_equal(cow_request_decode(&desc, 4096, &r), -EIO);
}

static void answers_are_bytes_or_a_status_the_kernel_knows(void **state)
{
	assert_int_equal(cow_request_answer(0, 4096), 4096);
	assert_int_equal(cow_request_answer(0, 0), 0);
	assert_int_equal(cow_request_answer(-ENOSPC, 4096), -ENOSPC);
	assert_int_equal(cow_request_answer(-EOPNOTSUPP, 0), -EOPNOTSUPP);
	assert_int_equal(cow_request_answer(-EAGAIN, 4096), -EIO);
	assert_int_equal(cow_request_answer(-ENOMEM, 4096), -EIO);
	assert_int_equal(cow_request_answer(-EROFS, 4096), -EIO);
}

/* ---- parameters ---- */

static struct ub_params params_of(uint32_t cluster_bytes, bool writable, bool discard)
{
	struct cow_image_geometry g = { .size_bytes = 1 << 30,
					.cluster_bytes = cluster_bytes,
					.writable = writable };
	struct ub_params p;
	cow_params_fill(&p, &g, 512, 1 << 20, discard);
	return p;
}

static void block_sizes_follow_the_cluster(void **state)
{
	for (uint32_t bits = 9; bits <= 21; bits++) {
		struct ub_params p = params_of(1u << bits, true, true);
		assert_int_equal(p.basic.logical_bs_shift, 9);
		assert_int_equal(p.basic.physical_bs_shift, bits < 12 ? bits : 12);
		assert_int_equal(p.basic.io_opt_shift, bits);
		assert_int_equal(p.discard.discard_granularity, 1u << bits);
		uint64_t discard = (uint64_t)p.discard.max_discard_sectors * 512;
		assert_true(discard >= 1u << bits && discard <= COW_MAX_DISCARD_BYTES);
		assert_true(discard >> bits <= COW_MAX_DISCARD_CLUSTERS);
		assert_int_equal(discard & ((1u << bits) - 1), 0);
	}
}

static void logical_blocks_of_4096_bound_the_others(void **state)
{
	for (uint32_t bits = 9; bits <= 21; bits++) {
		struct cow_image_geometry g = { .size_bytes = 1 << 30,
						.cluster_bytes = 1u << bits,
						.writable = true };
		struct ub_params p;
		unsigned least = bits < 12 ? 12 : bits;
		cow_params_fill(&p, &g, 4096, 1 << 20, true);
		assert_int_equal(p.basic.logical_bs_shift, 12);
		assert_int_equal(p.basic.physical_bs_shift, 12);
		assert_int_equal(p.basic.io_opt_shift, least);
		assert_int_equal(p.discard.discard_granularity, 1u << least);
		assert_int_equal(p.discard.max_discard_sectors % 8, 0);
		assert_int_equal(p.basic.dev_sectors, (1 << 30) / 512);
	}
}

static void attributes_and_limits(void **state)
{
	struct ub_params p = params_of(65536, true, true);
	assert_int_equal(p.basic.attrs, UB_ATTR_VOLATILE_CACHE | UB_ATTR_FUA);
	assert_int_equal(p.basic.dev_sectors, (1 << 30) / 512);
	assert_int_equal(p.basic.max_sectors, 2048);
	assert_int_equal(p.types, UB_PARAM_TYPE_BASIC | UB_PARAM_TYPE_DISCARD);
	p = params_of(65536, true, false);
	assert_int_equal(p.discard.max_discard_sectors, 0);
	assert_true(p.discard.max_write_zeroes_sectors > 0);
	p = params_of(65536, false, true);
	assert_true(p.basic.attrs & UB_ATTR_READ_ONLY);
	assert_int_equal(p.types, UB_PARAM_TYPE_BASIC);
}

static void buffers_fit_their_budget(void **state)
{
	assert_int_equal(cow_params_buffer_bytes(1, 1), COW_MAX_OP_BYTES);
	assert_int_equal(cow_params_buffer_bytes(2, 64), COW_MAX_OP_BYTES);
	assert_int_equal(cow_params_buffer_bytes(16, 64), 256 << 10);
	assert_int_equal(cow_params_buffer_bytes(COW_MAX_QUEUES, COW_MAX_QUEUE_DEPTH),
			 COW_MIN_BUFFER_BYTES);
}

/* ---- affinity ---- */

static cpu_set_t cpus_of(const char *list)
{
	cpu_set_t set;
	assert_int_equal(parse_list(list, &set), 0);
	return set;
}

static void lists_of_cpus(void **state)
{
	cpu_set_t set = cpus_of("0-2,5");
	assert_int_equal(CPU_COUNT(&set), 4);
	assert_true(CPU_ISSET(5, &set) && CPU_ISSET(0, &set) && !CPU_ISSET(3, &set));
	struct cow_affinity a;
	const char *const bad[] = { "", "x", "1-", "3-1", "1,", "1,,2", "99999", "0-1 ", "queues" };
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(cow_affinity_parse(bad[i], &a), -EINVAL);
}

static bool choose(const char *policy, const char *submitters, const char *allowed, cpu_set_t *out)
{
	struct cow_affinity a;
	cpu_set_t s = cpus_of(submitters), all = cpus_of(allowed);
	assert_int_equal(cow_affinity_parse(policy, &a), 0);
	return cow_affinity_choose(&a, &s, &all, out);
}

static void policies_choose(void **state)
{
	cpu_set_t got, want;
	assert_false(choose("float", "0", "0-3", &got));
	assert_true(choose("queue", "1,2,7", "0-3", &got));
	want = cpus_of("1,2");
	assert_true(CPU_EQUAL(&got, &want));
	assert_true(choose("other", "1,2,7", "0-3", &got));
	want = cpus_of("0,3");
	assert_true(CPU_EQUAL(&got, &want));
	assert_false(choose("other", "0", "0", &got)); /* no other CPU: leave it */
	assert_true(choose("2-9", "0", "0-3", &got));
	want = cpus_of("2,3");
	assert_true(CPU_EQUAL(&got, &want));
}

/* ---- sizes ---- */

static void sizes(void **state)
{
	static const struct {
		const char *text;
		unsigned long long bytes;
	} good[] = { { "512", 512 },	   { "1k", 1024 },	  { "20G", 20ull << 30 },
		     { "1.5M", 3 << 19 },  { "16MiB", 16 << 20 }, { "16MB", 16 << 20 },
		     { "7E", 7ull << 60 }, { "100B", 100 } };
	unsigned long long v;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(cow_cmd_parse_size(good[i].text, &v), 0);
		assert_int_equal(v, good[i].bytes);
	}
	const char *const bad[] = {
		"", "-1", "x", "1X", "1Kx", "16E", "99999999999999999999", " 1"
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(cow_cmd_parse_size(bad[i], &v), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests_are_told_in_bytes),
		cmocka_unit_test(flags_go_where_they_mean_something),
		cmocka_unit_test(a_flush_has_no_range),
		cmocka_unit_test(what_was_not_offered_is_refused),
		cmocka_unit_test(answers_are_bytes_or_a_status_the_kernel_knows),
		cmocka_unit_test(block_sizes_follow_the_cluster),
		cmocka_unit_test(logical_blocks_of_4096_bound_the_others),
		cmocka_unit_test(attributes_and_limits),
		cmocka_unit_test(buffers_fit_their_budget),
		cmocka_unit_test(lists_of_cpus),
		cmocka_unit_test(policies_choose),
		cmocka_unit_test(sizes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
