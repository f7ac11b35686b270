/* SPDX-License-Identifier: MIT */
/* create's -o encrypt.NAME=VALUE, with qemu-img's names and values. */
#ifndef COW_DAEMON_ENCRYPT_OPTIONS_H
#define COW_DAEMON_ENCRYPT_OPTIONS_H

#include <stdbool.h>

#include "engine/crypt/luks.h"
#include "engine/crypt/luks_format.h"

struct cow_encrypt_options {
	bool wanted;   /* an image is to be encrypted */
	bool modified; /* some option but the format was given */
	unsigned aes_bits;
	struct cow_luks_format format;
};

void cow_encrypt_options_init(struct cow_encrypt_options *e);
/*
 * format=luks, cipher-alg=, cipher-mode=, ivgen-alg=, ivgen-hash-alg=, hash-alg=, iter-time=.
 * false: no such value.
 */
bool cow_encrypt_option_parse(struct cow_encrypt_options *e, const char *name, const char *value,
			      bool *known);
/* What depends on several of them. */
void cow_encrypt_options_finish(struct cow_encrypt_options *e);

#endif
