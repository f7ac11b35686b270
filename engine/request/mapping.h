/* SPDX-License-Identifier: MIT */
/* Look-ups of writers: the L2 table that may be changed, the slot of a slice, what stands in it. */
#ifndef COW_MAPPING_H
#define COW_MAPPING_H

#include "engine/request/op.h"

/*
 * The L1 entry for off if it names an L2 table that may be changed; else 0 and the op is sent on
 * (step set, parked or failed).
 */
uint64_t cow_mapping_writable_table(struct cow_op *op, uint64_t off, enum cow_next *next);
/* The slot of off's L2 slice; NULL: parked. */
struct cow_slot *cow_mapping_slot(struct cow_op *op, uint64_t table, uint64_t off);
/*
 * Has another op a claim on one of nr guest clusters from first on? Then the slot is put, and *next
 * is what the step returns.
 */
bool cow_mapping_is_claimed(struct cow_op *op, struct cow_slot *slot, uint64_t first, uint64_t nr,
			    enum cow_next *next);

/*
 * The entry (for guest offset off, in the L2 table at `table`) breaks a rule: the op fails, and the
 * image for writing. No slot held.
 */
enum cow_next cow_mapping_bad_entry(struct cow_op *op, const struct cow_entry *e, uint64_t table,
				    uint64_t off);
/* The cluster that the entry points to loses this reference: to the quarantine. The slice is held. */
void cow_mapping_free_entry(struct cow_image *image, const struct cow_entry *e);

#endif
