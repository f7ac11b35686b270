/* SPDX-License-Identifier: MIT */
/* Passphrases of an encrypted image, added and removed. */
#ifndef COW_LUKS_CHANGE_H
#define COW_LUKS_CHANGE_H

#include "engine/base/result.h"
#include "engine/crypt/luks.h"

#define COW_LUKS_ANY_SLOT (-1)

enum cow_luks_change_what { COW_LUKS_ADD_KEY, COW_LUKS_REMOVE_KEY };

struct cow_luks_change {
	enum cow_luks_change_what what;
	int slot; /* COW_LUKS_ANY_SLOT: the first free one; all that old_secret opens */
	/* ADD: what is added, and how long a try of it shall take; 0: 2000 ms */
	const struct cow_secret *new_secret;
	unsigned iter_ms;
	uint32_t iterations; /* instead of iter_ms, if not 0 */
	/* REMOVE: what is removed; may be NULL if a slot is named. ADD: opens the image, too. */
	const struct cow_secret *old_secret;
	/* Passphrases that open the image; after REMOVE too, unless it is forced. */
	const struct cow_secret *const *secrets;
	size_t nr_secrets;
	bool force; /* REMOVE: the last one too, and one that is not there */
};

/*
 * The image's file is open for writing; nobody else has it. Blocking; a try of a passphrase takes its
 * second. -EACCES: none of the passphrases opens a slot, or one that stays; -EBUSY: the slot is in use, or all are;
 * -EINVAL, -ENOENT: no such slot, or not active. After those nothing was written. A crash leaves the
 * image with the key slots of before or of after, and each active one can be opened.
 */
COW_MUST_CHECK int cow_luks_change(struct cow_loop *loop, struct cow_file *file,
				   const struct cow_luks *luks,
				   const struct cow_luks_change *change, struct cow_error *err);

#endif
