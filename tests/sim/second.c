/* SPDX-License-Identifier: MIT */
#include "tests/sim/second.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/assert.h"
#include "engine/format/format.h"
#include "tests/sim/prepare.h"
#include "tests/sim/snapshot.h"

#define PIECE 16384u /* of a store: where nothing stands the file gets a hole */
#define SECRET "--object secret,id=s,data=simulated"

/* ---- to real files ---- */

static void write_file(const char *dir, const struct memory_file *f)
{
	static uint8_t buf[PIECE];
	char path[600];
	snprintf(path, sizeof(path), "%s/%s", dir, strrchr(f->path, '/') + 1);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	cow_assert(fd >= 0 && !ftruncate(fd, (off_t)f->now.size_bytes));
	for (uint64_t at = 0; at < f->now.size_bytes; at += PIECE) {
		uint64_t n = f->now.size_bytes - at < PIECE ? f->now.size_bytes - at : PIECE;
		if (memory_content_is_hole(&f->now, at))
			continue;
		memory_content_read(&f->now, at, buf, n);
		cow_assert(pwrite(fd, buf, n, (off_t)at) == (ssize_t)n);
	}
	close(fd);
}

static void remove_all(struct sim_run *run)
{
	char command[200];
	snprintf(command, sizeof(command), "rm -rf --one-file-system '%s'", run->second_dir);
	cow_assert(system(command) == 0);
	run->second_dir[0] = '\0';
}

/* ---- QEMU ---- */

static const char *key_of(uint64_t encrypt)
{
	return encrypt == SIM_ENCRYPT_NO ? "" : encrypt == SIM_ENCRYPT_LEGACY ? "aes" : "luks";
}

static int add_key(char *to, size_t size, const char *of, uint64_t encrypt)
{
	return encrypt == SIM_ENCRYPT_NO
		       ? 0
		       : snprintf(to, size, ",%sencrypt.format=%s,%sencrypt.key-secret=s", of,
				  key_of(encrypt), of);
}

/* The image; its data file, whose name QEMU looks up elsewhere; its backing file where that needs a key. */
static void name_image(struct sim_run *run, char *to, size_t size)
{
	char backing[SIM_NAME_BYTES];
	const struct sim_config *c = &run->script->config;
	int n = snprintf(to, size, "driver=qcow2,file.driver=file,file.filename=%s/top",
			 run->second_dir);
	n += add_key(to + n, size - (size_t)n, "", c->encrypt);
	if (c->data_file)
		n += snprintf(to + n, size - (size_t)n,
			      ",data-file.driver=file,data-file.filename=%s/data", run->second_dir);
	sim_tool_backing(run, backing);
	if (c->backing != SIM_BACKING_QCOW2 || c->base_encrypt == SIM_ENCRYPT_NO ||
	    strncmp(backing, "base", 4))
		return;
	n += snprintf(
		to + n, size - (size_t)n,
		",backing.driver=qcow2,backing.file.driver=file,backing.file.filename=%s/base",
		run->second_dir);
	add_key(to + n, size - (size_t)n, "backing.", c->base_encrypt);
}

/* An exit status. */
static int run_qemu(const char *command)
{
	int status = system(command);
	cow_assert(status != -1);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

/* Status 3: leaks. With lazy refcounts they are right only after a repair. */
static void check(struct sim_run *run)
{
	char image[1000], command[1500];
	name_image(run, image, sizeof(image));
	snprintf(command, sizeof(command),
		 "qemu-img check " SECRET " --image-opts '%s' >%s/said 2>&1", image,
		 run->second_dir);
	int status = run_qemu(command);
	bool lazy = sim_snapshot_header(run).compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
	if (status != 0 && status != 3 && !lazy)
		sim_fail("second opinion: qemu-img check ends with %d, see %s/said", status,
			 run->second_dir);
}

static void compare(struct sim_run *run)
{
	char image[1000], command[2000];
	name_image(run, image, sizeof(image));
	snprintf(command, sizeof(command),
		 "qemu-img compare " SECRET " --image-opts '%s' "
		 "driver=raw,file.driver=file,file.filename=%s/content >%s/said 2>&1",
		 image, run->second_dir, run->second_dir);
	int status = run_qemu(command);
	if (status)
		sim_fail(
			"second opinion: qemu-img compare with what the engine reads ends with %d, "
			"see %s/said",
			status, run->second_dir);
	run->stats.second++;
}

/* ---- at a crash ---- */

void sim_second_take(struct sim_run *run)
{
	uint64_t chance = sim_mix(run->script->config.seed + run->world.events) % 100;
	if (chance >= run->second_percent || run->swept)
		return;
	if (!sim_have_qemu())
		sim_fail("--qemu needs qemu-img");
	strcpy(run->second_dir, "/tmp/cow-sim-second-XXXXXX");
	cow_assert(mkdtemp(run->second_dir));
	for (const struct memory_file *f = run->world.disk.files; f; f = f->next)
		write_file(run->second_dir, f);
	check(run);
}

void sim_second_content(struct sim_run *run, uint64_t off, const uint8_t *buf, uint64_t bytes)
{
	char path[100];
	if (!run->second_dir[0])
		return;
	snprintf(path, sizeof(path), "%s/content", run->second_dir);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	cow_assert(fd >= 0 && pwrite(fd, buf, bytes, (off_t)off) == (ssize_t)bytes);
	close(fd);
}

void sim_second_end(struct sim_run *run, bool whole)
{
	if (!run->second_dir[0])
		return;
	if (whole)
		compare(run);
	remove_all(run);
}
