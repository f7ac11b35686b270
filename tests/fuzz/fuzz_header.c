/* SPDX-License-Identifier: MIT */
/* Header, extensions, backing name. What is accepted must encode to what was read. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "engine/format/format.h"
#include "engine/format/reference.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_accepted(const uint8_t *cluster, const struct cow_header *h)
{
	struct cow_extensions ext;
	struct cow_error err = { 0 };
	char name[1024];
	uint8_t again[112];
	size_t bytes = h->version == 2 ? 72 : h->header_bytes < 112 ? 104 : 112;
	memcpy(again, cluster, sizeof(again));
	cow_header_encode(h, again, sizeof(again));
	cow_assert(!memcmp(again, cluster, bytes < 105 ? bytes : 105));
	if (!cow_extensions_decode(cluster, h, &ext, &err))
		cow_assert(ext.end_off <= cow_cluster_bytes(h) && ext.end_off >= h->header_bytes);
	if (!cow_reference_backing_name(cluster, h, name, &err))
		cow_assert(strlen(name) == (h->backing_name_off ? h->backing_name_bytes : 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cow_header h;
	struct cow_error err = { 0 };
	size_t probe = size < 4096 ? 4096 : size;
	uint8_t *buf = calloc(1, probe);
	memcpy(buf, data, size);
	int ret = cow_header_decode(buf, probe, &h, &err);
	cow_assert(!ret == !err.code && !ret == !err.text[0]);
	if (!ret) {
		uint8_t *cluster =
			calloc(1, cow_cluster_bytes(&h) < 112 ? 112 : cow_cluster_bytes(&h));
		memcpy(cluster, buf, probe < cow_cluster_bytes(&h) ? probe : cow_cluster_bytes(&h));
		check_accepted(cluster, &h);
		COW_IGNORE(cow_header_verify_file(&h, size * 64, &err));
		free(cluster);
	}
	free(buf);
	return 0;
}
