/* SPDX-License-Identifier: MIT */
/*
 * What could come next in a command line, for the shells: they ask `cowblk complete WORD...`, whose last
 * word is the one at the cursor as far as it is typed, perhaps empty. The answer is a line for each word
 * that fits, WORD or WORD<TAB>DESCRIPTION, and at the end a line
 *
 *   files|folders|none N
 *
 * What stands behind the first N bytes of the word may also be the name of a file or a folder: the shell
 * knows those. A word that ends in "=" goes on. No word has a letter that a shell would take for
 * anything else, wherever it comes from; what has is left out.
 */
#ifndef COW_COMPLETE_H
#define COW_COMPLETE_H

#include "daemon/options/known.h"
#include "daemon/options/values.h"

/*
 * The same from a table of options, the forms of the arguments as argp shows them (what is in small
 * letters there is meant, IMAGE and DEVICE and the like stand for something) and what -o takes (may be
 * NULL). words: behind the subcommand.
 */
void cow_complete(const struct cow_known *known, const char *args_doc,
		  const struct cow_value_doc *values, int nr, char **words);

/* One word, if it begins with what is typed. description: may be NULL. */
void cow_complete_offer(const char *typed, const char *word, const char *description);

#endif
