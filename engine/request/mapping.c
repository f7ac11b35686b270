/* SPDX-License-Identifier: MIT */
#include "engine/request/mapping.h"

#include "engine/format/map.h"
#include "engine/request/l2table.h"

uint64_t cow_mapping_writable_table(struct cow_op *op, uint64_t off, enum cow_next *next)
{
	struct cow_image *image = cow_op_image(op);
	uint64_t idx = cow_l1_idx(&image->core.g, (struct cow_goff){ off });
	uint64_t l1 = cow_table_get(&image->meta.l1, idx);
	const char *fault = cow_map_l1_fault(&image->core.g, l1);
	if (fault) {
		cow_task_fail(&op->task, cow_core_corrupt(&image->core, op->task.loop,
							  image->meta.l1.off + idx * 8, fault));
		*next = COW_AGAIN;
		return 0;
	}
	if (l1 & QCOW2_COPIED)
		return l1 & QCOW2_OFFSET_MASK;
	op->table.l1_idx = idx;
	*next = cow_task_goto(&op->task, &cow_l2table_step);
	return 0;
}

struct cow_slot *cow_mapping_slot(struct cow_op *op, uint64_t table, uint64_t off)
{
	struct cow_image *image = cow_op_image(op);
	return cow_cache_get(&image->meta.l2,
			     table + cow_l2_slice_off(&image->core.g, (struct cow_goff){ off }),
			     &op->task);
}

enum cow_next cow_mapping_bad_entry(struct cow_op *op, const struct cow_entry *e, uint64_t table,
				    uint64_t off)
{
	struct cow_image *image = cow_op_image(op);
	const struct cow_geometry *g = &image->core.g;
	struct cow_goff goff = { off };
	uint64_t at = table + cow_l2_slice_off(g, goff) +
		      (uint64_t)cow_l2_slice_idx(g, goff) * g->entry_bytes;
	const char *rule = cow_entry_fault(g, (struct cow_l2_entry){ e->raw, e->subs });
	cow_task_fail(&op->task, cow_core_corrupt(&image->core, op->task.loop, at, rule));
	return COW_AGAIN;
}

void cow_mapping_free_entry(struct cow_image *image, const struct cow_entry *e)
{
	unsigned bits = image->core.g.cluster_bits;
	if (e->kind == COW_COMPRESSED) {
		struct cow_compressed c = cow_compressed_decode(e->raw, bits);
		uint64_t first = c.off >> bits, last = (c.off + c.bytes - 1) >> bits;
		cow_quarantine_add(&image->quarantine, first, (uint32_t)(last - first + 1));
	} else if (e->kind != COW_BAD && e->has_host && !image->core.g.data_file) {
		cow_quarantine_add(&image->quarantine, e->host.v >> bits, 1);
	}
}

bool cow_mapping_is_claimed(struct cow_op *op, struct cow_slot *slot, uint64_t first, uint64_t nr,
			    enum cow_next *next)
{
	struct cow_claims *claims = &cow_op_image(op)->claims;
	if (!cow_claims_overlaps(claims, COW_CLAIM_CLUSTERS, first, first + nr))
		return false;
	cow_cache_put(slot);
	bool parked = cow_claims_busy(claims, COW_CLAIM_CLUSTERS, first, first + nr, &op->task);
	*next = parked ? COW_WAIT : COW_AGAIN;
	return true;
}
