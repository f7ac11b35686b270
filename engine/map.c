/* SPDX-License-Identifier: MIT */
#include "engine/map.h"

#include "engine/base/be.h"

uint64_t cow_slice_entry(const uint8_t *slice, uint32_t idx)
{
	return cow_load64_be(slice + (size_t)idx * 8);
}

void cow_slice_set_entry(uint8_t *slice, uint32_t idx, uint64_t raw)
{
	cow_store64_be(slice + (size_t)idx * 8, raw);
}

const char *cow_entry_fault(const struct cow_geometry *g, uint64_t raw)
{
	uint64_t off = raw & QCOW2_OFFSET_MASK;
	if (raw & QCOW2_COMPRESSED)
		return (raw & QCOW2_COPIED) ? "L2 entry is compressed and has the COPIED flag" : NULL;
	if (raw & QCOW2_L2_RESERVED)
		return "L2 entry has reserved bits set";
	if ((raw & QCOW2_ZERO) && g->version < 3)
		return "L2 entry has the zero flag in a version 2 image";
	if (off & (g->cluster_bytes - 1))
		return "L2 entry's cluster offset is not cluster-aligned";
	if (!off && (raw & QCOW2_COPIED))
		return "L2 entry has the COPIED flag without a cluster";
	return NULL;
}

struct cow_entry cow_entry_decode(const struct cow_geometry *g, uint64_t raw)
{
	struct cow_entry e = { .raw = raw };
	if (raw == 0) {
		e.kind = COW_UNALLOCATED;
		return e;
	}
	if (cow_entry_fault(g, raw)) {
		e.kind = COW_BAD;
		return e;
	}
	if (raw & QCOW2_COMPRESSED) {
		e.kind = COW_COMPRESSED;
		return e;
	}
	e.copied = raw & QCOW2_COPIED;
	e.host.v = raw & QCOW2_OFFSET_MASK;
	if (raw & QCOW2_ZERO)
		e.kind = e.host.v ? COW_ZERO_ALLOC : COW_ZERO_PLAIN;
	else
		e.kind = COW_NORMAL;
	return e;
}

static bool continues(const struct cow_geometry *g, const struct cow_entry *first, const struct cow_entry *e,
		      uint32_t distance)
{
	if (e->kind != first->kind || e->copied != first->copied)
		return false;
	if (first->kind == COW_NORMAL || first->kind == COW_ZERO_ALLOC)
		return e->host.v == first->host.v + ((uint64_t)distance << g->cluster_bits);
	return first->kind == COW_UNALLOCATED || first->kind == COW_ZERO_PLAIN;
}

struct cow_run cow_map_run(const struct cow_geometry *g, const uint8_t *slice, uint32_t idx, uint32_t max)
{
	struct cow_run run = { .first = cow_entry_decode(g, cow_slice_entry(slice, idx)), .nr = 1 };
	while (run.nr < max && idx + run.nr < g->slice_entries) {
		struct cow_entry e = cow_entry_decode(g, cow_slice_entry(slice, idx + run.nr));
		if (!continues(g, &run.first, &e, run.nr))
			break;
		run.nr++;
	}
	return run;
}

const char *cow_l1_fault(const struct cow_geometry *g, uint64_t raw)
{
	if (raw & QCOW2_L1_RESERVED)
		return "L1 entry has reserved bits set";
	if ((raw & QCOW2_OFFSET_MASK) & (g->cluster_bytes - 1))
		return "L1 entry's table offset is not cluster-aligned";
	if (!(raw & QCOW2_OFFSET_MASK) && raw)
		return "L1 entry has the COPIED flag without a table";
	return NULL;
}
