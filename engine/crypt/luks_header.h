/* SPDX-License-Identifier: MIT */
/* The header of an encrypted image as bytes: pure. */
#ifndef COW_LUKS_HEADER_H
#define COW_LUKS_HEADER_H

#include "engine/base/result.h"
#include "engine/crypt/luks.h"

/*
 * buf: the first sizeof(struct luks1_header_be) bytes; area_bytes: what the qcow2 extension says
 * about the length. -EINVAL with rule and offset (of the header), -ENOTSUP for a cipher, mode or
 * hash that we do not know, by name.
 */
COW_MUST_CHECK int cow_luks_decode(const uint8_t *buf, uint64_t area_bytes, struct cow_luks *luks,
				   struct cow_error *err);
void cow_luks_encode(const struct cow_luks *luks, uint8_t *buf);

/* Key material of one slot: bytes, a multiple of 512. */
uint64_t cow_luks_material_bytes(const struct cow_luks *luks);

/* "xts-plain64", ...; NULL: LUKS has no such mode. */
const char *cow_luks_mode_name(const struct cow_crypt_cipher *cipher);

#endif
