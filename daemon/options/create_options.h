/* SPDX-License-Identifier: MIT */
/* -o NAME=VALUE,... of the commands that make images, or say how large one would be. */
#ifndef COW_CREATE_OPTIONS_H
#define COW_CREATE_OPTIONS_H

#include <argp.h>

#include "daemon/options/encrypt_options.h"
#include "daemon/options/values.h"
#include "engine/create/create.h"

/* All that it takes. */
extern const struct cow_value_doc cow_create_options_docs[];
/* Ends the process with a line about what is wrong, or with the list for -o help. Keeps list. */
void cow_create_options_parse(struct cow_create_options *o, struct cow_encrypt_options *encrypt,
			      char *list, struct argp_state *state);
/* The disk's size. False: no number. */
bool cow_create_option_size(struct cow_create_options *o, const char *value);

#endif
