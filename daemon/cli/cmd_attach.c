/* SPDX-License-Identifier: MIT */
/*
 * cowblk attach: forks the daemon and returns when it has said that the device is ready, or why
 * not. The fork comes before any thread or ring exists.
 */
#include <argp.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/options/args.h"
#include "daemon/cli/commands.h"
#include "daemon/options/cmd.h"
#include "daemon/client/clash.h"
#include "daemon/client/leftover.h"
#include "daemon/control/control.h"
#include "daemon/control/record.h"
#include "daemon/control/show.h"
#include "daemon/server/report.h"
#include "daemon/options/passphrase.h"
#include "daemon/device/harden.h"
#include "daemon/server/server.h"
#include "daemon/device/kernel.h"
#include "daemon/server/supervise.h"
#include "daemon/control/target.h"
#include "engine/base/number.h"
#include "engine/crypt/secret.h"
#include "engine/host/path.h"

#define DEFAULT_DEPTH 64
#define MAX_ROOTS 64
/* The kernel has room for 2^20 ids, but its /dev names are ours to keep sane. */
#define MAX_ID 65535

enum {
	OPT_READ_ONLY = 'r',
	OPT_DEPTH = 'd',
	OPT_ID = 'n',
	OPT_BACKING_ROOT = 0x100,
	OPT_BLOCK_SIZE,
	OPT_FOREGROUND,
	OPT_QUEUES,
	OPT_CACHE_SIZE,
	OPT_DETECT_ZEROES,
	OPT_NO_DISCARD,
	OPT_NO_PARTITION_SCAN,
	OPT_AFFINITY,
	OPT_TRANSFER,
	OPT_BUFFERED,
	OPT_WRITE_LEGACY_AES,
	OPT_SNAPSHOT,
	OPT_COMPRESS,
	OPT_TEMPORARY,
	OPT_DATA_FILE,
	OPT_DATA_ROOT,
	OPT_DATA_FORMAT,
	OPT_KEEP_MEMORY,
	OPT_RECOVERY,
	OPT_NO_RECOVERY,
};

static const struct argp_option options[] = {
	{ "read-only", OPT_READ_ONLY, NULL, 0, "Attach read-only; the image is not written at all",
	  0 },
	{ "queues", OPT_QUEUES, "N", 0, "Queues, each with a thread (default: one for each CPU)",
	  0 },
	{ "depth", OPT_DEPTH, "N", 0, "Requests in flight for each queue (default: 64)", 0 },
	{ "id", OPT_ID, "N", 0, "Be /dev/ublkbN (default: the first free number)", 0 },
	{ "foreground", OPT_FOREGROUND, NULL, 0, "Stay in the foreground; SIGTERM detaches", 0 },
	{ "backing-root", OPT_BACKING_ROOT, "DIR", 0,
	  "Backing files may lie below DIR, besides the image's own directory (repeatable)", 0 },
	{ "cache-size", OPT_CACHE_SIZE, "SIZE", 0,
	  "Metadata cache of the whole chain, like 16M (default: by the images, up to 32M)", 0 },
	{ "keep-memory", OPT_KEEP_MEMORY, NULL, 0,
	  "Take all memory that the device can ever need now, and keep it: for swap", 0 },
	{ "recovery", OPT_RECOVERY, NULL, 0,
	  "The device outlives its daemon: one that is killed is replaced, and nothing that was "
	  "acknowledged is lost (the default where it is possible: Linux 7.1)",
	  0 },
	{ "no-recovery", OPT_NO_RECOVERY, NULL, 0,
	  "The device goes with its daemon, and so does what was not flushed", 0 },
	{ "detect-zeroes", OPT_DETECT_ZEROES, "off|on|unmap", 0,
	  "Store written zeros as zero clusters (on) or free the space (unmap) (default: off)", 0 },
	{ "block-size", OPT_BLOCK_SIZE, "512|4096", 0,
	  "Logical block size of the device: that of the disk in the image (default: 512)", 0 },
	{ "no-discard", OPT_NO_DISCARD, NULL, 0, "Give no space back to the host", 0 },
	{ "no-partition-scan", OPT_NO_PARTITION_SCAN, NULL, 0, "Do not look for partitions", 0 },
	{ "affinity", OPT_AFFINITY, "other|float|queue|CPUS", 0,
	  "CPUs of the queue threads: other (default), float, queue, or a list like 0-3", 0 },
	{ "transfer", OPT_TRANSFER, "copy|user-copy|zero-copy", 0,
	  "How data is moved (default: copy)", 0 },
	{ "snapshot", OPT_SNAPSHOT, "SNAPSHOT", 0,
	  "With --read-only: attach this internal snapshot (id or name), beside the live image if "
	  "that is attached",
	  0 },
	{ "write-legacy-aes", OPT_WRITE_LEGACY_AES, NULL, 0,
	  "Write images with the old AES encryption, which is weak", 0 },
	{ "temporary", OPT_TEMPORARY, NULL, 0,
	  "Leave the image as it is: what is written is thrown away at the end", 0 },
	{ "compress", OPT_COMPRESS, NULL, 0,
	  "Store newly written clusters compressed where that saves space", 0 },
	{ "data-file", OPT_DATA_FILE, "FILE", 0, "The external data file, whatever the image names",
	  0 },
	{ "data-root", OPT_DATA_ROOT, "DIR", 0,
	  "Data files that images name may be written to below DIR (repeatable)", 0 },
	{ "data-format", OPT_DATA_FORMAT, "raw", 0,
	  "Write to the data file even if it begins as an image of its own", 0 },
	{ "buffered", OPT_BUFFERED, NULL, 0,
	  "Use the host's page cache (default: O_DIRECT where possible)", 0 },
	{ 0 },
};

struct attach {
	struct cow_server_config server;
	const char *image;
	const char *backing_roots[MAX_ROOTS], *data_roots[MAX_ROOTS];
	struct cow_secrets secrets;
	struct cow_args args;
	int news; /* the parent's pipe */
	enum { RECOVERY_WHERE_POSSIBLE, RECOVERY_WANTED, RECOVERY_OFF } recovery;
	bool supervised; /* what came of it */
};

static uint64_t parse_number(struct argp_state *state, const char *option, const char *text,
			     uint64_t min, uint64_t max)
{
	uint64_t v = 0;
	if (!cow_number_parse(text, max, &v) || v < min)
		argp_error(state, "--%s %s: not a number from %" PRIu64 " to %" PRIu64, option,
			   text, min, max);
	return v;
}

static enum cow_detect_zeroes parse_detect_zeroes(struct argp_state *state, const char *text)
{
	if (!strcmp(text, "on"))
		return COW_DETECT_ZEROES_ON;
	if (!strcmp(text, "unmap"))
		return COW_DETECT_ZEROES_UNMAP;
	if (strcmp(text, "off"))
		argp_error(state, "--detect-zeroes %s: not one of off, on, unmap", text);
	return COW_DETECT_ZEROES_OFF;
}

static void add_root(struct argp_state *state, const char *option, const char **roots, size_t *nr,
		     char *dir)
{
	if (*nr == MAX_ROOTS)
		argp_error(state, "--%s: more than %d", option, MAX_ROOTS);
	roots[(*nr)++] = dir;
}

/* What the image may name, and what is written to in its place. */
static error_t parse_files(int key, char *arg, struct argp_state *state, struct attach *attach)
{
	struct cow_open_options *open = &attach->server.device.open;
	switch (key) {
	case OPT_BACKING_ROOT:
		add_root(state, "backing-root", attach->backing_roots, &open->nr_backing_roots,
			 arg);
		return 0;
	case OPT_DATA_ROOT:
		add_root(state, "data-root", attach->data_roots, &open->nr_data_roots, arg);
		return 0;
	case OPT_DATA_FILE:
		open->data_file = arg;
		return 0;
	case OPT_DATA_FORMAT:
		if (strcmp(arg, "raw"))
			argp_error(state, "--data-format %s: must be raw", arg);
		open->data_is_raw = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* The cache is locked memory, and refcounts get a quarter of it besides. */
static void check_memory(unsigned long long bytes, const char *text, struct argp_state *state)
{
	struct sysinfo info;
	char most[32];
	if (sysinfo(&info))
		return;
	uint64_t half = (uint64_t)info.totalram * info.mem_unit / 2;
	cow_show_bytes(half, most);
	if (bytes > half)
		argp_error(state, "--cache-size %s: at most half of this machine's memory, %s",
			   text, most);
}

/* Options that choose among policies or take a size. */
static error_t parse_policy(int key, char *arg, struct argp_state *state,
			    struct cow_device_config *config)
{
	unsigned long long bytes;
	switch (key) {
	case OPT_CACHE_SIZE:
		if (cow_cmd_parse_size(arg, &bytes) || !bytes)
			argp_error(state, "--cache-size %s: not a size like 16M", arg);
		check_memory(bytes, arg, state);
		config->open.cache_bytes = bytes;
		return 0;
	case OPT_BLOCK_SIZE:
		if (cow_cmd_parse_size(arg, &bytes) || (bytes != 512 && bytes != 4096))
			argp_error(state, "--block-size %s: must be 512 or 4096", arg);
		config->block_bytes = (uint32_t)bytes;
		return 0;
	case OPT_DETECT_ZEROES:
		config->open.detect_zeroes = parse_detect_zeroes(state, arg);
		return 0;
	case OPT_AFFINITY:
		if (cow_affinity_parse(arg, &config->affinity))
			argp_error(state,
				   "--affinity %s: not float, queue, other or a list of CPUs", arg);
		return 0;
	case OPT_TRANSFER:
		config->transfer = cow_transfer_find(arg);
		if (!config->transfer)
			argp_error(state, "--transfer %s: not one of copy, user-copy, zero-copy",
				   arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct attach *attach = state->input;
	struct cow_device_config *config = &attach->server.device;
	switch (key) {
	case OPT_READ_ONLY:
		config->open.writable = false;
		return 0;
	case OPT_QUEUES:
		config->queues = (unsigned)parse_number(state, "queues", arg, 1, COW_MAX_QUEUES);
		return 0;
	case OPT_DEPTH:
		config->depth = (unsigned)parse_number(state, "depth", arg, 1, COW_MAX_QUEUE_DEPTH);
		return 0;
	case OPT_ID:
		config->id = (uint32_t)parse_number(state, "id", arg, 0, MAX_ID);
		return 0;
	case OPT_FOREGROUND:
		attach->server.foreground = true;
		return 0;
	case OPT_NO_DISCARD:
		config->open.no_discard = true;
		return 0;
	case OPT_NO_PARTITION_SCAN:
		config->partition_scan = false;
		return 0;
	case OPT_KEEP_MEMORY:
		config->open.keep_memory = true;
		return 0;
	case OPT_RECOVERY:
		attach->recovery = RECOVERY_WANTED;
		return 0;
	case OPT_NO_RECOVERY:
		attach->recovery = RECOVERY_OFF;
		return 0;
	case OPT_BUFFERED:
		config->open.buffered = true;
		return 0;
	case OPT_WRITE_LEGACY_AES:
		config->open.write_legacy_aes = true;
		return 0;
	case ARGP_KEY_INIT:
		state->child_inputs[0] = &attach->secrets;
		return 0;
	case OPT_TEMPORARY:
		config->temporary = true;
		return 0;
	case OPT_COMPRESS:
		config->open.compress = true;
		return 0;
	case OPT_SNAPSHOT:
		config->open.snapshot = arg;
		return 0;
	case ARGP_KEY_ARG:
		if (attach->image)
			argp_error(state, "%s: one image at a time", arg);
		attach->image = arg;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "which image?");
		return EINVAL;
	default:
		if (!parse_files(key, arg, state, attach))
			return 0;
		return parse_policy(key, arg, state, config);
	}
}

static const struct argp_child children[] = {
	{ &cow_secret_argp, 0, "Passphrase of an encrypted image:", 0 }, { 0 }
};

static const struct argp argp = {
	.options = options,
	.children = children,
	.parser = parse_option,
	.args_doc = "IMAGE",
	.doc = "Attach the qcow2 image IMAGE as a block device and print the device's path.\v"
	       "The command returns when the device is ready; a daemon serves it until `cowblk "
	       "detach`.",
};

/*
 * ---- news from the daemon: one line through a pipe, '+' and the device or '-' and the error ----
 */

static bool announce_to_parent(void *ctx, const char *device, const char *error)
{
	struct attach *attach = ctx;
	int fd = attach->news;
	bool heard = dprintf(fd, "%c%s\n", error ? '-' : '+', error ? error : device) > 0;
	close(fd);
	return heard;
}

static bool announce_here(void *ctx, const char *device, const char *error)
{
	if (error) {
		cow_cmd_fail("%s", error);
		return true;
	}
	if (!((struct attach *)ctx)->args.quiet)
		puts(device);
	return !fflush(stdout);
}

/*
 * Its supervisor may have been killed when the device was there, before it could say so. A daemon that
 * answers has told it all, and goes on without.
 */
static int nobody_said(const struct attach *attach, int status)
{
	uint32_t id;
	bool killed = WIFSIGNALED(status);
	if (!cow_target_cookie(attach->server.device.cookie, &id) || !cow_control_answers(id))
		return cow_cmd_fail("the daemon died while attaching (%s %d): see the system's log",
				    killed ? "signal" : "status",
				    killed ? WTERMSIG(status) : WEXITSTATUS(status));
	fprintf(stderr,
		"cowblk: /dev/ublkb%u: its supervisor was killed: it will not outlive its daemon\n",
		id);
	return attach->args.quiet || (printf("/dev/ublkb%u\n", id) > 0 && !fflush(stdout)) ? 0 : 1;
}

static int hear_from_child(int fd, pid_t child, const struct attach *attach)
{
	char line[1024];
	FILE *f = fdopen(fd, "r");
	bool heard = f && fgets(line, sizeof(line), f);
	if (f)
		fclose(f);
	if (!heard) {
		int status = 0;
		waitpid(child, &status, 0);
		return nobody_said(attach, status);
	}
	line[strcspn(line, "\n")] = '\0';
	if (line[0] != '+')
		return cow_cmd_fail("%s", line + 1);
	if (!attach->args.quiet && (puts(line + 1) < 0 || fflush(stdout)))
		_exit(cow_cmd_fail("%s is attached, but standard output cannot be written: `cowblk "
				   "detach` takes it away",
				   line + 1));
	return 0;
}

/* Its parent is to hear the end of the file when the last one is gone that could say something. */
static void leave(void *ctx)
{
	struct attach *attach = ctx;
	if (!attach->server.foreground)
		close(attach->news);
}

static void forget_secrets(void *ctx)
{
	cow_secrets_free(&((struct attach *)ctx)->secrets);
}

static int run_server(struct attach *attach)
{
	attach->server.leave = leave;
	attach->server.forget = forget_secrets;
	return attach->supervised ? cow_supervise_run(&attach->server)
				  : cow_server_run(&attach->server);
}

static int run_in_background(struct attach *attach)
{
	struct cow_server_config *server = &attach->server;
	int fds[2];
	if (pipe2(fds, O_CLOEXEC))
		return cow_cmd_fail("pipe: %s", strerror(errno));
	server->device.cookie = cow_device_new_cookie();
	if (!server->device.cookie)
		return cow_cmd_fail("getrandom: %s", strerror(errno));
	fflush(NULL);
	pid_t child = fork();
	if (child < 0)
		return cow_cmd_fail("fork: %s", strerror(errno));
	if (child) {
		cow_secrets_free(&attach->secrets);
		close(fds[1]);
		return hear_from_child(fds[0], child, attach);
	}
	close(fds[0]);
	setsid();
	server->announce = announce_to_parent;
	server->ctx = attach;
	attach->news = fds[1];
	_exit(run_server(attach));
}

static void set_defaults(struct attach *attach)
{
	struct cow_device_config *config = &attach->server.device;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	config->id = UB_ANY_ID;
	config->queues = cpus < 1 ? 1 : cpus > COW_MAX_QUEUES ? COW_MAX_QUEUES : (unsigned)cpus;
	config->depth = DEFAULT_DEPTH;
	config->block_bytes = 512;
	config->partition_scan = true;
	config->affinity.policy = COW_AFFINITY_OTHER;
	config->transfer = &cow_transfer_copy;
	config->open.writable = true;
	config->open.backing_roots = attach->backing_roots;
	config->open.data_roots = attach->data_roots;
	config->open.secrets = attach->secrets.loaded;
	config->hooks = (struct cow_keeper_hooks){
		.started = forget_secrets,
		.deleted = cow_record_remove,
		.ctx = attach,
	};
}

/* The daemon does not stay in this folder. Links are left for who opens it. NULL: no memory. */
static char *absolute(const char *name)
{
	char *path, *here = name[0] == '/' ? NULL : getcwd(NULL, 0);
	if (name[0] == '/')
		return strdup(name);
	if (!here || asprintf(&path, "%s/%s", here, name) < 0)
		path = NULL;
	free(here);
	return path;
}

static int make_absolute(struct attach *attach, const struct cow_path *real)
{
	struct cow_open_options *open = &attach->server.device.open;
	const char **names[] = { attach->backing_roots, attach->data_roots, &open->data_file,
				 &attach->server.device.image_path };
	size_t nr[] = { open->nr_backing_roots, open->nr_data_roots, open->data_file ? 1 : 0, 1 };
	/* The daemon does not have the caller's descriptors: what one stands for is known here. */
	attach->server.device.image_path = real->is_descriptor ? real->full : attach->image;
	if (real->is_descriptor) {
		open->file_dev = real->dev;
		open->file_ino = real->ino;
	}
	for (size_t i = 0; i < sizeof(nr) / sizeof(nr[0]); i++) {
		for (size_t k = 0; k < nr[i]; k++) {
			names[i][k] = absolute(names[i][k]);
			if (!names[i][k])
				return cow_cmd_fail("%s: the working directory has no path",
						    attach->image);
		}
	}
	return 0;
}

/* An option that changes how the image is written means nothing where it is not. */
static bool nothing_to_write(const struct attach *attach)
{
	const struct cow_open_options *open = &attach->server.device.open;
	if (open->writable)
		return false;
	const char *option = open->compress	      ? "compress"
			     : open->detect_zeroes    ? "detect-zeroes"
			     : open->no_discard	      ? "no-discard"
			     : open->write_legacy_aes ? "write-legacy-aes"
						      : NULL;
	if (option)
		cow_cmd_fail("--%s: means nothing with --read-only: leave one of them out", option);
	return option;
}

static int refuse_combinations(const struct attach *attach)
{
	const struct cow_device_config *device = &attach->server.device;
	if (device->temporary && (device->open.snapshot || !device->open.writable))
		return cow_cmd_fail("%s: --temporary makes the live disk writable: leave out --%s",
				    attach->image,
				    device->open.snapshot ? "snapshot" : "read-only");
	if (attach->recovery == RECOVERY_WANTED && device->temporary)
		return cow_cmd_fail("%s: --recovery: not with --temporary", attach->image);
	if (device->open.snapshot && device->open.writable)
		return cow_cmd_fail(
			"%s: a snapshot can only be attached read-only: add --read-only",
			attach->image);
	return 0;
}

/* Non-zero: it is to outlive its daemon, and cannot. */
static int choose_recovery(struct attach *attach)
{
	static struct cow_error err;
	if (attach->recovery == RECOVERY_OFF || attach->server.device.temporary)
		return 0;
	int ret = cow_kernel_find_recovery(&err);
	attach->supervised = !ret;
	if (ret && attach->recovery == RECOVERY_WANTED)
		return cow_cmd_fail("%s: --recovery: %s", attach->image, err.text);
	if (ret)
		attach->server.no_recovery = err.text;
	return 0;
}

static int serve(struct attach *attach)
{
	attach->server.device.open.nr_secrets = attach->secrets.nr;
	/* Not before: a passphrase may come by a descriptor, like --key-file /dev/fd/3. */
	cow_harden_close_inherited();
	if (!attach->server.foreground)
		return run_in_background(attach);
	attach->server.announce = announce_here;
	attach->server.ctx = attach;
	return run_server(attach);
}

int cow_cmd_attach(int argc, char **argv)
{
	static struct attach attach;
	static struct cow_path real;
	struct cow_error err = { 0 };
	set_defaults(&attach);
	cow_harden_allow_files();
	cow_args_parse(&argp, COW_ARGS_QUIET | COW_ARGS_FORMAT, argc, argv, &attach.args, &attach);
	if (nothing_to_write(&attach))
		return COW_EXIT_USAGE;
	if (refuse_combinations(&attach) || choose_recovery(&attach))
		return 1;
	if (cow_path_resolve(attach.image, &real, &err))
		return cow_cmd_fail("%s%s", err.text,
				    err.code == -EACCES && geteuid() ? ": run as root" : "");
	if (real.missing)
		return cow_cmd_fail("%s: %s", attach.image, strerror(ENOENT));
	if (cow_clash_find(real.full, &attach.server.device) ||
	    cow_leftover_make_way(real.full, attach.server.device.id) ||
	    make_absolute(&attach, &real))
		return 1;
	attach.server.image_path = real.full;
	cow_report_init();
	cow_kernel_warn();
	if (cow_secrets_load(&attach.secrets, real.full, COW_PROMPT_ONCE, &err))
		return cow_cmd_fail("%s", err.text);
	int status = serve(&attach);
	cow_secrets_free(&attach.secrets);
	return status;
}
