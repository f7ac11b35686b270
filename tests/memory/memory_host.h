/* SPDX-License-Identifier: MIT */
/*
 * A host of one file in memory (disk.h) and a loop on it, for all tests but the simulator, which has
 * a world of its own around such files. Single-threaded: everything queued is done, in order, by the
 * next drain; a timer moves the clock on and is done at once. It keeps a trace, can be full, and can
 * be told to fail, to cut transfers short, to hold some I/Os back and to lose power.
 */
#ifndef COW_TEST_MEMORY_HOST_H
#define COW_TEST_MEMORY_HOST_H

#include "engine/loop/loop.h"
#include "tests/memory/handle.h"

#define MEMORY_MAX_BYTES (64u << 20)
#define MEMORY_MAX_TRACE 65536u

struct memory_event {
	enum cow_io_kind kind;
	uint64_t offset, length;
};

struct memory_host {
	union { /* first */
		struct cow_host host;
		struct memory_disk disk; /* its one file has any name */
	};
	struct cow_loop loop;
	struct memory_file *file;
	uint8_t *bytes;		   /* its contents: see memory_content.bytes */
	struct memory_handle self; /* always open, for writing; it does not know the host */
	uint64_t limit;		   /* the host is full when this many bytes are in use */
	/* the loop */
	struct cow_io *head, **tail;
	uint64_t clock_ns;
	struct memory_event *trace; /* of what is done; NULL: none is kept */
	unsigned nr_trace;
	/* the next `fail_skip` I/Os of this kind succeed, then one fails */
	int fail_error;
	enum cow_io_kind fail_kind;
	unsigned fail_skip;
	unsigned fail_more; /* and so many more after it */
	/* After so many more changes and SYNCs power goes: all fails until memory_power_on(). */
	unsigned power_left;
	bool powered_off;
	/* I/Os of this length stay where they are until memory_let_go(); 0: none */
	uint64_t hold_bytes;
	struct cow_io *held;
	/*
	 * All may be NULL, and get ctx. Before each I/O: 0, or what the host says instead: -errno,
	 * or the bytes that it does of a READ or WRITE.
	 */
	int64_t (*fault)(void *ctx, const struct cow_io *io);
	/* each I/O that is done, just before, as it was submitted */
	void (*hook)(void *ctx, const struct cow_io *io);
	/* each that may have changed something, just after */
	void (*changed)(void *ctx, const struct cow_io *io);
	/* instead of READ and WRITE: the test makes the content up, `bytes` is not used */
	void (*content)(void *ctx, const struct cow_io *io);
	void *ctx;
};

/*
 * In place, quick: for many short runs. The file is a copy of bytes[size] and grows up to
 * capacity, -EFBIG beyond. No trace. 0 or -ENOMEM.
 */
int memory_host_init(struct memory_host *m, const uint8_t *bytes, uint64_t size, uint64_t capacity);
void memory_host_fini(struct memory_host *m);
/* An empty file of MEMORY_MAX_BYTES at most, with a trace. Never NULL. */
struct memory_host *memory_host_new(void);
void memory_host_free(struct memory_host *m);

uint64_t memory_size(const struct memory_host *m);
/* As if it had always been so long: zeros from the end on. */
void memory_set_size(struct memory_host *m, uint64_t size);
/* As if that had always stood there. */
void memory_put(struct memory_host *m, uint64_t offset, const void *bytes, uint64_t length);
void memory_fill(struct memory_host *m, uint64_t offset, uint8_t value, uint64_t length);
/* What memory_content_copy() kept of it comes back. */
void memory_restore(struct memory_host *m, const struct memory_content *kept);
/* What is not synced from now on may be lost. */
void memory_keep_changes(struct memory_host *m);
void memory_power_off_after(struct memory_host *m, unsigned nr_changes);
/* Back again, with what chance has left. */
void memory_power_on(struct memory_host *m);
/* The held I/Os of this length, too, are done by the next drain. */
void memory_let_go(struct memory_host *m, uint64_t bytes);

#endif
