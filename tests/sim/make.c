/* SPDX-License-Identifier: MIT */
/*
 * The image and what lies below it, made on the simulated host from the script's settings and the
 * run's random contents.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/assert.h"
#include "engine/base/buf.h"
#include "engine/create/create.h"
#include "engine/life/image.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"
#include "engine/snapshot/snapshot.h"
#include "tests/sim/keys.h"
#include "tests/sim/prepare.h"
#include "tests/sim/run.h"

#define TOP "/sim/top"
#define DEEP "/sim/deep"
#define DEEP_NAME "deep"
#define DATA_NAME "data"

static void must(int ret, const struct cow_error *err, const char *what)
{
	if (ret)
		sim_fail("%s: %s (%s)", what, err->text, strerror(-ret));
}

static void settle_disk(struct sim_run *run)
{
	for (struct memory_file *f = run->world.disk.files; f; f = f->next) {
		for (struct memory_change *c = f->head; c; c = c->next)
			c->doubtful = false;
		memory_file_sync(f, MEMORY_NOT_DELIVERED);
		if (f->head)
			sim_fail("a change outlived its owner");
	}
}

/* What the image shows there, or zeros behind its end. */
static void fill_same(const struct sim_run *run, uint8_t *buf, uint64_t sector, uint64_t nr)
{
	const struct sim_model *m = &run->model;
	for (uint64_t i = 0; i < nr; i++) {
		bool inside = sector + i < m->nr_sectors;
		uint64_t id = inside ? m->cells[sector + i].versions[0].id : 0;
		sim_fill(buf + i * SIM_SECTOR, id, sector + i, 1);
	}
}

/*
 * Writes patterns here and there; the model of the top image starts with them, as far as `visible`
 * bytes. Where nothing is visible some are what the image shows anyhow.
 */
static void write_base(struct sim_run *run, uint64_t bytes, uint64_t visible,
		       void (*put)(struct sim_run *, void *, uint64_t, uint64_t, const uint8_t *),
		       void *ctx)
{
	const struct sim_config *c = &run->script->config;
	/* a small image gets something everywhere, too */
	uint64_t at = 0, most = c->sweep ? 2u << c->cluster_bits >> 9 : 200;
	while (at < bytes) {
		uint64_t n = SIM_SECTOR * (1 + sim_below(&run->random, most));
		n = n < bytes - at ? n : bytes - at;
		if (sim_chance(&run->random, 60)) {
			uint8_t *buf = cow_buf_alloc(n);
			cow_assert(buf);
			uint64_t id = ++run->next_id;
			sim_fill(buf, id, at / SIM_SECTOR, n / SIM_SECTOR);
			if (!visible && sim_chance(&run->random, 40))
				fill_same(run, buf, at / SIM_SECTOR, n / SIM_SECTOR);
			put(run, ctx, at, n, buf);
			for (uint64_t s = 0; s < n / SIM_SECTOR; s++)
				if (at / SIM_SECTOR + s < run->model.nr_sectors &&
				    at + s * SIM_SECTOR < visible)
					sim_model_set(&run->model, at / SIM_SECTOR + s, id);
			free(buf);
		}
		at += n;
	}
}

static void put_file(struct sim_run *run, void *ctx, uint64_t at, uint64_t n, const uint8_t *buf)
{
	cow_assert(pwrite(*(int *)ctx, buf, n, (off_t)at) == (ssize_t)n);
}

static void put_raw(struct sim_run *run, void *ctx, uint64_t at, uint64_t n, const uint8_t *buf)
{
	memory_file_write(ctx, at, buf, n, NULL);
}

static void put_queue(struct sim_run *run, void *ctx, uint64_t at, uint64_t n, const uint8_t *buf)
{
	int ret = cow_queue_do(ctx, COW_OP_WRITE, 0, at, n, (void *)(uintptr_t)buf);
	if (ret)
		sim_fail("cannot write the backing image: %s", strerror(-ret));
}

static void make_raw(struct sim_run *run, const char *path, uint64_t bytes, uint64_t visible)
{
	struct memory_file *f = memory_disk_create(&run->world.disk, path);
	memory_file_resize(f, bytes, NULL);
	write_base(run, bytes, visible, put_raw, f);
	for (struct memory_change *c = f->head; c; c = c->next)
		c->delivered_at = 1;
}

/* ---- a qcow2 base ---- */

static void fill_image(struct sim_run *run, const char *path, uint64_t bytes, uint64_t visible)
{
	struct cow_error err = { 0 };
	struct cow_open_options options = { .writable = true,
					    .compress = run->script->config.base_pack };
	struct cow_image *image;
	struct cow_queue *queue;
	sim_image_keys(run, &options);
	must(cow_image_open(&run->world.disk.host, &run->control->base, path, &options, &image,
			    &err),
	     &err, "open base");
	must(cow_queue_new(image, &run->control->base, 1, &queue), &err, "queue of base");
	write_base(run, bytes, visible, put_queue, queue);
	cow_queue_free(queue);
	must(cow_image_close(image, &run->control->base, &err), &err, "close base");
}

static void snapshot_base(struct sim_run *run)
{
	const struct cow_snapshot_date date = { .sec = 1 };
	struct cow_error err = { 0 };
	struct cow_file *file;
	must(run->world.disk.host.ops->open(&run->world.disk.host, sim_tool_path(run, "base"),
					    COW_OPEN_WRITE, &file, &err),
	     &err, "open base");
	must(cow_snapshot_create(&run->control->base, file, "base", &date, NULL, &err), &err,
	     "snapshot of base");
	run->world.disk.host.ops->close(file);
}

static void make_qcow2_base(struct sim_run *run, uint64_t bytes)
{
	const struct sim_config *c = &run->script->config;
	struct cow_create_options create = {
		.size_bytes = bytes,
		.has_size = true,
		.cluster_bytes = c->base_bits ? 1u << c->base_bits : 4096,
		.extended_l2 = c->base_ext_l2,
		.compression_type = c->base_pack == 2,
	};
	if (c->deep_bytes) {
		make_raw(run, DEEP, c->deep_bytes, bytes);
		create.backing_file = DEEP_NAME;
		create.backing_format = "raw";
	}
	sim_keys_create(run, sim_tool_path(run, "base"), c->base_encrypt, &create);
	fill_image(run, sim_tool_path(run, "base"), bytes, bytes);
	if (c->base_snapshot) {
		snapshot_base(run);
		fill_image(run, sim_tool_path(run, "base"), bytes, bytes);
	}
}

/* ---- what the image may be rebased onto ---- */

static void make_other(struct sim_run *run)
{
	const struct sim_config *c = &run->script->config;
	struct cow_create_options create = {
		.size_bytes = c->other_bytes,
		.has_size = true,
		.cluster_bytes = 1u << c->cluster_bits,
	};
	if (c->other == SIM_BACKING_RAW)
		make_raw(run, sim_tool_path(run, "other"), c->other_bytes, 0);
	if (c->other != SIM_BACKING_QCOW2)
		return;
	sim_keys_create(run, sim_tool_path(run, "other"), SIM_ENCRYPT_NO, &create);
	fill_image(run, sim_tool_path(run, "other"), c->other_bytes, 0);
}

/* ---- the image itself ---- */

/*
 * The contents as a raw file of the real host, made into an image there by qemu-img and taken from
 * it.
 */
static void create_prepared(struct sim_run *run)
{
	const struct sim_config *c = &run->script->config;
	char dir[] = "/tmp/cow-sim-XXXXXX", raw[64];
	cow_assert(mkdtemp(dir));
	snprintf(raw, sizeof(raw), "%s/raw", dir);
	int fd = open(raw, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	cow_assert(fd >= 0 && !ftruncate(fd, (off_t)c->size_bytes));
	if (c->prepared != SIM_PREPARED_EMPTY)
		write_base(run, c->size_bytes, c->size_bytes, put_file, &fd);
	close(fd);
	sim_prepare(c, dir, memory_disk_create(&run->world.disk, TOP));
	/* The reader of prepare.c knows standard entries only. */
	if ((c->prepared == SIM_PREPARED_SNAPSHOT || c->prepared == SIM_PREPARED_BOTH) &&
	    !c->ext_l2)
		run->snapshot = sim_snapshot_remember(&run->model);
}

/* Of a size that is sometimes too small, full of what its last owner left there. */
static void make_block_device(struct sim_run *run)
{
	const struct sim_config *c = &run->script->config;
	/* every loss of power looks at all of it: little more than the image takes */
	uint64_t more = c->sweep ? 64u << 10 : 6u << 20;
	uint64_t bytes = (c->size_bytes * (1 + sim_below(&run->random, 3)) + more) & ~4095ull;
	struct memory_file *f = memory_disk_create(&run->world.disk, TOP);
	uint8_t *old = malloc(bytes);
	cow_assert(old);
	memset(old, 0xd7, bytes);
	memory_file_write(f, 0, old, bytes, NULL);
	f->head->delivered_at = f->head->next->delivered_at = 1;
	f->fixed = true;
	free(old);
}

static void create_own(struct sim_run *run)
{
	const struct sim_config *c = &run->script->config;
	struct cow_create_options options = {
		.size_bytes = c->size_bytes,
		.has_size = true,
		.cluster_bytes = 1u << c->cluster_bits,
		.refcount_bits = (uint32_t)c->refcount_bits,
		.version = (uint32_t)c->version,
		.lazy_refcounts = c->lazy,
		.extended_l2 = c->ext_l2,
		.compression_type = c->zstd,
		.data_file = c->data_file ? DATA_NAME : NULL,
		.data_file_raw = c->data_file == SIM_DATA_RAW,
	};
	if (c->backing != SIM_BACKING_NONE) {
		options.backing_file = sim_tool_name(run, "base");
		options.backing_format = c->backing == SIM_BACKING_RAW ? "raw" : "qcow2";
	}
	if (c->block_device)
		make_block_device(run);
	options.overwrite = c->block_device;
	sim_keys_create(run, TOP, c->encrypt, &options);
}

void sim_image_create(struct sim_run *run)
{
	const struct sim_config *c = &run->script->config;
	if (c->backing == SIM_BACKING_RAW)
		make_raw(run, sim_tool_path(run, "base"), c->backing_bytes, c->backing_bytes);
	else if (c->backing == SIM_BACKING_QCOW2)
		make_qcow2_base(run, c->backing_bytes);
	if (c->prepared)
		create_prepared(run);
	else
		create_own(run);
	make_other(run);
	sim_bitmap_create(run);
	settle_disk(run);
}
