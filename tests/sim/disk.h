/* SPDX-License-Identifier: MIT */
/*
 * Simulated host files with a volatile cache, and the loss of power.
 *
 * A file has two contents: `now`, which reads see, and `durable`, which power loss leaves. Between
 * the two stands the list of changes since: writes, punches, size changes. A completed sync moves
 * into `durable` what had been completed when it was submitted. Power loss lets any subset of the
 * rest through, each write torn at sectors; a write that extends the file is two changes, the size
 * and the bytes, of which either may be lost.
 */
#ifndef SIM_DISK_H
#define SIM_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/sim/random.h"
#include "tests/sim/store.h"

enum sim_change_kind { SIM_WRITE, SIM_PUNCH, SIM_RESIZE };

#define SIM_NOT_DELIVERED UINT64_MAX

struct sim_change {
	struct sim_change *next;
	enum sim_change_kind kind;
	uint64_t offset, length; /* RESIZE: offset is the new size, length the old one */
	uint8_t *data;		 /* WRITE */
	const void *owner;	 /* the pending I/O, to be told of its delivery */
	uint64_t delivered_at;	 /* disk clock */
	bool doubtful;		 /* a sync over it failed: no later sync vouches for it */
	bool covered;		 /* scratch of a sync */
};

struct sim_file {
	struct sim_file *next;
	char *path;
	uint64_t ino;
	struct sim_store now, durable;
	struct sim_store left; /* scratch of ways.c */
	struct sim_change *head, **tail;
	unsigned readers, writers; /* open handles */
	bool in_doubt;		   /* a sync failed */
	bool fixed;		   /* a block device: its size does not change */
};

struct sim_disk {
	struct sim_file *files;
	uint64_t clock; /* of deliveries and syncs */
	uint64_t next_ino;
};

void sim_disk_fini(struct sim_disk *disk);
struct sim_file *sim_disk_find(struct sim_disk *disk, const char *path);
struct sim_file *sim_disk_create(struct sim_disk *disk, const char *path);

/* Changes take effect at once; owner is remembered until sim_file_delivered(owner). */
void sim_file_write(struct sim_file *f, uint64_t offset, const void *data, uint64_t length,
		    const void *owner);
void sim_file_punch(struct sim_file *f, uint64_t offset, uint64_t length, const void *owner);
void sim_file_resize(struct sim_file *f, uint64_t size_bytes, const void *owner);
void sim_file_delivered(struct sim_disk *disk, struct sim_file *f, const void *owner);

/* A sync: the clock when it was submitted, then its effect. */
uint64_t sim_disk_mark(struct sim_disk *disk);
void sim_file_sync(struct sim_file *f, uint64_t mark, struct sim_random *r);
void sim_file_sync_failed(struct sim_file *f, uint64_t mark);

enum sim_crash { SIM_CRASH_POWER, SIM_CRASH_KILL };

/*
 * Has a sync failed over changes that are still only in `now`? After that no reader can know what
 * is on disk: what is read back is what the host remembers. Only a power cycle tells, so a run that
 * goes on from here goes through one.
 */
bool sim_disk_in_doubt(const struct sim_disk *disk);

/*
 * POWER: what survives becomes both contents. KILL: the process is gone, the host is not: all
 * changes stay.
 */
void sim_disk_crash(struct sim_disk *disk, enum sim_crash kind, struct sim_random *r);

/* What power loss left of a file, by who decides that alone. */
void sim_disk_replace(struct sim_file *f, const struct sim_store *left);

#endif
