/* SPDX-License-Identifier: MIT */
/*
 * Block sizes: the user sees 512-byte logical blocks whatever the host wants, or those that were asked for
 * (an image of a disk with 4096-byte sectors). Physical block and minimum I/O size are 4096
 * (a cluster, if that is less, but no less than a logical block): smaller writes are correct but dearer. Optimal I/O size is a cluster.
 * Discard granularity is the cluster, since nothing less gives space back. A discard that is no
 * whole cluster is taken all the same: the engine rounds.
 */
#include "daemon/device/params.h"

#include <string.h>

#define SECTOR_SHIFT 9

static uint8_t log2_of(uint32_t v)
{
	return (uint8_t)(31 - __builtin_clz(v));
}

static uint32_t max_u32(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

uint32_t cow_params_buffer_bytes(unsigned queues, unsigned depth)
{
	uint32_t bytes = COW_MAX_OP_BYTES;
	while (bytes > COW_MIN_BUFFER_BYTES &&
	       (uint64_t)bytes * queues * depth > COW_MAX_BUFFERS_BYTES)
		bytes /= 2;
	return bytes;
}

static void fill_basic(struct ub_param_basic *basic, const struct cow_image_geometry *geometry,
		       uint32_t logical_bytes, uint32_t buffer_bytes)
{
	uint32_t block_bytes = max_u32(logical_bytes, min_u32(geometry->cluster_bytes, 4096));
	basic->attrs = UB_ATTR_VOLATILE_CACHE | UB_ATTR_FUA;
	if (!geometry->writable)
		basic->attrs |= UB_ATTR_READ_ONLY;
	basic->logical_bs_shift = log2_of(logical_bytes);
	basic->physical_bs_shift = log2_of(block_bytes);
	basic->io_min_shift = log2_of(block_bytes);
	basic->io_opt_shift = log2_of(max_u32(logical_bytes, geometry->cluster_bytes));
	basic->max_sectors = buffer_bytes >> SECTOR_SHIFT;
	basic->dev_sectors = geometry->size_bytes >> SECTOR_SHIFT;
}

/* A whole number of clusters. */
static uint32_t discard_sectors(uint32_t cluster_bytes)
{
	uint64_t bytes = (uint64_t)cluster_bytes * COW_MAX_DISCARD_CLUSTERS;
	if (bytes > COW_MAX_DISCARD_BYTES)
		bytes = COW_MAX_DISCARD_BYTES;
	return (uint32_t)(bytes >> SECTOR_SHIFT);
}

void cow_params_fill(struct ub_params *params, const struct cow_image_geometry *geometry,
		     uint32_t logical_bytes, uint32_t buffer_bytes, bool discard)
{
	memset(params, 0, sizeof(*params));
	params->len = sizeof(*params);
	params->types = UB_PARAM_TYPE_BASIC;
	fill_basic(&params->basic, geometry, logical_bytes, buffer_bytes);
	if (!geometry->writable)
		return;
	/*
	 * WRITE_ZEROES is metadata work for us, so it is offered even where discard is not wanted.
	 */
	params->types |= UB_PARAM_TYPE_DISCARD;
	params->discard.discard_granularity = max_u32(logical_bytes, geometry->cluster_bytes);
	params->discard.max_discard_sectors =
		discard ? discard_sectors(geometry->cluster_bytes) : 0;
	params->discard.max_write_zeroes_sectors = discard_sectors(geometry->cluster_bytes);
	params->discard.max_discard_segments = 1;
}
