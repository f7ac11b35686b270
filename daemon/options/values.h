/* SPDX-License-Identifier: MIT */
/* Lists of NAME=VALUE,... as -o takes them, in qemu-img's way. */
#ifndef COW_DAEMON_VALUES_H
#define COW_DAEMON_VALUES_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/host/file.h"

/*
 * Cuts the next NAME=VALUE off the list, in place, and returns it; NULL at the end. A comma that is
 * doubled is one of the value's. *value is behind the "=", NULL if there is none.
 */
char *cow_values_next(char **list, char **value);

/* Values that several commands take. False: no such value. */
bool cow_value_switch(const char *value, bool *on);
/* off, metadata, falloc, full. */
bool cow_value_preallocation(const char *value, enum cow_preallocation *out);
/* 0.10, v2, 1.1, v3. */
bool cow_value_compat(const char *value, uint32_t *version);

/*
 * What -o takes, for people and for the shells' completion: "on|off (default off)", or a sentence, like
 * "a file". name NULL: the end.
 */
struct cow_value_doc {
	const char *name, *values;
};

/* -o help: a line for each, to standard output. */
void cow_values_help(const struct cow_value_doc *docs);
/* End the process with a line: no such name (the nearest one is named), or no such value. */
void cow_values_unknown(const struct cow_value_doc *docs, const char *name,
			struct argp_state *state);
void cow_values_invalid(const struct cow_value_doc *docs, const char *name, const char *value,
			struct argp_state *state);
bool cow_values_is_help(const char *name, const char *value);

#endif
