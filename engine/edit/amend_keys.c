/* SPDX-License-Identifier: MIT */
#include "engine/edit/amend_keys.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/core/load.h"
#include "engine/edit/edit.h"
#include "engine/edit/edit_fault.h"
#include "engine/edit/edit_refcount.h"
#include "engine/format/format.h"

static int refuse(const struct cow_header *h, struct cow_error *err)
{
	if (h->incompatible & (QCOW2_INCOMPAT_CORRUPT | QCOW2_INCOMPAT_DIRTY))
		return cow_error_set(err, -EROFS,
				     "the image is marked %s: repair it with cowblk check "
				     "--repair all",
				     h->incompatible & QCOW2_INCOMPAT_CORRUPT ? "corrupt"
									      : "dirty");
	if (h->crypt_method == QCOW2_CRYPT_NONE)
		return cow_error_set(err, -ENOTSUP,
				     "the image is not encrypted: it has no key slots");
	if (h->crypt_method != QCOW2_CRYPT_LUKS)
		return cow_error_set(err, -ENOTSUP,
				     "legacy AES encryption has one passphrase, for good: convert "
				     "the image to LUKS");
	return 0;
}

static bool meets(const struct cow_edit *e, uint64_t off, uint64_t bytes)
{
	return bytes && off < e->ext.crypto_off + e->ext.crypto_bytes &&
	       e->ext.crypto_off < off + bytes;
}

static bool meets_tables(const struct cow_edit *e)
{
	const struct cow_header *h = &e->header;
	bool yes = meets(e, 0, e->g.cluster_bytes) ||
		   meets(e, h->l1_off, (uint64_t)h->l1_entries * 8) ||
		   meets(e, h->reftable_off, (uint64_t)h->reftable_clusters << e->g.cluster_bits) ||
		   meets(e, h->snapshots_off, e->snapshots_bytes);
	for (uint64_t i = 0; i < e->nr_blocks && !yes; i++)
		yes = e->blocks[i].old_off && meets(e, e->blocks[i].old_off, e->g.cluster_bytes);
	for (uint32_t i = 0; i < h->l1_entries && !yes; i++)
		yes = meets(e, e->l1[i] & QCOW2_OFFSET_MASK, e->l1[i] ? e->g.cluster_bytes : 0);
	return yes;
}

/* It is written to in place: nothing else may be there. */
static int verify_alone(struct cow_edit *e)
{
	uint64_t first = e->ext.crypto_off >> e->g.cluster_bits,
		 last = (e->ext.crypto_off + e->ext.crypto_bytes - 1) >> e->g.cluster_bits;
	if (meets_tables(e))
		return cow_edit_corrupt(e, e->ext.crypto_off,
					"the encryption header lies in another table");
	for (uint64_t cluster = first; cluster <= last; cluster++) {
		uint64_t count;
		int ret = cow_edit_refcount(e, cluster, &count);
		if (ret)
			return ret;
		if (count != 1)
			return cow_edit_corrupt(e, cluster << e->g.cluster_bits,
						"a cluster of the encryption header has a "
						"refcount other than 1");
	}
	return 0;
}

static int change_keys(struct cow_edit *e, const struct cow_luks_change *change)
{
	struct cow_luks luks;
	int ret = cow_luks_load(e->loop, e->file, e->ext.crypto_off, e->ext.crypto_bytes, &luks,
				e->err);
	if (!ret)
		ret = verify_alone(e);
	return ret ? ret : cow_luks_change(e->loop, e->file, &luks, change, e->err);
}

int cow_amend_keys(struct cow_loop *loop, struct cow_file *file,
		   const struct cow_luks_change *change, struct cow_error *err)
{
	struct cow_header h;
	struct cow_edit e;
	uint8_t *cluster;
	int ret = cow_load_header(loop, file, &h, &cluster, err);
	if (ret)
		return ret;
	free(cluster);
	ret = refuse(&h, err);
	if (!ret)
		ret = cow_edit_open_any(&e, loop, file, err);
	if (ret)
		return ret;
	ret = change_keys(&e, change);
	cow_edit_close(&e);
	return ret;
}
