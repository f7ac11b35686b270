/* SPDX-License-Identifier: MIT */
/*
 * Files in memory, with a volatile cache and the loss of power: the one host of the simulator, the
 * unit tests and the fuzz targets. Who drives it has the loops, the time and the faults: sim/world.h
 * in any order and from a seed, memory_host.h one after the other.
 *
 * A file has two contents: `now`, which reads see, and `durable`, which power loss leaves. Between
 * the two stands the list of changes since: writes, punches, size changes. A completed sync moves
 * into `durable` what had been completed when it was submitted. Power loss lets any subset of the
 * rest through, each write torn at sectors; a write that extends the file is two changes, the size
 * and the bytes, of which either may be lost.
 */
#ifndef COW_TEST_DISK_H
#define COW_TEST_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/host/file.h"
#include "tests/memory/content.h"

enum memory_change_kind { MEMORY_WRITE, MEMORY_PUNCH, MEMORY_RESIZE };

#define MEMORY_NOT_DELIVERED UINT64_MAX

struct memory_change {
	struct memory_change *next;
	enum memory_change_kind kind;
	uint64_t offset, length; /* RESIZE: offset is the new size, length the old one */
	uint8_t *data;		 /* WRITE */
	const void *owner;	 /* the pending I/O, to be told of its delivery */
	uint64_t delivered_at;	 /* disk clock */
	bool doubtful;		 /* a sync over it failed: no later sync vouches for it */
	bool covered;		 /* scratch of a sync */
};

struct memory_file {
	struct memory_file *next;
	struct memory_disk *disk;
	char *path;
	uint64_t ino;
	struct memory_content now, durable;
	uint64_t nr_durable; /* counts what may have changed `durable` */
	/* Scratch of sim/ways.c: what was durable after so many of these, and its sum. */
	struct memory_content left;
	uint64_t left_nr, left_sum;
	struct memory_change *head, **tail;
	unsigned readers, writers; /* open handles */
	bool in_doubt;		   /* a sync failed */
	bool fixed;		   /* a block device: its size does not change */
};

struct memory_disk {
	struct cow_host host; /* first; its files are struct memory_handle */
	struct memory_file *files;
	uint64_t clock; /* of deliveries and syncs */
	uint64_t last_ino;
	uint64_t capacity_bytes; /* of each file that is created from now on */
	/* Else every change is durable at once: there are no lists of them, and `durable` is not used. */
	bool volatile_cache;
	bool one_file; /* which answers to any name, and to every CREATE; nobody locks it */
	bool direct;   /* files are opened for direct I/O */
	/* What chance decides: 0 <= result < n. */
	uint64_t (*below)(void *ctx, uint64_t n);
	void *below_ctx;
};

/* No files; rand() decides. */
void memory_disk_init(struct memory_disk *disk, uint64_t capacity_bytes);
void memory_disk_fini(struct memory_disk *disk);
struct memory_file *memory_disk_find(const struct memory_disk *disk, const char *path);
struct memory_file *memory_disk_create(struct memory_disk *disk, const char *path);

/* Changes take effect at once; owner is remembered until memory_file_delivered(owner). */
void memory_file_write(struct memory_file *f, uint64_t offset, const void *data, uint64_t length,
		       const void *owner);
/* The same; data is malloc'ed, and the file's from now on. */
void memory_file_give(struct memory_file *f, uint64_t offset, uint8_t *data, uint64_t length,
		      const void *owner);
void memory_file_punch(struct memory_file *f, uint64_t offset, uint64_t length, const void *owner);
void memory_file_resize(struct memory_file *f, uint64_t size_bytes, const void *owner);
void memory_file_delivered(struct memory_file *f, const void *owner);

/* Bytes from <= i < to of a WRITE or PUNCH, never beyond the end of the file as it came out. */
void memory_change_apply_part(const struct memory_change *c, struct memory_content *content,
			      uint64_t from, uint64_t to);

/* A sync: the clock when it was submitted, then its effect. */
uint64_t memory_disk_mark(struct memory_disk *disk);
void memory_file_sync(struct memory_file *f, uint64_t mark);
void memory_file_sync_failed(struct memory_file *f, uint64_t mark);

enum memory_crash { MEMORY_CRASH_POWER, MEMORY_CRASH_KILL };

/*
 * Has a sync failed over changes that are still only in `now`? After that no reader can know what
 * is on disk: what is read back is what the host remembers. Only a power cycle tells, so a run that
 * goes on from here goes through one.
 */
bool memory_disk_in_doubt(const struct memory_disk *disk);

/*
 * POWER: what survives becomes both contents. KILL: the process is gone, the host is not: all
 * changes stay.
 */
void memory_disk_crash(struct memory_disk *disk, enum memory_crash kind);

/* All that is there is durable. */
void memory_file_settle(struct memory_file *f);
/* What power loss left of a file, by who decides that alone. */
void memory_file_replace(struct memory_file *f, const struct memory_content *left);

#endif
