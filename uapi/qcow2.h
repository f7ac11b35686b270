/* SPDX-License-Identifier: MIT */
/*
 * qcow2 on disk. All integers are big-endian on disk; the structs here give
 * offsets and sizes only, access goes through engine/format/format.h and engine/base/be.h.
 * Source: QEMU docs/interop/qcow2 (sections named per block).
 */
#ifndef COW_UAPI_QCOW2_H
#define COW_UAPI_QCOW2_H

#include <stddef.h>
#include <stdint.h>

/* Header ------------------------------------------------------------------ */

struct qcow2_header_be {
	uint32_t magic;			  /*   0 */
	uint32_t version;		  /*   4 */
	uint64_t backing_file_offset;	  /*   8 */
	uint32_t backing_file_size;	  /*  16 */
	uint32_t cluster_bits;		  /*  20 */
	uint64_t size;			  /*  24 bytes */
	uint32_t crypt_method;		  /*  32 */
	uint32_t l1_size;		  /*  36 entries */
	uint64_t l1_table_offset;	  /*  40 */
	uint64_t refcount_table_offset;	  /*  48 */
	uint32_t refcount_table_clusters; /*  56 */
	uint32_t nb_snapshots;		  /*  60 */
	uint64_t snapshots_offset;	  /*  64 */
	/* version 2 ends here (72 bytes) */
	uint64_t incompatible_features; /*  72 */
	uint64_t compatible_features;	/*  80 */
	uint64_t autoclear_features;	/*  88 */
	uint32_t refcount_order;	/*  96 */
	uint32_t header_length;		/* 100 */
	/* optional: present if header_length > 104 */
	uint8_t compression_type; /* 104 */
	uint8_t padding[7];	  /* 105 */
};
_Static_assert(sizeof(struct qcow2_header_be) == 112, "qcow2 header");
_Static_assert(offsetof(struct qcow2_header_be, snapshots_offset) == 64, "qcow2 header");
_Static_assert(offsetof(struct qcow2_header_be, incompatible_features) == 72, "qcow2 header");
_Static_assert(offsetof(struct qcow2_header_be, compression_type) == 104, "qcow2 header");

#define QCOW2_MAGIC 0x514649fbu
#define QCOW2_V2_HEADER_LENGTH 72u
#define QCOW2_V3_HEADER_LENGTH 104u

#define QCOW2_MIN_CLUSTER_BITS 9
#define QCOW2_MAX_CLUSTER_BITS 21
#define QCOW2_MAX_REFCOUNT_ORDER 6
#define QCOW2_MAX_L1_BYTES (32u << 20)
#define QCOW2_MAX_REFTABLE_BYTES (8u << 20)
#define QCOW2_MAX_SNAPSHOTS 65536u
#define QCOW2_MAX_SNAPSHOT_TABLE_BYTES (64u << 20)
#define QCOW2_MAX_SNAPSHOT_EXTRA_BYTES 1024u
#define QCOW2_MAX_BACKING_NAME_BYTES 1023u

#define QCOW2_INCOMPAT_DIRTY (1ull << 0)
#define QCOW2_INCOMPAT_CORRUPT (1ull << 1)
#define QCOW2_INCOMPAT_DATA_FILE (1ull << 2)
#define QCOW2_INCOMPAT_COMPRESSION (1ull << 3)
#define QCOW2_INCOMPAT_EXTL2 (1ull << 4)
#define QCOW2_INCOMPAT_MASK 0x1full
#define QCOW2_COMPAT_LAZY_REFCOUNTS (1ull << 0)
#define QCOW2_AUTOCLEAR_BITMAPS (1ull << 0)
#define QCOW2_AUTOCLEAR_DATA_FILE_RAW (1ull << 1)

#define QCOW2_CRYPT_NONE 0
#define QCOW2_CRYPT_AES 1
#define QCOW2_CRYPT_LUKS 2

#define QCOW2_COMPRESSION_ZLIB 0
#define QCOW2_COMPRESSION_ZSTD 1
#define QCOW2_ZLIB_WINDOW_BITS (-12) /* a raw stream of 4 KiB windows */

/* Header extensions -------------------------------------------------------- */

#define QCOW2_EXT_END 0x00000000u
#define QCOW2_EXT_BACKING_FORMAT 0xe2792acau
#define QCOW2_EXT_FEATURE_NAMES 0x6803f857u
#define QCOW2_EXT_BITMAPS 0x23852875u
#define QCOW2_EXT_CRYPTO 0x0537be77u
#define QCOW2_EXT_DATA_FILE 0x44415441u

/* L1 and L2 entries -------------------------------------------------------- */

#define QCOW2_COPIED (1ull << 63)
#define QCOW2_COMPRESSED (1ull << 62)
#define QCOW2_ZERO (1ull << 0)
#define QCOW2_OFFSET_MASK 0x00fffffffffffe00ull
#define QCOW2_L1_RESERVED 0x7f000000000001ffull
#define QCOW2_L2_RESERVED 0x3f000000000001feull
#define QCOW2_REFTABLE_RESERVED 0x00000000000001ffull

/* Snapshot table entry ------------------------------------------------------ */

struct qcow2_snapshot_be {
	uint64_t l1_table_offset; /*  0 */
	uint32_t l1_size;	  /*  8 entries */
	uint16_t id_size;	  /* 12 */
	uint16_t name_size;	  /* 14 */
	uint32_t date_sec;	  /* 16 */
	uint32_t date_nsec;	  /* 20 */
	uint64_t vm_clock_nsec;	  /* 24 */
	uint32_t vm_state_size;	  /* 32 */
	uint32_t extra_data_size; /* 36 */
				  /*
	 * extra data: uint64 vm_state_size, uint64 disk_size, uint64 icount; id; name; padding to 8
	 */
};
_Static_assert(sizeof(struct qcow2_snapshot_be) == 40, "qcow2 snapshot");

/* Bitmaps extension, 24 bytes ------------------------------------------------ */

struct qcow2_bitmaps_ext_be {
	uint32_t nb_bitmaps;
	uint32_t reserved;
	uint64_t directory_size;
	uint64_t directory_offset;
};
_Static_assert(sizeof(struct qcow2_bitmaps_ext_be) == 24, "qcow2 bitmaps extension");

#endif
