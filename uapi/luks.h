/* SPDX-License-Identifier: MIT */
/*
 * LUKS version 1 on disk. All integers are big-endian; the structs give offsets and sizes only,
 * access goes through engine/crypt/luks.h. Source: LUKS On-Disk Format Specification 1.2.3.
 */
#ifndef COW_UAPI_LUKS_H
#define COW_UAPI_LUKS_H

#include <stddef.h>
#include <stdint.h>

#define LUKS1_MAGIC "LUKS\xba\xbe"
#define LUKS1_MAGIC_BYTES 6u
#define LUKS1_VERSION 1u
#define LUKS1_NAME_BYTES 32u /* cipher, mode and hash names, NUL-padded */
#define LUKS1_SALT_BYTES 32u
#define LUKS1_DIGEST_BYTES 20u
#define LUKS1_UUID_BYTES 40u
#define LUKS1_SLOTS 8u
#define LUKS1_STRIPES 4000u /* QEMU accepts no other number */
#define LUKS1_SECTOR_BYTES 512u
#define LUKS1_ALIGN_BYTES 4096u /* of key material: QEMU's and cryptsetup's habit */
#define LUKS1_SLOT_ACTIVE 0x00ac71f3u
#define LUKS1_SLOT_INACTIVE 0x0000deadu

struct luks1_slot_be {
	uint32_t active;		/*  0 */
	uint32_t iterations;		/*  4 */
	uint8_t salt[LUKS1_SALT_BYTES]; /*  8 */
	uint32_t key_offset;		/* 40 sectors from the header's start */
	uint32_t stripes;		/* 44 */
};
_Static_assert(sizeof(struct luks1_slot_be) == 48, "LUKS key slot");

struct luks1_header_be {
	uint8_t magic[LUKS1_MAGIC_BYTES];	 /*   0 */
	uint16_t version;			 /*   6 */
	char cipher_name[LUKS1_NAME_BYTES];	 /*   8 */
	char cipher_mode[LUKS1_NAME_BYTES];	 /*  40 */
	char hash_name[LUKS1_NAME_BYTES];	 /*  72 */
	uint32_t payload_offset;		 /* 104 sectors */
	uint32_t key_bytes;			 /* 108 */
	uint8_t digest[LUKS1_DIGEST_BYTES];	 /* 112 of the master key */
	uint8_t digest_salt[LUKS1_SALT_BYTES];	 /* 132 */
	uint32_t digest_iterations;		 /* 164 */
	char uuid[LUKS1_UUID_BYTES];		 /* 168 */
	struct luks1_slot_be slots[LUKS1_SLOTS]; /* 208 */
};
_Static_assert(sizeof(struct luks1_header_be) == 592, "LUKS header");
_Static_assert(offsetof(struct luks1_header_be, cipher_mode) == 40, "LUKS header");
_Static_assert(offsetof(struct luks1_header_be, payload_offset) == 104, "LUKS header");
_Static_assert(offsetof(struct luks1_header_be, digest_salt) == 132, "LUKS header");
_Static_assert(offsetof(struct luks1_header_be, uuid) == 168, "LUKS header");
_Static_assert(offsetof(struct luks1_header_be, slots) == 208, "LUKS header");

#endif
