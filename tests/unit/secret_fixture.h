/* SPDX-License-Identifier: MIT */
/* Passphrases for tests. */
#ifndef COW_TEST_SECRET_FIXTURE_H
#define COW_TEST_SECRET_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/crypt/secret.h"

static inline struct cow_secret *secret_of(const char *text)
{
	struct cow_secret *secret = cow_secret_new();
	assert_non_null(secret);
	secret->bytes = strlen(text);
	memcpy(secret->data, text, secret->bytes);
	return secret;
}

#endif
