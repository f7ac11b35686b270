/* SPDX-License-Identifier: MIT */
/*
 * uapi/ublk.h against the system's <linux/ublk_cmd.h>, which may be older: what it does not have is
 * not compared, and the test says how much was. Layouts are compared field by field, so that a swap
 * of two fields of one size is found.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "uapi/ublk.h"

#if __has_include(<linux/ublk_cmd.h>)
#include <linux/ublk_cmd.h>

static unsigned compared;

#define SAME(ours, theirs)                                                                         \
	(assert_int_equal((unsigned long long)(ours), (unsigned long long)(theirs)), compared++)
#define SAME_FIELD(ours, theirs, field)                                                            \
	(SAME(offsetof(struct ours, field), offsetof(struct theirs, field)),                       \
	 SAME(sizeof(((struct ours *)0)->field), sizeof(((struct theirs *)0)->field)))

static void control_commands_are_the_kernels(void **state)
{
	SAME(_IOC_NR(UB_CMD_GET_QUEUE_AFFINITY), UBLK_CMD_GET_QUEUE_AFFINITY);
	SAME(_IOC_NR(UB_CMD_GET_DEV_INFO), UBLK_CMD_GET_DEV_INFO);
	SAME(_IOC_NR(UB_CMD_ADD_DEV), UBLK_CMD_ADD_DEV);
	SAME(_IOC_NR(UB_CMD_DEL_DEV), UBLK_CMD_DEL_DEV);
	SAME(_IOC_NR(UB_CMD_START_DEV), UBLK_CMD_START_DEV);
	SAME(_IOC_NR(UB_CMD_STOP_DEV), UBLK_CMD_STOP_DEV);
	SAME(_IOC_NR(UB_CMD_SET_PARAMS), UBLK_CMD_SET_PARAMS);
	SAME(_IOC_NR(UB_CMD_GET_PARAMS), UBLK_CMD_GET_PARAMS);
	SAME(_IOC_NR(UB_CMD_START_USER_RECOVERY), UBLK_CMD_START_USER_RECOVERY);
	SAME(_IOC_NR(UB_CMD_END_USER_RECOVERY), UBLK_CMD_END_USER_RECOVERY);
#ifdef UBLK_U_CMD_ADD_DEV
	SAME(UB_CMD_GET_QUEUE_AFFINITY, UBLK_U_CMD_GET_QUEUE_AFFINITY);
	SAME(UB_CMD_GET_DEV_INFO, UBLK_U_CMD_GET_DEV_INFO);
	SAME(UB_CMD_ADD_DEV, UBLK_U_CMD_ADD_DEV);
	SAME(UB_CMD_DEL_DEV, UBLK_U_CMD_DEL_DEV);
	SAME(UB_CMD_START_DEV, UBLK_U_CMD_START_DEV);
	SAME(UB_CMD_STOP_DEV, UBLK_U_CMD_STOP_DEV);
	SAME(UB_CMD_SET_PARAMS, UBLK_U_CMD_SET_PARAMS);
	SAME(UB_CMD_GET_PARAMS, UBLK_U_CMD_GET_PARAMS);
	SAME(UB_CMD_START_USER_RECOVERY, UBLK_U_CMD_START_USER_RECOVERY);
	SAME(UB_CMD_END_USER_RECOVERY, UBLK_U_CMD_END_USER_RECOVERY);
	SAME(UB_CMD_GET_DEV_INFO2, UBLK_U_CMD_GET_DEV_INFO2);
#endif
#ifdef UBLK_U_CMD_GET_FEATURES
	SAME(UB_CMD_GET_FEATURES, UBLK_U_CMD_GET_FEATURES);
	SAME(UB_FEATURES_BYTES, UBLK_FEATURES_LEN);
#endif
#ifdef UBLK_U_CMD_DEL_DEV_ASYNC
	SAME(UB_CMD_DEL_DEV_ASYNC, UBLK_U_CMD_DEL_DEV_ASYNC);
#endif
#ifdef UBLK_U_CMD_UPDATE_SIZE
	SAME(UB_CMD_UPDATE_SIZE, UBLK_U_CMD_UPDATE_SIZE);
#endif
#ifdef UBLK_U_CMD_QUIESCE_DEV
	SAME(UB_CMD_QUIESCE_DEV, UBLK_U_CMD_QUIESCE_DEV);
#endif
#ifdef UBLK_U_CMD_TRY_STOP_DEV
	SAME(UB_CMD_TRY_STOP_DEV, UBLK_U_CMD_TRY_STOP_DEV);
#endif
#ifdef UBLK_U_CMD_REG_BUF
	SAME(UB_CMD_REG_BUF, UBLK_U_CMD_REG_BUF);
	SAME(UB_CMD_UNREG_BUF, UBLK_U_CMD_UNREG_BUF);
	SAME(sizeof(struct ub_shmem_buf_reg), sizeof(struct ublk_shmem_buf_reg));
	SAME_FIELD(ub_shmem_buf_reg, ublk_shmem_buf_reg, len);
	SAME_FIELD(ub_shmem_buf_reg, ublk_shmem_buf_reg, flags);
#endif
}

static void features_are_the_kernels(void **state)
{
	SAME(UB_F_SUPPORT_ZERO_COPY, UBLK_F_SUPPORT_ZERO_COPY);
	SAME(UB_F_URING_CMD_COMP_IN_TASK, UBLK_F_URING_CMD_COMP_IN_TASK);
	SAME(UB_F_NEED_GET_DATA, UBLK_F_NEED_GET_DATA);
	SAME(UB_F_USER_RECOVERY, UBLK_F_USER_RECOVERY);
	SAME(UB_F_USER_RECOVERY_REISSUE, UBLK_F_USER_RECOVERY_REISSUE);
#ifdef UBLK_F_UNPRIVILEGED_DEV
	SAME(UB_F_UNPRIVILEGED_DEV, UBLK_F_UNPRIVILEGED_DEV);
#endif
#ifdef UBLK_F_CMD_IOCTL_ENCODE
	SAME(UB_F_CMD_IOCTL_ENCODE, UBLK_F_CMD_IOCTL_ENCODE);
#endif
#ifdef UBLK_F_USER_COPY
	SAME(UB_F_USER_COPY, UBLK_F_USER_COPY);
	SAME(ub_user_copy_off(3, 7),
	     UBLKSRV_IO_BUF_OFFSET + (3ull << UBLK_QID_OFF) + (7ull << UBLK_TAG_OFF));
	SAME(UB_IO_QUEUE_BITS, UBLK_QID_BITS);
#endif
#ifdef UBLK_F_ZONED
	SAME(UB_F_ZONED, UBLK_F_ZONED);
#endif
#ifdef UBLK_F_USER_RECOVERY_FAIL_IO
	SAME(UB_F_USER_RECOVERY_FAIL_IO, UBLK_F_USER_RECOVERY_FAIL_IO);
#endif
#ifdef UBLK_F_UPDATE_SIZE
	SAME(UB_F_UPDATE_SIZE, UBLK_F_UPDATE_SIZE);
#endif
#ifdef UBLK_F_AUTO_BUF_REG
	struct ublk_auto_buf_reg reg = { .index = 5, .flags = UBLK_AUTO_BUF_REG_FALLBACK };
	SAME(UB_F_AUTO_BUF_REG, UBLK_F_AUTO_BUF_REG);
	SAME(UB_AUTO_BUF_REG_FALLBACK, UBLK_AUTO_BUF_REG_FALLBACK);
	SAME(ub_auto_buf_reg_addr(5, UB_AUTO_BUF_REG_FALLBACK),
	     ublk_auto_buf_reg_to_sqe_addr(&reg));
#endif
#ifdef UBLK_F_QUIESCE
	SAME(UB_F_QUIESCE, UBLK_F_QUIESCE);
#endif
#ifdef UBLK_F_PER_IO_DAEMON
	SAME(UB_F_PER_IO_DAEMON, UBLK_F_PER_IO_DAEMON);
#endif
#ifdef UBLK_F_BUF_REG_OFF_DAEMON
	SAME(UB_F_BUF_REG_OFF_DAEMON, UBLK_F_BUF_REG_OFF_DAEMON);
#endif
#ifdef UBLK_F_BATCH_IO
	SAME(UB_F_BATCH_IO, UBLK_F_BATCH_IO);
#endif
#ifdef UBLK_F_INTEGRITY
	SAME(UB_F_INTEGRITY, UBLK_F_INTEGRITY);
#endif
#ifdef UBLK_F_SAFE_STOP_DEV
	SAME(UB_F_SAFE_STOP_DEV, UBLK_F_SAFE_STOP_DEV);
#endif
#ifdef UBLK_F_NO_AUTO_PART_SCAN
	SAME(UB_F_NO_AUTO_PART_SCAN, UBLK_F_NO_AUTO_PART_SCAN);
#endif
#ifdef UBLK_F_IO_DESC_SIZE
	SAME(UB_F_IO_DESC_SIZE, UBLK_F_IO_DESC_SIZE);
	SAME_FIELD(ub_dev_info, ublksrv_ctrl_dev_info, io_desc_size);
#endif
#ifdef UBLK_F_SHMEM_ZC
	SAME(UB_F_SHMEM_ZC, UBLK_F_SHMEM_ZC);
#endif
}

static void control_structs_are_the_kernels(void **state)
{
	SAME(sizeof(struct ub_ctrl_cmd), sizeof(struct ublksrv_ctrl_cmd));
	SAME_FIELD(ub_ctrl_cmd, ublksrv_ctrl_cmd, dev_id);
	SAME_FIELD(ub_ctrl_cmd, ublksrv_ctrl_cmd, queue_id);
	SAME_FIELD(ub_ctrl_cmd, ublksrv_ctrl_cmd, len);
	SAME_FIELD(ub_ctrl_cmd, ublksrv_ctrl_cmd, addr);
	SAME(offsetof(struct ub_ctrl_cmd, data), offsetof(struct ublksrv_ctrl_cmd, data));
#ifdef UBLK_U_CMD_GET_DEV_INFO2
	SAME_FIELD(ub_ctrl_cmd, ublksrv_ctrl_cmd, dev_path_len);
#endif
	SAME(sizeof(struct ub_dev_info), sizeof(struct ublksrv_ctrl_dev_info));
	SAME_FIELD(ub_dev_info, ublksrv_ctrl_dev_info, nr_hw_queues);
	SAME_FIELD(ub_dev_info, ublksrv_ctrl_dev_info, queue_depth);
	SAME_FIELD(ub_dev_info, ublksrv_ctrl_dev_info, state);
	SAME_FIELD(ub_dev_info, ublksrv_ctrl_dev_info, max_io_buf_bytes);
	SAME_FIELD(ub_dev_info, ublksrv_ctrl_dev_info, dev_id);
	SAME_FIELD(ub_dev_info, ublksrv_ctrl_dev_info, ublksrv_pid);
	SAME_FIELD(ub_dev_info, ublksrv_ctrl_dev_info, flags);
	SAME_FIELD(ub_dev_info, ublksrv_ctrl_dev_info, ublksrv_flags);
	SAME(UB_S_DEV_DEAD, UBLK_S_DEV_DEAD);
	SAME(UB_S_DEV_LIVE, UBLK_S_DEV_LIVE);
	SAME(UB_S_DEV_QUIESCED, UBLK_S_DEV_QUIESCED);
#ifdef UBLK_S_DEV_FAIL_IO
	SAME(UB_S_DEV_FAIL_IO, UBLK_S_DEV_FAIL_IO);
#endif
	SAME(UB_MAX_QUEUE_DEPTH, UBLK_MAX_QUEUE_DEPTH);
}

static void parameters_are_the_kernels(void **state)
{
	SAME(UB_ATTR_READ_ONLY, UBLK_ATTR_READ_ONLY);
	SAME(UB_ATTR_ROTATIONAL, UBLK_ATTR_ROTATIONAL);
	SAME(UB_ATTR_VOLATILE_CACHE, UBLK_ATTR_VOLATILE_CACHE);
	SAME(UB_ATTR_FUA, UBLK_ATTR_FUA);
	SAME(sizeof(struct ub_param_basic), sizeof(struct ublk_param_basic));
	SAME_FIELD(ub_param_basic, ublk_param_basic, attrs);
	SAME_FIELD(ub_param_basic, ublk_param_basic, logical_bs_shift);
	SAME_FIELD(ub_param_basic, ublk_param_basic, physical_bs_shift);
	SAME_FIELD(ub_param_basic, ublk_param_basic, io_opt_shift);
	SAME_FIELD(ub_param_basic, ublk_param_basic, io_min_shift);
	SAME_FIELD(ub_param_basic, ublk_param_basic, max_sectors);
	SAME_FIELD(ub_param_basic, ublk_param_basic, chunk_sectors);
	SAME_FIELD(ub_param_basic, ublk_param_basic, dev_sectors);
	SAME_FIELD(ub_param_basic, ublk_param_basic, virt_boundary_mask);
	SAME(sizeof(struct ub_param_discard), sizeof(struct ublk_param_discard));
	SAME_FIELD(ub_param_discard, ublk_param_discard, discard_alignment);
	SAME_FIELD(ub_param_discard, ublk_param_discard, discard_granularity);
	SAME_FIELD(ub_param_discard, ublk_param_discard, max_discard_sectors);
	SAME_FIELD(ub_param_discard, ublk_param_discard, max_write_zeroes_sectors);
	SAME_FIELD(ub_param_discard, ublk_param_discard, max_discard_segments);
	SAME(UB_PARAM_TYPE_BASIC, UBLK_PARAM_TYPE_BASIC);
	SAME(UB_PARAM_TYPE_DISCARD, UBLK_PARAM_TYPE_DISCARD);
	SAME_FIELD(ub_params, ublk_params, len);
	SAME_FIELD(ub_params, ublk_params, types);
	SAME_FIELD(ub_params, ublk_params, basic);
	SAME_FIELD(ub_params, ublk_params, discard);
#ifdef UBLK_PARAM_TYPE_DEVT
	SAME(UB_PARAM_TYPE_DEVT, UBLK_PARAM_TYPE_DEVT);
	SAME_FIELD(ub_params, ublk_params, devt);
	SAME_FIELD(ub_param_devt, ublk_param_devt, disk_major);
	SAME_FIELD(ub_param_devt, ublk_param_devt, disk_minor);
#endif
#ifdef UBLK_PARAM_TYPE_ZONED
	SAME(UB_PARAM_TYPE_ZONED, UBLK_PARAM_TYPE_ZONED);
	SAME_FIELD(ub_params, ublk_params, zoned);
#endif
#ifdef UBLK_PARAM_TYPE_DMA_ALIGN
	SAME(UB_PARAM_TYPE_DMA_ALIGN, UBLK_PARAM_TYPE_DMA_ALIGN);
	SAME_FIELD(ub_params, ublk_params, dma);
#endif
#ifdef UBLK_PARAM_TYPE_SEGMENT
	SAME(UB_PARAM_TYPE_SEGMENT, UBLK_PARAM_TYPE_SEGMENT);
	SAME_FIELD(ub_params, ublk_params, seg);
	SAME_FIELD(ub_param_segment, ublk_param_segment, max_segment_size);
	SAME_FIELD(ub_param_segment, ublk_param_segment, max_segments);
#endif
#ifdef UBLK_PARAM_TYPE_INTEGRITY
	SAME(UB_PARAM_TYPE_INTEGRITY, UBLK_PARAM_TYPE_INTEGRITY);
	SAME_FIELD(ub_params, ublk_params, integrity);
	SAME(sizeof(struct ub_params), sizeof(struct ublk_params));
#endif
}

static void requests_are_the_kernels(void **state)
{
	SAME(_IOC_NR(UB_IO_FETCH_REQ), UBLK_IO_FETCH_REQ);
	SAME(_IOC_NR(UB_IO_COMMIT_AND_FETCH_REQ), UBLK_IO_COMMIT_AND_FETCH_REQ);
	SAME(_IOC_NR(UB_IO_NEED_GET_DATA), UBLK_IO_NEED_GET_DATA);
#ifdef UBLK_U_IO_FETCH_REQ
	SAME(UB_IO_FETCH_REQ, UBLK_U_IO_FETCH_REQ);
	SAME(UB_IO_COMMIT_AND_FETCH_REQ, UBLK_U_IO_COMMIT_AND_FETCH_REQ);
	SAME(UB_IO_NEED_GET_DATA, UBLK_U_IO_NEED_GET_DATA);
#endif
#ifdef UBLK_U_IO_REGISTER_IO_BUF
	SAME(UB_IO_REGISTER_IO_BUF, UBLK_U_IO_REGISTER_IO_BUF);
	SAME(UB_IO_UNREGISTER_IO_BUF, UBLK_U_IO_UNREGISTER_IO_BUF);
#endif
#ifdef UBLK_F_BATCH_IO
	SAME(UB_IO_PREP_IO_CMDS, UBLK_U_IO_PREP_IO_CMDS);
	SAME(UB_IO_COMMIT_IO_CMDS, UBLK_U_IO_COMMIT_IO_CMDS);
	SAME(UB_IO_FETCH_IO_CMDS, UBLK_U_IO_FETCH_IO_CMDS);
	SAME(UB_BATCH_F_HAS_ZONE_LBA, UBLK_BATCH_F_HAS_ZONE_LBA);
	SAME(UB_BATCH_F_HAS_BUF_ADDR, UBLK_BATCH_F_HAS_BUF_ADDR);
	SAME(UB_BATCH_F_AUTO_BUF_REG_FALLBACK, UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK);
	SAME(sizeof(struct ub_batch_io), sizeof(struct ublk_batch_io));
	SAME_FIELD(ub_batch_io, ublk_batch_io, nr_elem);
	SAME_FIELD(ub_batch_io, ublk_batch_io, elem_bytes);
	SAME(sizeof(struct ub_elem_header), sizeof(struct ublk_elem_header));
	SAME_FIELD(ub_elem_header, ublk_elem_header, result);
#endif
	SAME(UB_IO_RES_OK, UBLK_IO_RES_OK);
	SAME(UB_IO_RES_NEED_GET_DATA, UBLK_IO_RES_NEED_GET_DATA);
	SAME(UB_IO_RES_ABORT, UBLK_IO_RES_ABORT);
	SAME(sizeof(struct ub_io_cmd), sizeof(struct ublksrv_io_cmd));
	SAME_FIELD(ub_io_cmd, ublksrv_io_cmd, q_id);
	SAME_FIELD(ub_io_cmd, ublksrv_io_cmd, tag);
	SAME_FIELD(ub_io_cmd, ublksrv_io_cmd, result);
	SAME_FIELD(ub_io_cmd, ublksrv_io_cmd, addr);
	SAME(sizeof(struct ub_io_desc), sizeof(struct ublksrv_io_desc));
	SAME_FIELD(ub_io_desc, ublksrv_io_desc, op_flags);
	SAME_FIELD(ub_io_desc, ublksrv_io_desc, nr_sectors);
	SAME_FIELD(ub_io_desc, ublksrv_io_desc, start_sector);
	SAME_FIELD(ub_io_desc, ublksrv_io_desc, addr);
	SAME(UB_CMD_BUF_OFF, UBLKSRV_CMD_BUF_OFFSET);
	SAME(UB_IO_BUF_OFF, UBLKSRV_IO_BUF_OFFSET);
}

static void operations_are_the_kernels(void **state)
{
	SAME(UB_IO_OP_READ, UBLK_IO_OP_READ);
	SAME(UB_IO_OP_WRITE, UBLK_IO_OP_WRITE);
	SAME(UB_IO_OP_FLUSH, UBLK_IO_OP_FLUSH);
	SAME(UB_IO_OP_DISCARD, UBLK_IO_OP_DISCARD);
	SAME(UB_IO_OP_WRITE_SAME, UBLK_IO_OP_WRITE_SAME);
	SAME(UB_IO_OP_WRITE_ZEROES, UBLK_IO_OP_WRITE_ZEROES);
	SAME(UB_IO_F_FAILFAST_DEV, UBLK_IO_F_FAILFAST_DEV);
	SAME(UB_IO_F_FAILFAST_TRANSPORT, UBLK_IO_F_FAILFAST_TRANSPORT);
	SAME(UB_IO_F_FAILFAST_DRIVER, UBLK_IO_F_FAILFAST_DRIVER);
	SAME(UB_IO_F_META, UBLK_IO_F_META);
	SAME(UB_IO_F_FUA, UBLK_IO_F_FUA);
	SAME(UB_IO_F_NOUNMAP, UBLK_IO_F_NOUNMAP);
	SAME(UB_IO_F_SWAP, UBLK_IO_F_SWAP);
#ifdef UBLK_IO_F_NEED_REG_BUF
	SAME(UB_IO_F_NEED_REG_BUF, UBLK_IO_F_NEED_REG_BUF);
#endif
#ifdef UBLK_IO_F_INTEGRITY
	SAME(UB_IO_F_INTEGRITY, UBLK_IO_F_INTEGRITY);
#endif
#ifdef UBLK_IO_F_SHMEM_ZC
	SAME(UB_IO_F_SHMEM_ZC, UBLK_IO_F_SHMEM_ZC);
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(control_commands_are_the_kernels),
		cmocka_unit_test(features_are_the_kernels),
		cmocka_unit_test(control_structs_are_the_kernels),
		cmocka_unit_test(parameters_are_the_kernels),
		cmocka_unit_test(requests_are_the_kernels),
		cmocka_unit_test(operations_are_the_kernels),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	printf("%u facts compared with the system's header\n", compared);
	return failed;
}

#else

int main(void)
{
	puts("skipped: <linux/ublk_cmd.h> is not installed");
	return 77;
}

#endif
