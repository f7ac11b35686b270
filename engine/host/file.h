/* SPDX-License-Identifier: MIT */
/*
 * A host file and the name space it comes from: the real one (system.c), or one in memory in tests.
 * How long the file must be, and whether it still is: see file.c.
 */
#ifndef COW_FILE_H
#define COW_FILE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/host/health.h"

enum cow_open_flags {
	COW_OPEN_WRITE = 1 << 0, /* read-write, else read-only */
	/* create, fail with -EEXIST if it exists (regular files); implies WRITE */
	COW_OPEN_CREATE = 1 << 1,
	/* with CREATE: an existing file is taken and truncated instead */
	COW_OPEN_TRUNCATE = 1 << 2,
	COW_OPEN_BUFFERED = 1 << 3, /* do not try O_DIRECT */
	COW_OPEN_NO_LOCK = 1 << 4,  /* take no image locks (info, check on an image in use) */
};

/* Space for what will be written later: none; mapped only; reserved on the host too; full of zeros. */
enum cow_preallocation {
	COW_PREALLOC_OFF,
	COW_PREALLOC_METADATA,
	COW_PREALLOC_FALLOC,
	COW_PREALLOC_FULL
};

/*
 * Embedded first in a body's own file object. Fields are constant after open except the atomic
 * ones.
 */
struct cow_file {
	struct cow_host *host;
	char *path;	   /* as opened, owned */
	uint64_t dev, ino; /* identity, for loop detection */
	uint32_t owner;	   /* user id */
	bool callers;	   /* the owner is who runs this program */
	/*
	 * Not everybody may read it, and it has several names: somebody may have made a hard link
	 * without being able to read it.
	 */
	bool hidden_link;
	/*
	 * How long the file is as far as we know: at open, and by what we wrote and resized since.
	 * Nobody else may make it shorter.
	 */
	atomic_uint_least64_t size_bytes;
	/*
	 * 0: so it is. Else somebody has cut it, at the latest here: what was behind is lost, and zeros before may be what was lost.
	 */
	atomic_uint_least64_t lost_from;
	bool writable;
	bool direct;	   /* O_DIRECT: offsets, lengths and memory must be multiples of 512 */
	bool block_device; /* fixed size, no resize */
	/* whoever writes to it may make it longer and shorter: its length says nothing */
	bool unlocked;
	/* COW_IO_PUNCH may be tried; whether it works, health.cannot_punch tells */
	bool can_punch;
	atomic_bool complained; /* the log has the first error of a request's I/O */
	struct cow_health health;
};

struct cow_root;

/* Of a file to another one of the same host. */
struct cow_file_range {
	struct cow_file *from, *to;
	uint64_t from_off, to_off, bytes;
};

/* The name space of files. Blocking. */
struct cow_host_ops {
	/*
	 * Opens a regular file or block device, locks it QEMU-compatibly (FORMAT.md 4, Locks)
	 * unless NO_LOCK.
	 * -EBUSY with a text naming the holder where that can be found out.
	 */
	int (*open)(struct cow_host *host, const char *path, unsigned flags, struct cow_file **out,
		    struct cow_error *err);
	void (*close)(struct cow_file *file);
	/*
	 * Absolute path with symbolic links resolved, malloc'ed into *out: where it leads now, to be
	 * opened below a root only. 0 or -errno.
	 */
	int (*realpath)(struct cow_host *host, const char *path, char **out);
	/*
	 * May be NULL. A direct file that was synced just now: let the page cache forget it. What
	 * others left there (who wrote the image before us) collides with direct writes: Linux then
	 * takes the way through the cache for some of them, and fails the next fdatasync.
	 */
	void (*drop_cache)(struct cow_file *file);
	/*
	 * May be NULL. The file's length as the kernel has it at hand: does not block. False: not
	 * known.
	 */
	bool (*length)(struct cow_file *file, uint64_t *bytes);
	/* Below a root: see root.h. All five, or none in a host without links, owners and locks. */
	int (*root_open)(struct cow_host *host, const char *dir, struct cow_root **out,
			 struct cow_error *err);
	int (*root_of)(struct cow_host *host, const char *path, struct cow_root **out, char **name,
		       struct cow_error *err);
	int (*root_open_file)(struct cow_root *root, const char *name, unsigned flags,
			      struct cow_file **out, struct cow_error *err);
	void (*root_close)(struct cow_root *root);
	int (*lock)(struct cow_file *file, struct cow_error *err);
	/*
	 * For the tools of whole disks; each may be NULL.
	 *
	 * A second handle of an open file, which takes the lock over: it outlives the first one's
	 * close, and nobody comes in between. Until that the length is not its own to judge.
	 */
	int (*keep)(struct cow_file *file, struct cow_file **out, struct cow_error *err);
	/*
	 * What is at off: a hole, which reads as zeros, or data; and where that ends, at the latest
	 * (bytes; may be behind the end of the file). False: not known.
	 */
	bool (*look)(struct cow_file *file, uint64_t off, bool *hole, uint64_t *end);
	/* The space that the file takes, in bytes. False: not known. */
	bool (*stored)(struct cow_file *file, uint64_t *bytes);
	/*
	 * A range of one file becomes that of another: by sharing its blocks, then it is whole or not
	 * at all; by copying, then after an error a part of it may be. 0 or -errno, of which none is
	 * more than a reason to read and write.
	 */
	int (*clone)(const struct cow_file_range *range);
	int (*copy)(const struct cow_file_range *range);
};

struct cow_host {
	const struct cow_host_ops *ops;
};

/* ---- has somebody cut the file? any thread ---- */

static inline bool cow_file_is_cut(const struct cow_file *file)
{
	return atomic_load_explicit(&file->lost_from, memory_order_relaxed) != 0;
}

/* We made it at least this long. */
void cow_file_grown(struct cow_file *file, uint64_t bytes);
/* It ends at `bytes`, and did not before. The log says so, once. */
void cow_file_note_cut(struct cow_file *file, uint64_t bytes);
/* Asks the host. False: it is cut, now or since earlier. Nothing may be shrinking it meanwhile. */
bool cow_file_is_whole(struct cow_file *file);

#endif
