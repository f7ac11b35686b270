/* SPDX-License-Identifier: MIT */
#include "tests/sim/prepare.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/assert.h"
#include "engine/base/be.h"
#include "engine/compress/deflate.h"
#include "engine/compress/inflate.h"
#include "engine/format/format.h"
#include "engine/format/map.h"
#include "tests/sim/world.h"

bool sim_have_qemu(void)
{
	static int have = -1;
	if (have < 0)
		have = system("command -v qemu-img >/dev/null 2>&1") == 0;
	return have;
}

static void run_command(const char *command)
{
	if (system(command) != 0)
		sim_fail("failed: %s", command);
}

static void take_file(const char *path, struct memory_file *file)
{
	static uint8_t buf[65536];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	cow_assert(fd >= 0);
	ssize_t n;
	for (uint64_t at = 0; (n = read(fd, buf, sizeof(buf))) > 0; at += (uint64_t)n)
		memory_file_write(file, at, buf, (uint64_t)n, NULL);
	close(fd);
	for (struct memory_change *c = file->head; c; c = c->next)
		c->delivered_at = 1;
}

static void make_image(const struct sim_config *c, const char *dir)
{
	char command[700], options[200], backing[64] = "";
	snprintf(options, sizeof(options), "cluster_size=%llu,compat=%s,refcount_bits=%llu%s%s",
		 1ull << c->cluster_bits, c->version == 2 ? "0.10" : "1.1",
		 (unsigned long long)c->refcount_bits, c->ext_l2 ? ",extended_l2=on" : "",
		 c->zstd ? ",compression_type=zstd" : "");
	if (c->backing != SIM_BACKING_NONE)
		snprintf(backing, sizeof(backing), "-u -b base -F %s",
			 c->backing == SIM_BACKING_RAW ? "raw" : "qcow2");
	if (c->prepared == SIM_PREPARED_EMPTY)
		snprintf(command, sizeof(command),
			 "qemu-img create -q -f qcow2 %s -o %s %s/top %llu", backing, options, dir,
			 (unsigned long long)c->size_bytes);
	else
		snprintf(command, sizeof(command),
			 "qemu-img convert %s -m 1 -f raw -O qcow2 -o %s %s/raw %s/top",
			 c->prepared != SIM_PREPARED_SNAPSHOT ? "-c" : "", options, dir, dir);
	run_command(command);
}

void sim_prepare(const struct sim_config *c, const char *dir, struct memory_file *file)
{
	char command[200], path[64];
	if (!sim_have_qemu())
		sim_fail("this script needs qemu-img");
	make_image(c, dir);
	snprintf(command, sizeof(command), "qemu-img snapshot -c first %s/top", dir);
	if (c->prepared == SIM_PREPARED_SNAPSHOT || c->prepared == SIM_PREPARED_BOTH)
		run_command(command);
	snprintf(path, sizeof(path), "%s/top", dir);
	take_file(path, file);
	unlink(path);
	snprintf(path, sizeof(path), "%s/raw", dir);
	unlink(path);
	rmdir(dir);
}

/* ---- the snapshot's contents ---- */

uint64_t *sim_snapshot_remember(const struct sim_model *model)
{
	uint64_t *ids = calloc(model->nr_sectors, sizeof(*ids));
	cow_assert(ids);
	for (uint64_t s = 0; s < model->nr_sectors; s++)
		ids[s] = model->cells[s].versions[0].id;
	return ids;
}

static uint64_t load64(const struct memory_file *file, uint64_t off)
{
	uint8_t be[8];
	memory_content_read(&file->now, off, be, sizeof(be));
	return cow_load64_be(be);
}

static struct cow_snapshot *first_snapshot(const struct memory_file *file, struct cow_header *h)
{
	uint8_t head[512], table[4096];
	struct cow_snapshot *snapshots;
	uint64_t used;
	struct cow_error err = { 0 };
	memory_content_read(&file->now, 0, head, sizeof(head));
	if (cow_header_decode(head, sizeof(head), h, &err) || !h->nr_snapshots)
		sim_fail("the snapshot is gone: %s", err.text);
	memory_content_read(&file->now, h->snapshots_off, table, sizeof(table));
	if (cow_snapshots_decode(table, sizeof(table), h->snapshots_off, h, &snapshots, &used,
				 &err))
		sim_fail("the snapshot table is broken: %s", err.text);
	return snapshots;
}

static void inflate(const struct memory_file *file, const struct cow_header *h, uint64_t entry,
		    uint8_t *out)
{
	struct cow_compressed c = cow_compressed_decode(entry, h->cluster_bits);
	uint8_t *packed = malloc(c.bytes);
	static struct cow_inflate *state; /* it is large: one for all */
	if (!state)
		state = cow_inflate_new();
	cow_assert(packed && state);
	memory_content_read(&file->now, c.off, packed, c.bytes);
	if (cow_inflate_cluster(state, h->compression_type, packed, c.bytes, out,
				cow_cluster_bytes(h)))
		sim_fail("a compressed cluster of the snapshot is broken");
	free(packed);
}

static void read_cluster(const struct memory_file *file, const struct cow_header *h,
			 const struct cow_snapshot *s, uint64_t cluster, uint8_t *out)
{
	uint64_t per_table = cow_l2_entries(h), bytes = cow_cluster_bytes(h);
	uint64_t l1 = load64(file, s->l1_off + cluster / per_table * 8) & QCOW2_OFFSET_MASK;
	uint64_t entry = l1 ? load64(file, l1 + cluster % per_table * 8) : 0;
	if (entry & QCOW2_COMPRESSED)
		inflate(file, h, entry, out);
	else if ((entry & QCOW2_OFFSET_MASK) && !(entry & QCOW2_ZERO))
		memory_content_read(&file->now, entry & QCOW2_OFFSET_MASK, out, bytes);
	else
		memset(out, 0, bytes);
}

void sim_snapshot_verify(const struct memory_file *file, const uint64_t *ids, uint64_t nr_sectors)
{
	struct cow_header h;
	struct cow_snapshot *s = first_snapshot(file, &h);
	uint64_t bytes = cow_cluster_bytes(&h), per_cluster = bytes / SIM_SECTOR;
	uint8_t *buf = malloc(bytes), expect[SIM_SECTOR];
	cow_assert(buf);
	for (uint64_t sector = 0; sector < nr_sectors; sector++) {
		if (sector % per_cluster == 0)
			read_cluster(file, &h, s, sector / per_cluster, buf);
		sim_fill(expect, ids[sector], sector, 1);
		if (memcmp(expect, buf + sector % per_cluster * SIM_SECTOR, SIM_SECTOR))
			sim_fail("snapshot: sector %llu changed", (unsigned long long)sector);
	}
	free(buf);
	cow_snapshots_free(s, h.nr_snapshots);
}
