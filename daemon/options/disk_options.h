/* SPDX-License-Identifier: MIT */
/* What the commands on whole closed disks have in common: how images are named and opened. */
#ifndef COW_DISK_OPTIONS_H
#define COW_DISK_OPTIONS_H

#include <argp.h>

#include "daemon/options/passphrase.h"
#include "engine/tool/disk.h"

#define COW_MAX_ROOTS 32
/* Of -t and -T. */
#define COW_CACHE_MODES "none|directsync|writethrough|writeback|unsafe"

/* Zeroed by the caller; input of cow_disk_argp. */
struct cow_disk_options {
	const char *roots[COW_MAX_ROOTS];
	size_t nr_roots;
	const char *data_roots[COW_MAX_ROOTS];
	size_t nr_data_roots;
	bool direct;		    /* -T none */
	bool share;		    /* -U, set by the command */
	bool salvage;		    /* the same for --salvage */
	struct cow_secrets secrets; /* input of cow_secret_argp */
};

/*
 * A child for a command's argp: --backing-root, -T; and what qemu-img has that is refused by name.
 */
extern const struct argp cow_disk_argp;

/* An option of the commands that write to an image which was named, and so to its data file. */
#define COW_DISK_DATA_ROOT_OPTION(key)                                                             \
	{                                                                                          \
		"data-root", key, "DIR", 0,                                                        \
			"External data files may be written to below DIR (may be repeated)", 0     \
	}
void cow_disk_add_data_root(struct cow_disk_options *o, const char *arg, struct argp_state *state);

/* qcow2 or raw; anything else ends the process with a line that says option. */
enum cow_disk_format cow_disk_format_parse(const char *option, const char *text,
					   struct argp_state *state);
/* A mode of qemu-img's -t and -T: does it go past the page cache? unsafe: nothing is waited for. */
bool cow_disk_cache_parse(const char *option, const char *text, bool *unsafe,
			  struct argp_state *state);

/* Bytes a second, as qemu-img's -r; anything else ends the process. 0: no limit. */
uint64_t cow_disk_rate_parse(const char *option, const char *text, struct argp_state *state);

/* -l of qemu-img: an id or a name, or snapshot.id=ID, snapshot.name=NAME. */
const char *cow_disk_snapshot_parse(const char *text);

/* How to open path: for reading, until the caller says otherwise. Refers to o. */
struct cow_disk_spec cow_disk_options_spec(const struct cow_disk_options *o, const char *path,
					   enum cow_disk_format format);

#endif
