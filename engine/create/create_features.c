/* SPDX-License-Identifier: MIT */
/* What the options ask for, checked against each other: the same refusals as qemu-img create's. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/create/create_features.h"
#include "engine/create/create_layout.h"
#include "engine/crypt/luks_format.h"

#define EXTENDED_L2_MIN_BITS 14

static uint32_t log2_exact(uint32_t v)
{
	return v && !(v & (v - 1)) ? (uint32_t)__builtin_ctz(v) : UINT32_MAX;
}

/* The first option that version 2 has no place for; NULL: none. */
static const char *needs_version_3(const struct cow_header *h, const struct cow_create_options *o)
{
	if (h->refcount_order != 4)
		return "refcount bits other than 16";
	if (o->lazy_refcounts)
		return "lazy refcounts";
	if (o->extended_l2)
		return "extended L2 entries";
	if (o->compression_type != QCOW2_COMPRESSION_ZLIB)
		return "a compression type other than zlib";
	if (o->data_file)
		return "an external data file";
	/*
	 * Preallocated clusters read as deciphered zeros, which is noise, unless their zero flag is
	 * set.
	 */
	return o->encrypt && o->preallocation != COW_PREALLOC_OFF ? "preallocation with encryption"
								  : NULL;
}

static int check_widths(const struct cow_header *h, const struct cow_create_options *o,
			struct cow_error *err)
{
	if (h->version != 2 && h->version != 3)
		return cow_error_set(err, -EINVAL,
				     "version %" PRIu32
				     ": must be 2 (compat=0.10) or 3 (compat=1.1)",
				     h->version);
	if (h->cluster_bits < QCOW2_MIN_CLUSTER_BITS || h->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
		return cow_error_set(err, -EINVAL,
				     "cluster size %" PRIu32
				     ": must be a power of two from 512 to 2M",
				     o->cluster_bytes);
	if (o->extended_l2 && h->cluster_bits < EXTENDED_L2_MIN_BITS)
		return cow_error_set(err, -EINVAL,
				     "cluster size %" PRIu32
				     ": extended L2 entries need 16K or more",
				     o->cluster_bytes);
	if (h->refcount_order > QCOW2_MAX_REFCOUNT_ORDER)
		return cow_error_set(err, -EINVAL,
				     "refcount bits %" PRIu32 ": must be a power of two up to 64",
				     o->refcount_bits);
	return 0;
}

static int check_data_file(const struct cow_create_options *o, struct cow_error *err)
{
	if (o->data_file_raw && !o->data_file)
		return cow_error_set(
			err, -EINVAL,
			"data_file_raw: needs a data file: name it with -o data_file=FILE");
	if (o->data_file_raw && o->backing_file)
		return cow_error_set(
			err, -EINVAL,
			"data_file_raw: a raw image has no backing file: use one of the two");
	if (o->data_file_raw && o->encrypt)
		return cow_error_set(
			err, -EINVAL,
			"data_file_raw: what is encrypted is no raw image: use one of the two");
	if (o->data_file && !o->data_file[0])
		return cow_error_set(err, -EINVAL, "data file: the name is empty");
	if (o->data_file && strlen(o->data_file) >= sizeof(((struct cow_extensions *)0)->data_file))
		return cow_error_set(err, -ENAMETOOLONG,
				     "data file: the name is longer than 1023 bytes");
	return 0;
}

static int check_together(const struct cow_header *h, const struct cow_create_options *o,
			  struct cow_error *err)
{
	const char *newer = h->version == 2 ? needs_version_3(h, o) : NULL;
	if (newer)
		return cow_error_set(err, -EINVAL, "%s: needs compat=1.1", newer);
	/* A subcluster can be allocated and still show the backing file's; a cluster cannot. */
	if (o->backing_file && o->preallocation != COW_PREALLOC_OFF && !o->extended_l2)
		return cow_error_set(
			err, -EINVAL,
			"preallocation: would hide the backing file: use one of the two, or "
			"extended_l2=on");
	if (o->compression_type > QCOW2_COMPRESSION_ZSTD)
		return cow_error_set(err, -EINVAL, "compression type %u: is unknown",
				     o->compression_type);
	return check_data_file(o, err);
}

static int check_encryption(const struct cow_create_options *o, struct cow_error *err)
{
	if (!o->encrypt)
		return 0;
	if (!o->secret || !o->secret->bytes)
		return cow_error_set(err, -EINVAL,
				     "encryption: no passphrase, or an empty one: name its source "
				     "(--key-file, ...)");
	return cow_luks_format_check(o->encrypt, err);
}

static void set_features(struct cow_header *h, const struct cow_create_options *o)
{
	if (o->lazy_refcounts)
		h->compatible |= QCOW2_COMPAT_LAZY_REFCOUNTS;
	if (o->extended_l2)
		h->incompatible |= QCOW2_INCOMPAT_EXTL2;
	if (o->compression_type != QCOW2_COMPRESSION_ZLIB)
		h->incompatible |= QCOW2_INCOMPAT_COMPRESSION;
	if (o->data_file)
		h->incompatible |= QCOW2_INCOMPAT_DATA_FILE;
	if (o->data_file_raw)
		h->autoclear |= QCOW2_AUTOCLEAR_DATA_FILE_RAW;
	h->compression_type = o->compression_type;
	h->crypt_method = o->encrypt ? QCOW2_CRYPT_LUKS : QCOW2_CRYPT_NONE;
}

int cow_create_load_options(struct cow_header *h, const struct cow_create_options *o,
			    struct cow_error *err)
{
	h->version = o->version ? o->version : 3;
	h->cluster_bits = log2_exact(o->cluster_bytes ? o->cluster_bytes : 65536);
	h->refcount_order = log2_exact(o->refcount_bits ? o->refcount_bits : 16);
	h->header_bytes = h->version == 2 ? QCOW2_V2_HEADER_LENGTH : sizeof(struct qcow2_header_be);
	int ret = check_widths(h, o, err);
	if (!ret)
		ret = check_together(h, o, err);
	if (!ret)
		ret = check_encryption(o, err);
	set_features(h, o);
	return ret;
}

enum cow_preallocation cow_create_preallocation(const struct cow_create_options *o)
{
	bool implied = o->data_file_raw && o->preallocation == COW_PREALLOC_OFF;
	return implied ? COW_PREALLOC_METADATA : o->preallocation;
}
