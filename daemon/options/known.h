/* SPDX-License-Identifier: MIT */
/*
 * The options of one subcommand as a flat table, whichever argp they come from: what is understood,
 * what is hinted at, and what the shells complete.
 */
#ifndef COW_KNOWN_H
#define COW_KNOWN_H

#include <argp.h>
#include <stdbool.h>
#include <stddef.h>

#define COW_MAX_OPTIONS 64

/* Zeroed by the caller. Refers to the names in the tables that it is made from. */
struct cow_known {
	struct argp_option options[COW_MAX_OPTIONS];
	size_t nr;
};

/* All of a table, up to its end. */
void cow_known_add(struct cow_known *known, const struct argp_option *options);
/* Those that every command has, argp's and those of its children. */
void cow_known_gather(struct cow_known *known, const struct argp *argp);

/* The option whose name is, or alone begins with, the first len letters. NULL: none, or several. */
const struct argp_option *cow_known_long(const struct cow_known *known, const char *name,
					 size_t len);
const struct argp_option *cow_known_short(const struct cow_known *known, char letter);

/*
 * The option whose value is the word after this one. NULL: the word stands alone.
 * word begins with "-" and is longer.
 */
const struct argp_option *cow_known_wants_next(const struct cow_known *known, const char *word);

#endif
