/* SPDX-License-Identifier: MIT */
/* The first cluster of a new image: header, extensions, the backing file's name. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "engine/base/be.h"
#include "engine/create/create_header.h"
#include "engine/create/create_layout.h"
#include "engine/format/feature_names.h"

static size_t string_bytes(const char *text)
{
	return text ? 8 + ((strlen(text) + 7) & ~(size_t)7) : 0;
}

#define CRYPTO_BYTES 16u
#define BITMAPS_BYTES 32u /* the extension of bitmaps, which may be added later */

static size_t put_crypto(const struct cow_create_layout *l, uint8_t *cluster, size_t off)
{
	uint8_t place[CRYPTO_BYTES];
	cow_store64_be(place, l->crypto_off);
	cow_store64_be(place + 8, l->crypto_bytes);
	return cow_extension_put(cluster, off, QCOW2_EXT_CRYPTO, place, sizeof(place));
}

/*
 * All of them but END, in QEMU's order. Feature names are a courtesy: left out where there is no
 * room for them, and for bitmaps some day.
 */
static size_t put_extensions(const struct cow_create_layout *l, const struct cow_create_options *o,
			     uint8_t *cluster, bool feature_names_fit)
{
	size_t off = l->header.header_bytes;
	if (o->backing_file)
		off = cow_extension_put(cluster, off, QCOW2_EXT_BACKING_FORMAT, o->backing_format,
					strlen(o->backing_format));
	if (o->data_file)
		off = cow_extension_put(cluster, off, QCOW2_EXT_DATA_FILE, o->data_file,
					strlen(o->data_file));
	if (l->crypto_bytes)
		off = put_crypto(l, cluster, off);
	if (l->header.version >= 3 && feature_names_fit)
		off = cow_feature_names_put(cluster, off);
	return off;
}

int cow_create_first_cluster(struct cow_create_layout *l, const struct cow_create_options *o,
			     uint8_t *cluster, struct cow_error *err)
{
	struct cow_header *h = &l->header;
	size_t name_bytes = o->backing_file ? strlen(o->backing_file) : 0;
	size_t need = h->header_bytes + string_bytes(o->backing_file ? o->backing_format : NULL) +
		      string_bytes(o->data_file) + (l->crypto_bytes ? 8 + CRYPTO_BYTES : 0) + 8 +
		      name_bytes;
	if (name_bytes > QCOW2_MAX_BACKING_NAME_BYTES || need > cow_cluster_bytes(h))
		return cow_error_set(err, -ENAMETOOLONG,
				     "%s file name: %zu bytes do not fit into the first cluster "
				     "(1023 at most): use a shorter name or larger clusters",
				     o->backing_file ? "backing" : "data",
				     o->backing_file ? name_bytes : strlen(o->data_file));
	size_t courtesy = COW_FEATURE_NAMES_BYTES + BITMAPS_BYTES;
	size_t off = put_extensions(l, o, cluster, need + courtesy <= cow_cluster_bytes(h));
	off = cow_extension_put(cluster, off, QCOW2_EXT_END, NULL, 0);
	if (name_bytes) {
		memcpy(cluster + off, o->backing_file, name_bytes);
		h->backing_name_off = off;
		h->backing_name_bytes = (uint32_t)name_bytes;
	}
	cow_header_encode(h, cluster, cow_cluster_bytes(h));
	return 0;
}
