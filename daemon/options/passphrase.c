/* SPDX-License-Identifier: MIT */
/* See passphrase.h. In this order: options; files; the kernel's keyrings; all. */
#include "daemon/options/passphrase.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/keyctl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/options/secret_prompt.h"
#include "engine/base/number.h"
#include "engine/crypt/secret.h"
#include "engine/host/path.h"

/* ---- options ---- */

enum { OPT_FILE = 0x4b00, OPT_CREDENTIAL, OPT_KEYRING, OPT_PROMPT };

static const struct argp_option options[] = {
	{ "key-file", OPT_FILE, "FILE", 0,
	  "Passphrase: all bytes of FILE, a newline at its end too (repeatable)", 0 },
	{ "key-credential", OPT_CREDENTIAL, "NAME", 0,
	  "Passphrase: the systemd credential NAME (repeatable)", 0 },
	{ "key-keyring", OPT_KEYRING, "NAME", 0,
	  "Passphrase: the key of type \"user\" that is called NAME in the kernel's keyrings "
	  "(repeatable)",
	  0 },
	{ "key-prompt", OPT_PROMPT, NULL, 0, "Passphrase: ask for it on the terminal", 0 },
	{ 0 },
};

static void add_source(struct argp_state *state, enum cow_secret_kind kind, const char *name)
{
	struct cow_secrets *secrets = state->input;
	if (secrets->nr == COW_MAX_SECRETS)
		argp_error(state, "--key-...: more than %u passphrases", COW_MAX_SECRETS);
	secrets->sources[secrets->nr++] = (struct cow_secret_source){ kind, name };
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	if (key < OPT_FILE || key > OPT_PROMPT)
		return ARGP_ERR_UNKNOWN;
	add_source(state, (enum cow_secret_kind)(key - OPT_FILE), arg);
	return 0;
}

const struct argp cow_secret_argp = { .options = options, .parser = parse_option };

/* ---- files ---- */

#define SAY_AFTER_MS 1000

static int read_all(int fd, struct cow_secret *secret)
{
	uint8_t more;
	while (secret->bytes < sizeof(secret->data)) {
		ssize_t n = read(fd, secret->data + secret->bytes,
				 sizeof(secret->data) - secret->bytes);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n == 0)
			return 0;
		if (n > 0)
			secret->bytes += (size_t)n;
	}
	return read(fd, &more, 1) == 0 ? 0 : -EFBIG;
}

/*
 * A named pipe may have no writer yet: who waits for one says so, but not about those that have
 * something to say at once.
 */
static int wait_for_writer(int fd)
{
	struct stat st;
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	if (!fstat(fd, &st) && S_ISFIFO(st.st_mode) && !poll(&ready, 1, SAY_AFTER_MS)) {
		fprintf(stderr, "cowblk: key file: waiting for who writes the pipe\n");
		while (poll(&ready, 1, -1) < 0 && errno == EINTR)
			;
	}
	return fcntl(fd, F_SETFL, 0) ? -errno : 0;
}

/* Takes over fd, which may be an error. */
static int load_fd(int fd, struct cow_secret *secret)
{
	if (fd < 0)
		return fd;
	int ret = wait_for_writer(fd);
	if (!ret)
		ret = read_all(fd, secret);
	close(fd);
	return ret;
}

#define SOURCE_FLAGS (O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)

/*
 * One that the caller has open, by any of the names that shells and scripts have for it: what it is
 * was for the caller to choose. False: the name is another.
 */
static bool open_descriptor(const char *name, int *fd)
{
	static const char *const folders[] = { "/dev/fd/", "/proc/self/fd/" };
	char link[40];
	uint64_t number = 0;
	bool known = !strcmp(name, "/dev/stdin");
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]) && !known; i++) {
		size_t n = strlen(folders[i]);
		known = !strncmp(name, folders[i], n) &&
			cow_number_parse(name + n, INT_MAX, &number);
	}
	if (!known)
		return false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", (int)number);
	*fd = open(link, SOURCE_FLAGS);
	if (*fd < 0)
		*fd = -errno;
	return true;
}

/* As images are: the owner of a folder on the way does not choose what is read. */
static int open_path(const char *path, struct cow_error *err)
{
	static struct cow_path real;
	struct stat st;
	int ret = cow_path_resolve(path, &real, err);
	if (!ret && real.missing)
		ret = -ENOENT;
	int slash = ret ? ret : cow_path_open_slash();
	if (slash < 0)
		return slash;
	int fd = cow_path_open_typed(slash, real.full + 1, SOURCE_FLAGS,
				     COW_PATH_FILE | COW_PATH_FIFO, path, &st, err);
	close(slash);
	ret = fd < 0 ? fd : cow_path_check(&real, &st, path, err);
	if (ret && fd >= 0)
		close(fd);
	return ret ? ret : fd;
}

static int load_file(const char *path, struct cow_secret *secret, struct cow_error *err)
{
	struct cow_error why = { 0 };
	int fd;
	if (!open_descriptor(path, &fd))
		fd = open_path(path, &why);
	int ret = load_fd(fd, secret);
	if (ret && why.text[0])
		return cow_error_set(err, ret, "key file %s", why.text);
	return ret ? cow_error_set(err, ret, "key file %s: %s", path, strerror(-ret)) : 0;
}

static int load_credential(const char *name, struct cow_secret *secret, struct cow_error *err)
{
	const char *path = getenv("CREDENTIALS_DIRECTORY");
	if (!path)
		return cow_error_set(err, -ENOENT,
				     "credential %s: CREDENTIALS_DIRECTORY is not set: run as a "
				     "systemd unit with "
				     "LoadCredential=%s:FILE",
				     name, name);
	if (!name[0] || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
		return cow_error_set(err, -EINVAL, "credential '%s': must be a name, not a path",
				     name);
	struct cow_error why = { 0 };
	struct stat st;
	int dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int fd = dir < 0 ? -errno
			 : cow_path_open_typed(dir, name, SOURCE_FLAGS,
					       COW_PATH_FILE | COW_PATH_FIFO, name, &st, &why);
	int ret = load_fd(fd, secret);
	if (dir >= 0)
		close(dir);
	return ret ? cow_error_set(err, ret, "credential %s: %s", name, strerror(-ret)) : 0;
}

/* ---- the kernel's keyrings ---- */

/*
 * In the order that request_key(2) has: thread, process and session keyring, here without asking
 * user space. A service's session keyring need not be linked to the user's: that one is looked at
 * by itself.
 */
static long find_key(const char *name)
{
	long key = syscall(SYS_request_key, "user", name, NULL, 0);
	if (key < 0)
		key = syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_USER_KEYRING, "user", name, 0);
	return key;
}

static int load_key(const char *name, struct cow_secret *secret, struct cow_error *err)
{
	long key = find_key(name);
	if (key < 0)
		return cow_error_set(err, -errno,
				     "key %s: not found in the keyrings: %s: add it, like keyctl "
				     "add user %s ... @u",
				     name, strerror(errno), name);
	long n = syscall(SYS_keyctl, KEYCTL_READ, key, secret->data, sizeof(secret->data));
	if (n < 0 || (size_t)n > sizeof(secret->data)) {
		int ret = n < 0 ? -errno : -EFBIG;
		return cow_error_set(err, ret, "key %s: cannot read it: %s", name, strerror(-ret));
	}
	secret->bytes = (size_t)n;
	return 0;
}

/* ---- all ---- */

static int load_one(const struct cow_secret_source *source, const char *what, enum cow_prompt times,
		    struct cow_secret *secret, struct cow_error *err)
{
	switch (source->kind) {
	case COW_SECRET_FILE:
		return load_file(source->name, secret, err);
	case COW_SECRET_CREDENTIAL:
		return load_credential(source->name, secret, err);
	case COW_SECRET_KEYRING:
		return load_key(source->name, secret, err);
	case COW_SECRET_PROMPT:
		return cow_secret_prompt(what, times, secret, err);
	}
	return -EINVAL;
}

int cow_secrets_load(struct cow_secrets *secrets, const char *what, enum cow_prompt times,
		     struct cow_error *err)
{
	int ret = 0;
	if (secrets->nr)
		prctl(PR_SET_DUMPABLE, 0);
	for (size_t i = 0; i < secrets->nr && !ret; i++) {
		secrets->owned[i] = cow_secret_new();
		secrets->loaded[i] = secrets->owned[i];
		if (!secrets->owned[i])
			ret = cow_error_no_memory(err);
		else
			ret = load_one(&secrets->sources[i], what, times, secrets->owned[i], err);
		if (!ret && !secrets->owned[i]->bytes)
			ret = cow_error_set(err, -EINVAL, "passphrase %s: is empty",
					    secrets->sources[i].name ? secrets->sources[i].name
								     : "from the terminal");
	}
	if (ret)
		cow_secrets_free(secrets);
	return ret;
}

void cow_secrets_free(struct cow_secrets *secrets)
{
	for (size_t i = 0; i < COW_MAX_SECRETS; i++) {
		cow_secret_free(secrets->owned[i]);
		secrets->owned[i] = NULL;
		secrets->loaded[i] = NULL;
	}
}
