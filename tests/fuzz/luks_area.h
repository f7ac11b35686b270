/* SPDX-License-Identifier: MIT */
/*
 * A LUKS header with key material for one passphrase and one iteration, always the same, at a place
 * behind all that a fuzzer makes.
 */
#ifndef COW_TEST_LUKS_AREA_H
#define COW_TEST_LUKS_AREA_H

#include "engine/crypt/secret.h"
#include "tests/memory/content.h"

#define LUKS_AREA_OFF (256u << 10)
#define LUKS_AREA_BYTES                                                                            \
	(4096u + 8 * (64u << 10)) /* AES-128-CBC: what an image's header extension has to say */

/* The file ends with it afterwards. */
void luks_area_put(struct memory_content *c);
/* The passphrase; one object, never freed. */
const struct cow_secret *luks_area_secret(void);

#endif
