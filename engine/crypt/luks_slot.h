/* SPDX-License-Identifier: MIT */
/* Key slots of an encrypted image: tried, filled and emptied. Blocking. */
#ifndef COW_LUKS_SLOT_H
#define COW_LUKS_SLOT_H

#include "engine/base/result.h"
#include "engine/crypt/luks.h"
#include "engine/crypt/luks_work.h"

/* Where the slots are, and what it takes to work on them. */
struct cow_luks_area {
	struct cow_loop *loop;
	struct cow_file *file;
	const struct cow_luks *luks; /* as read from the file */
	struct cow_luks_work *work;
};

/*
 * 0: work->key is the master key. -EACCES: the passphrase is not this slot's; err has no text then.
 * Else the slot could not be tried.
 */
COW_MUST_CHECK int cow_luks_slot_try(const struct cow_luks_area *area, unsigned slot,
				     const struct cow_secret *secret, struct cow_error *err);

/*
 * Puts the master key in work->key under secret into a slot that is not active, with as many
 * iterations. Of the header's two sectors, which slot 6 lies across, the one with the slot's state
 * is written last:
 *
 *   key material | the rest of the salt | state, iterations, salt
 *
 * Power lost before the end: the slot is not active.
 */
COW_MUST_CHECK int cow_luks_slot_fill(const struct cow_luks_area *area, unsigned slot,
				      uint32_t iterations, const struct cow_secret *secret,
				      struct cow_error *err);

/*
 * The other way round:
 *
 *   state, iterations, salt | the rest of the salt | key material, overwritten with random bytes
 *
 * so that no slot ever counts as active that nobody can open. Without its salt the key material is
 * lost already; a slot that is not active may be emptied again, to finish what was cut off.
 */
COW_MUST_CHECK int cow_luks_slot_empty(const struct cow_luks_area *area, unsigned slot,
				       struct cow_error *err);

#endif
