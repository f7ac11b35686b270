/* SPDX-License-Identifier: MIT */
/*
 * The tables of a new image, and the space that is allocated ahead. The files were just made: they
 * read as zeros.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/create/create_features.h"
#include "engine/create/create_layout.h"
#include "engine/create/create_tables.h"
#include "engine/crypt/luks_format.h"
#include "engine/loop/blocking.h"
#include "engine/loop/zeros.h"

#define CHUNK_BYTES (1u << 20)
#define ALL_ALLOCATED 0x00000000ffffffffull /* an extended entry's 32 subclusters */
#define ALL_ZERO 0xffffffff00000000ull

struct creation {
	struct cow_loop *loop;
	struct cow_file *file;
	const struct cow_create_layout *layout;
	uint8_t *chunk; /* CHUNK_BYTES, a multiple of every entry size */
};

/* Value of word idx of a table of 64-bit words. */
typedef uint64_t entry_fn(const struct cow_create_layout *l, uint64_t idx);

static uint64_t reftable_entry(const struct cow_create_layout *l, uint64_t idx)
{
	return idx < l->nr_refblocks ? l->refblocks_off + (idx << l->header.cluster_bits) : 0;
}

static uint64_t l1_entry(const struct cow_create_layout *l, uint64_t idx)
{
	return idx < l->nr_l2_tables ? (l->l2_off + (idx << l->header.cluster_bits)) | QCOW2_COPIED
				     : 0;
}

static uint64_t data_entry(const struct cow_create_layout *l, uint64_t idx, uint64_t flags)
{
	uint64_t entry = (l->data_off + (idx << l->header.cluster_bits)) | QCOW2_COPIED | flags;
	return idx < l->nr_data_clusters ? entry : 0;
}

/* What stands in an encrypted cluster is noise until it is written, so it is marked as zero. */
static uint64_t l2_entry(const struct cow_create_layout *l, uint64_t idx)
{
	return data_entry(l, idx, l->crypto_bytes ? QCOW2_ZERO : 0);
}

static uint64_t extended_l2_entry(const struct cow_create_layout *l, uint64_t idx)
{
	if (!(idx & 1))
		return data_entry(l, idx / 2, 0);
	if (idx / 2 >= l->nr_data_clusters || l->backed)
		return 0;
	return l->crypto_bytes ? ALL_ZERO : ALL_ALLOCATED;
}

static int write_table(struct creation *c, uint64_t off, uint64_t bytes, entry_fn *entry)
{
	for (uint64_t done = 0; done < bytes;) {
		uint64_t n = bytes - done < CHUNK_BYTES ? bytes - done : CHUNK_BYTES;
		for (uint64_t i = 0; i < n; i += 8)
			cow_store64_be(c->chunk + i, entry(c->layout, (done + i) / 8));
		int ret = cow_loop_write(c->loop, c->file, off + done, c->chunk, n);
		if (ret)
			return ret;
		done += n;
	}
	return 0;
}

static int write_refblocks(struct creation *c)
{
	const struct cow_create_layout *l = c->layout;
	uint32_t order = l->header.refcount_order;
	uint64_t bytes = l->nr_refblocks << l->header.cluster_bits, idx = 0;
	for (uint64_t done = 0; done < bytes;) {
		uint64_t n = bytes - done < CHUNK_BYTES ? bytes - done : CHUNK_BYTES;
		memset(c->chunk, 0, n);
		for (uint64_t i = 0; i < n * 8 >> order && idx < l->nr_clusters; i++, idx++)
			cow_refcount_set(c->chunk, order, i, 1);
		int ret = cow_loop_write(c->loop, c->file, l->refblocks_off + done, c->chunk, n);
		if (ret)
			return ret;
		done += n;
	}
	cow_assert(idx == l->nr_clusters); /* each has its refcount */
	return 0;
}

/*
 * An empty L1 table is written too: the first FLUSH of the image should not need new space for it
 * on a host that is full by then. The rest of its clusters stays a hole.
 */
static uint64_t l1_write_bytes(const struct creation *c)
{
	const struct cow_create_layout *l = c->layout;
	uint64_t unit =
		l->nr_l2_tables || c->file->block_device ? cow_cluster_bytes(&l->header) : 512;
	return (l->l1_bytes + unit - 1) & ~(unit - 1);
}

static int write_maps(struct creation *c)
{
	const struct cow_create_layout *l = c->layout;
	bool extended = l->header.incompatible & QCOW2_INCOMPAT_EXTL2;
	int ret = write_table(c, l->header.reftable_off,
			      (uint64_t)l->header.reftable_clusters << l->header.cluster_bits,
			      reftable_entry);
	if (!ret)
		ret = write_refblocks(c);
	if (!ret)
		ret = write_table(c, l->header.l1_off, l1_write_bytes(c), l1_entry);
	if (!ret)
		ret = write_table(c, l->l2_off, l->nr_l2_tables << l->header.cluster_bits,
				  extended ? extended_l2_entry : l2_entry);
	return ret;
}

/* ---- space ---- */

/* The data file has the disk's size, not that of whole clusters. */
static int write_data(struct creation *c, struct cow_file *data,
		      enum cow_preallocation preallocation)
{
	const struct cow_create_layout *l = c->layout;
	uint64_t bytes =
		data ? l->header.size_bytes : l->nr_data_clusters << l->header.cluster_bits;
	struct cow_file *file = data ? data : c->file;
	if (preallocation == COW_PREALLOC_FULL)
		return cow_zeros_write(c->loop, file, l->data_off, bytes);
	if (preallocation == COW_PREALLOC_FALLOC)
		return cow_zeros_reserve(c->loop, file, l->data_off, bytes);
	return 0;
}

/*
 * The whole area first, zeros: what a block device held there before must not be taken for key
 * material.
 */
static int write_crypto(struct creation *c, const struct cow_create_options *o,
			struct cow_error *err)
{
	const struct cow_create_layout *l = c->layout;
	if (!l->crypto_bytes)
		return 0;
	int ret = c->file->block_device
			  ? cow_zeros_write(c->loop, c->file, l->crypto_off, l->crypto_bytes)
			  : 0;
	return ret ? ret
		   : cow_luks_format(c->loop, c->file, l->crypto_off, o->encrypt, o->secret, err);
}

int cow_create_write_tables(struct cow_loop *loop, struct cow_file *image, struct cow_file *data,
			    const struct cow_create_layout *l, const struct cow_create_options *o,
			    struct cow_error *err)
{
	struct creation c = {
		.loop = loop, .file = image, .layout = l, .chunk = cow_buf_alloc(CHUNK_BYTES)
	};
	if (!c.chunk)
		return cow_error_no_memory(err);
	int ret = write_maps(&c);
	if (!ret)
		ret = write_data(&c, data, cow_create_preallocation(o));
	if (!ret)
		ret = write_crypto(&c, o, err);
	free(c.chunk);
	return ret;
}
