/* SPDX-License-Identifier: MIT */
/*
 * What a run does, fixed before it starts: the image's shape and the list of actions. Made from a
 * seed or read from a file; a failing script is shrunk by leaving actions out (shrink.c). As text,
 * one line each:
 *
 *   config cluster_bits=16 size=1048576 ...
 *   write 0 4096 512 fua        queue offset length flags
 *   crash 0 17 0 kill           offset: host operations from here
 */
#ifndef SIM_SCRIPT_H
#define SIM_SCRIPT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/core/limits.h"

enum sim_backing { SIM_BACKING_NONE, SIM_BACKING_RAW, SIM_BACKING_QCOW2 };

enum sim_prepared {
	SIM_PREPARED_NO,
	SIM_PREPARED_COMPRESSED,
	SIM_PREPARED_SNAPSHOT,
	SIM_PREPARED_BOTH,
	/* without contents, for what only qemu-img sets; may have a backing file */
	SIM_PREPARED_EMPTY,
};

enum sim_encrypt { SIM_ENCRYPT_NO, SIM_ENCRYPT_XTS, SIM_ENCRYPT_CBC, SIM_ENCRYPT_LEGACY };
enum sim_data_file { SIM_DATA_INSIDE, SIM_DATA_OUTSIDE, SIM_DATA_RAW };

struct sim_config {
	uint64_t seed; /* of the scheduler */
	uint64_t size_bytes;
	uint64_t cluster_bits, refcount_bits, version, lazy;
	uint64_t backing, backing_bytes;
	uint64_t prepared; /* enum sim_prepared: made by qemu-img */
	uint64_t ext_l2, zstd;
	uint64_t encrypt;      /* enum sim_encrypt */
	uint64_t data_file;    /* enum sim_data_file */
	uint64_t block_device; /* the host file is one */
	uint64_t bitmap;       /* granularity of a dirty bitmap, log2; 0: none */
	uint64_t live;	       /* one live snapshot command in so many actions; 0: none */
	uint64_t tool;	       /* one verb on the closed image in so many; 0: none */
	/* enum sim_backing: another image to rebase onto; NONE: there is none */
	uint64_t other, other_bytes;
	uint64_t
		name_bytes; /* paths of files below are so long: the header's sector may have no room */
	/*
	 * a qcow2 base: its clusters, compression (1 zlib, 2 zstd), ..., a snapshot in its middle,
	 * a raw file below it
	 */
	uint64_t base_bits, base_pack, base_ext_l2, base_encrypt, base_snapshot, deep_bytes;
	uint64_t compress; /* open option */
	uint64_t queues, depth;
	uint64_t cache_bytes, reserve_bytes, buffered, no_discard, detect_zeroes;
	uint64_t noise;	   /* short transfers, EINTR, EAGAIN */
	uint64_t permille; /* chance of each host operation to fail */
	/* from this action on, counted from 1, power is lost at every host operation; 0: no such thing */
	uint64_t sweep;
	uint64_t outlive; /* a killed process leaves its memory to the next one */
	uint64_t guest;	  /* the bytes of requests are in pages of the guest's (guest.h) */
	struct cow_limits limits;
};

enum sim_action_kind {
	/* guest requests, in the order of enum cow_op_kind */
	SIM_READ,
	SIM_GUEST_WRITE,
	SIM_FLUSH,
	SIM_DISCARD,
	SIM_ZEROES,
	/* offset: host operations until power is lost, with AT_SYNC syncs; flags: KILL instead */
	SIM_CRASH,
	/* clean close and open; offset: host operations until power is lost, 0: never */
	SIM_REOPEN,
	/*
	 * offset: host operations until one fails; length: 0 any, else 1 + enum cow_io_kind of
	 * those that count
	 */
	SIM_FAULT,
	/*
	 * offset: enum sim_full; length: of FULL_ALL, how many of a hundred overwrites find no room;
	 * queue: 1: syncs find none either
	 */
	SIM_FULL,
	SIM_DRAIN, /* let everything finish */
	/* close, snapshot command (length), open; offset: as for REOPEN, flags: KILL instead */
	SIM_SNAPSHOT,
	/*
	 * snapshot command (length) under a freeze, with requests in flight; offset, flags: as for
	 * CRASH
	 */
	SIM_LIVE,
	SIM_QUEUE_LEAVES, /* its thread ends, for another one */
	SIM_BITMAP, /* command (length: enum sim_bitmap_what) on the dirty bitmap of the running image */
	/*
	 * verb (length: enum sim_tool_what) on the closed image, queue: which of its variants; offset, flags: as for
	 * CRASH, or what else goes wrong at that host operation
	 */
	SIM_TOOL,
	SIM_NR_ACTIONS
};

enum sim_flags {
	SIM_FUA = 1 << 0,
	SIM_NOUNMAP = 1 << 1,	/* values of enum cow_op_flags */
	SIM_ZERO_DATA = 1 << 2, /* write zeros */
	SIM_KILL = 1 << 3,
	SIM_LATE = 1 << 7, /* the transfers that it starts at once are left lying for long */
	SIM_AT_SYNC = 1 << 5,
	SIM_AT_HEADER = 1 << 6, /* counted from the next write of the header */
	SIM_EAGER = 1 << 4,	/* submit the next action before anything else happens */
	SIM_FAILS = 1 << 8,	/* a host operation of it fails */
	SIM_NO_ROOM = 1 << 9,	/* the host is full from one of its operations on */
};

struct sim_action {
	enum sim_action_kind kind;
	unsigned queue, flags;
	uint64_t offset, length;
};

#define SIM_MAX_TAKEN 4u

struct sim_script {
	struct sim_config config;
	struct sim_action *actions;
	unsigned nr, max;
};

struct sim_plan {
	uint64_t nr_actions, crash_every;
	bool faults;
	bool resizes; /* drawn from the seed */
};

void sim_script_make(struct sim_script *script, uint64_t seed, const struct sim_plan *plan);
void sim_script_fini(struct sim_script *script);
void sim_script_add(struct sim_script *script, const struct sim_action *action);
void sim_script_print(const struct sim_script *script, FILE *f);
/* 0 or -EINVAL with the line number in *line. */
int sim_script_parse(struct sim_script *script, FILE *f, unsigned *line);

#endif
