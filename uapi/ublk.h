/* SPDX-License-Identifier: MIT */
/*
 * The kernel's ublk interface: numbers and layouts as of Linux 7.3, native byte order. What a
 * kernel has is asked with UB_CMD_GET_FEATURES (Linux 6.5 and newer; -EOPNOTSUPP before).
 *
 * Names: the kernel's UBLK_ is UB_ here and its ublksrv_ is ub_, so that tests/unit/test_uapi.c can
 * include both headers and compare them. Source: include/uapi/linux/ublk_cmd.h and
 * Documentation/block/ublk.rst.
 */
#ifndef COW_UAPI_UBLK_H
#define COW_UAPI_UBLK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

#define UB_CONTROL_PATH "/dev/ublk-control"

/*
 * Control commands: SQE128 on /dev/ublk-control, a struct ub_ctrl_cmd in the SQE's command area
 * -------------------
 */

struct ub_ctrl_cmd {
	uint32_t dev_id;       /*  0: UB_ANY_ID with ADD_DEV: the kernel chooses */
	uint16_t queue_id;     /*  4: UB_NO_QUEUE unless the command is about a queue */
	uint16_t len;	       /*  6: bytes at addr */
	uint64_t addr;	       /*  8: buffer, in or out */
	uint64_t data[1];      /* 16: inline argument */
	uint16_t dev_path_len; /* 24: unprivileged devices only */
	uint16_t pad;	       /* 26 */
	uint32_t reserved;     /* 28 */
};
_Static_assert(sizeof(struct ub_ctrl_cmd) == 32, "ublk control command");
_Static_assert(offsetof(struct ub_ctrl_cmd, data) == 16, "ublk control command");

#define UB_ANY_ID UINT32_MAX
#define UB_NO_QUEUE UINT16_MAX

#define UB_CTRL_R(nr) _IOR('u', nr, struct ub_ctrl_cmd)
#define UB_CTRL_WR(nr) _IOWR('u', nr, struct ub_ctrl_cmd)

#define UB_CMD_GET_QUEUE_AFFINITY UB_CTRL_R(0x01) /* data[0] queue; out: CPU mask */
#define UB_CMD_GET_DEV_INFO UB_CTRL_R(0x02)	  /* out: struct ub_dev_info */
#define UB_CMD_ADD_DEV UB_CTRL_WR(0x04)		  /* in, out: struct ub_dev_info */
#define UB_CMD_DEL_DEV UB_CTRL_WR(0x05)		  /* waits until /dev/ublkcN is closed everywhere */
#define UB_CMD_START_DEV                                                                           \
	UB_CTRL_WR(0x06) /* data[0] server's pid; waits until every tag is fetched */
#define UB_CMD_STOP_DEV                                                                            \
	UB_CTRL_WR(0x07) /* flushes; waits for requests in flight; then aborts the fetches */
#define UB_CMD_SET_PARAMS UB_CTRL_WR(0x08) /* in: struct ub_params */
#define UB_CMD_GET_PARAMS UB_CTRL_R(0x09)  /* in, out: struct ub_params */
#define UB_CMD_START_USER_RECOVERY UB_CTRL_WR(0x10)
#define UB_CMD_END_USER_RECOVERY UB_CTRL_WR(0x11)
#define UB_CMD_GET_DEV_INFO2 UB_CTRL_R(0x12)
#define UB_CMD_GET_FEATURES UB_CTRL_R(0x13)  /* out: uint64_t of UB_F_* */
#define UB_CMD_DEL_DEV_ASYNC UB_CTRL_R(0x14) /* DEL_DEV without the wait */
#define UB_CMD_UPDATE_SIZE UB_CTRL_WR(0x15)  /* data[0] sectors */
#define UB_CMD_QUIESCE_DEV UB_CTRL_WR(0x16)
#define UB_CMD_TRY_STOP_DEV UB_CTRL_WR(0x17) /* STOP_DEV, or -EBUSY if the block device is open */
#define UB_CMD_REG_BUF UB_CTRL_WR(0x18)	  /* in: struct ub_shmem_buf_reg; the result: its index */
#define UB_CMD_UNREG_BUF UB_CTRL_WR(0x19) /* data[0] index */

/* SHMEM_ZC: memory that server and users of the device share */
struct ub_shmem_buf_reg {
	uint64_t addr;	   /*  0: in the server */
	uint64_t len;	   /*  8: bytes, whole pages */
	uint32_t flags;	   /* 16: UB_SHMEM_BUF_READ_ONLY */
	uint32_t reserved; /* 20 */
};
_Static_assert(sizeof(struct ub_shmem_buf_reg) == 24, "ublk shared buffer");
#define UB_SHMEM_BUF_READ_ONLY (1u << 0)

#define UB_FEATURES_BYTES 8

/* Feature flags of a device, and of the kernel */
#define UB_F_SUPPORT_ZERO_COPY (1ull << 0)
#define UB_F_URING_CMD_COMP_IN_TASK (1ull << 1)
#define UB_F_NEED_GET_DATA (1ull << 2)
#define UB_F_USER_RECOVERY (1ull << 3)
#define UB_F_USER_RECOVERY_REISSUE (1ull << 4)
#define UB_F_UNPRIVILEGED_DEV (1ull << 5)
#define UB_F_CMD_IOCTL_ENCODE (1ull << 6)
#define UB_F_USER_COPY (1ull << 7) /* server moves the data with pread/pwrite on /dev/ublkcN */
#define UB_F_ZONED (1ull << 8)
#define UB_F_USER_RECOVERY_FAIL_IO (1ull << 9)
#define UB_F_UPDATE_SIZE (1ull << 10)
#define UB_F_AUTO_BUF_REG (1ull << 11)
#define UB_F_QUIESCE (1ull << 12)
#define UB_F_PER_IO_DAEMON (1ull << 13)
#define UB_F_BUF_REG_OFF_DAEMON (1ull << 14)
#define UB_F_BATCH_IO (1ull << 15)
#define UB_F_INTEGRITY (1ull << 16)
#define UB_F_SAFE_STOP_DEV (1ull << 17) /* has TRY_STOP_DEV */
#define UB_F_NO_AUTO_PART_SCAN (1ull << 18)
#define UB_F_SHMEM_ZC (1ull << 19)
#define UB_F_IO_DESC_SIZE (1ull << 20) /* the server chooses io_desc_size */

/* Device states */
#define UB_S_DEV_DEAD 0
#define UB_S_DEV_LIVE 1
#define UB_S_DEV_QUIESCED 2
#define UB_S_DEV_FAIL_IO 3

struct ub_dev_info {
	uint16_t nr_hw_queues; /*  0: out: not more than there are CPUs */
	uint16_t queue_depth;  /*  2 */
	uint16_t state;	       /*  4: UB_S_DEV_* */
	uint16_t io_desc_size; /*  6: bytes, IO_DESC_SIZE: 24 to 256, a multiple of 8; out: 24 */
	uint32_t max_io_buf_bytes; /*  8 */
	uint32_t dev_id;	   /* 12 */
	int32_t ublksrv_pid;	   /* 16: -1 until started */
	uint32_t pad1;		   /* 20 */
	uint64_t flags;		   /* 24: UB_F_*; out: what the kernel granted */
	uint64_t ublksrv_flags;	   /* 32: the server's own */
	uint32_t owner_uid;	   /* 40 */
	uint32_t owner_gid;	   /* 44 */
	uint64_t reserved1;	   /* 48 */
	uint64_t reserved2;	   /* 56 */
};
_Static_assert(sizeof(struct ub_dev_info) == 64, "ublk device info");
_Static_assert(offsetof(struct ub_dev_info, flags) == 24, "ublk device info");

#define UB_MAX_QUEUE_DEPTH 4096
#define UB_MAX_NR_QUEUES 4096

/*
 * Parameters
 * ----------------------------------------------------------------------------------------------------
 */

#define UB_ATTR_READ_ONLY (1u << 0)
#define UB_ATTR_ROTATIONAL (1u << 1)
#define UB_ATTR_VOLATILE_CACHE (1u << 2)
#define UB_ATTR_FUA (1u << 3)

struct ub_param_basic {
	uint32_t attrs;		     /*  0: UB_ATTR_* */
	uint8_t logical_bs_shift;    /*  4 */
	uint8_t physical_bs_shift;   /*  5 */
	uint8_t io_opt_shift;	     /*  6 */
	uint8_t io_min_shift;	     /*  7 */
	uint32_t max_sectors;	     /*  8: not above max_io_buf_bytes */
	uint32_t chunk_sectors;	     /* 12 */
	uint64_t dev_sectors;	     /* 16 */
	uint64_t virt_boundary_mask; /* 24 */
};
_Static_assert(sizeof(struct ub_param_basic) == 32, "ublk basic parameters");

struct ub_param_discard {
	uint32_t discard_alignment;	   /*  0: bytes */
	uint32_t discard_granularity;	   /*  4: bytes */
	uint32_t max_discard_sectors;	   /*  8 */
	uint32_t max_write_zeroes_sectors; /* 12 */
	uint16_t max_discard_segments;	   /* 16: must be 1 */
	uint16_t reserved0;		   /* 18 */
};
_Static_assert(sizeof(struct ub_param_discard) == 20, "ublk discard parameters");

struct ub_param_devt { /* read-only; the disk's part is valid once started */
	uint32_t char_major, char_minor, disk_major, disk_minor;
};
_Static_assert(sizeof(struct ub_param_devt) == 16, "ublk device numbers");

struct ub_param_zoned {
	uint32_t max_open_zones, max_active_zones, max_zone_append_sectors;
	uint8_t reserved[20];
};
_Static_assert(sizeof(struct ub_param_zoned) == 32, "ublk zoned parameters");

struct ub_param_dma_align {
	uint32_t alignment; /* mask: alignment - 1 */
	uint8_t pad[4];
};
_Static_assert(sizeof(struct ub_param_dma_align) == 8, "ublk dma alignment");

struct ub_param_segment {
	uint64_t seg_boundary_mask;
	uint32_t max_segment_size;
	uint16_t max_segments;
	uint8_t pad[2];
};
_Static_assert(sizeof(struct ub_param_segment) == 16, "ublk segment parameters");

struct ub_param_integrity {
	uint32_t flags;
	uint16_t max_integrity_segments;
	uint8_t interval_exp, metadata_size, pi_offset, csum_type, tag_size;
	uint8_t pad[5];
};
_Static_assert(sizeof(struct ub_param_integrity) == 16, "ublk integrity parameters");

#define UB_PARAM_TYPE_BASIC (1u << 0)
#define UB_PARAM_TYPE_DISCARD (1u << 1)
#define UB_PARAM_TYPE_DEVT (1u << 2)
#define UB_PARAM_TYPE_ZONED (1u << 3)
#define UB_PARAM_TYPE_DMA_ALIGN (1u << 4)
#define UB_PARAM_TYPE_SEGMENT (1u << 5)
#define UB_PARAM_TYPE_INTEGRITY (1u << 6)

/* Kernels take a shorter or longer struct and ignore types that they do not know. */
struct ub_params {
	uint32_t len;			     /*   0: bytes of this struct */
	uint32_t types;			     /*   4: UB_PARAM_TYPE_* */
	struct ub_param_basic basic;	     /*   8 */
	struct ub_param_discard discard;     /*  40 */
	struct ub_param_devt devt;	     /*  60 */
	struct ub_param_zoned zoned;	     /*  76 */
	struct ub_param_dma_align dma;	     /* 108 */
	struct ub_param_segment seg;	     /* 120 (4 bytes of padding before it) */
	struct ub_param_integrity integrity; /* 136 */
};
_Static_assert(offsetof(struct ub_params, discard) == 40, "ublk parameters");
_Static_assert(offsetof(struct ub_params, devt) == 60, "ublk parameters");
_Static_assert(offsetof(struct ub_params, zoned) == 76, "ublk parameters");
_Static_assert(offsetof(struct ub_params, dma) == 108, "ublk parameters");
_Static_assert(offsetof(struct ub_params, seg) == 120, "ublk parameters");
_Static_assert(offsetof(struct ub_params, integrity) == 136, "ublk parameters");
_Static_assert(sizeof(struct ub_params) == 152, "ublk parameters");

/*
 * Requests: uring commands on /dev/ublkcN, a struct ub_io_cmd in the SQE's command area
 * -------------------------
 */

struct ub_io_cmd {
	uint16_t q_id;	/* 0 */
	uint16_t tag;	/* 2 */
	int32_t result; /* 4: COMMIT: bytes done, or -errno */
	uint64_t addr;	/* 8: the tag's buffer; 0 with USER_COPY */
};
_Static_assert(sizeof(struct ub_io_cmd) == 16, "ublk io command");
_Static_assert(offsetof(struct ub_io_cmd, addr) == 8, "ublk io command");

struct ub_batch_io {
	uint16_t q_id, flags, nr_elem;
	uint8_t elem_bytes, reserved;
	uint64_t reserved2;
};
_Static_assert(sizeof(struct ub_batch_io) == 16, "ublk batch command");

struct ub_elem_header { /* one request in a batch's buffer */
	uint16_t tag, buf_index;
	int32_t result;
};
_Static_assert(sizeof(struct ub_elem_header) == 8, "ublk batch element");

#define UB_BATCH_F_HAS_ZONE_LBA (1u << 0)
#define UB_BATCH_F_HAS_BUF_ADDR (1u << 1)
#define UB_BATCH_F_AUTO_BUF_REG_FALLBACK (1u << 2)

#define UB_IO_FETCH_REQ _IOWR('u', 0x20, struct ub_io_cmd) /* once for each tag, before START_DEV */
#define UB_IO_COMMIT_AND_FETCH_REQ                                                                 \
	_IOWR('u', 0x21, struct ub_io_cmd) /* the answer, and the next request */
#define UB_IO_NEED_GET_DATA _IOWR('u', 0x22, struct ub_io_cmd)
#define UB_IO_REGISTER_IO_BUF _IOWR('u', 0x23, struct ub_io_cmd)
#define UB_IO_UNREGISTER_IO_BUF _IOWR('u', 0x24, struct ub_io_cmd)
#define UB_IO_PREP_IO_CMDS _IOWR('u', 0x25, struct ub_batch_io)
#define UB_IO_COMMIT_IO_CMDS _IOWR('u', 0x26, struct ub_batch_io)
#define UB_IO_FETCH_IO_CMDS _IOWR('u', 0x27, struct ub_batch_io)

/* Completion of FETCH and COMMIT_AND_FETCH */
#define UB_IO_RES_OK 0 /* a request is in the tag's descriptor */
#define UB_IO_RES_NEED_GET_DATA 1
#define UB_IO_RES_ABORT (-19) /* -ENODEV: the device stops, do not fetch again */

/*
 * Descriptors of queue q: shared memory of /dev/ublkcN at UB_CMD_BUF_OFF + q * UB_MAX_QUEUE_DEPTH *
 * sizeof(desc)
 */
struct ub_io_desc {
	uint32_t op_flags;     /*  0: bits 0..7 UB_IO_OP_*, bits 8..31 UB_IO_F_* (in place) */
	uint32_t nr_sectors;   /*  4 */
	uint64_t start_sector; /*  8 */
	uint64_t addr;	       /* 16 */
};
_Static_assert(sizeof(struct ub_io_desc) == 24, "ublk io descriptor");

#define UB_CMD_BUF_OFF 0ull

#define UB_IO_OP_MASK 0xffu
#define UB_IO_OP_READ 0u
#define UB_IO_OP_WRITE 1u
#define UB_IO_OP_FLUSH 2u
#define UB_IO_OP_DISCARD 3u
#define UB_IO_OP_WRITE_SAME 4u
#define UB_IO_OP_WRITE_ZEROES 5u

#define UB_IO_F_FAILFAST_DEV (1u << 8)
#define UB_IO_F_FAILFAST_TRANSPORT (1u << 9)
#define UB_IO_F_FAILFAST_DRIVER (1u << 10)
#define UB_IO_F_META (1u << 11)
#define UB_IO_F_FUA (1u << 13)
#define UB_IO_F_NOUNMAP (1u << 15)
#define UB_IO_F_SWAP (1u << 16)
#define UB_IO_F_NEED_REG_BUF (1u << 17)
#define UB_IO_F_INTEGRITY (1u << 18)
#define UB_IO_F_SHMEM_ZC (1u << 19)

/*
 * USER_COPY: a request's data is at this offset of /dev/ublkcN, bits 0..24 byte, 25..40 tag, 41..52
 * queue, above UB_IO_BUF_OFF
 */
#define UB_IO_BUF_OFF 0x80000000ull
#define UB_IO_BUF_BITS 25
#define UB_IO_TAG_BITS 16
#define UB_IO_QUEUE_BITS 12

static inline uint64_t ub_user_copy_off(unsigned q_id, unsigned tag)
{
	return UB_IO_BUF_OFF + ((uint64_t)q_id << (UB_IO_BUF_BITS + UB_IO_TAG_BITS)) +
	       ((uint64_t)tag << UB_IO_BUF_BITS);
}

/* AUTO_BUF_REG: what the SQE's addr carries with FETCH and COMMIT_AND_FETCH */
#define UB_AUTO_BUF_REG_FALLBACK (1u << 0)

static inline uint64_t ub_auto_buf_reg_addr(uint16_t index, uint8_t flags)
{
	return (uint64_t)index | (uint64_t)flags << 16;
}

#endif
