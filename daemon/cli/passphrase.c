/* SPDX-License-Identifier: MIT */
#include "daemon/cli/passphrase.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

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
 * Opens what read_all() reads. A named pipe may have no writer yet: who waits for one says so,
 * but not about those that have something to say at once, like /dev/fd/3.
 */
static int open_source(int dir, const char *name)
{
	const int flags = O_RDONLY | O_CLOEXEC | O_NOCTTY;
	struct stat st;
	if (fstatat(dir, name, &st, 0) || !S_ISFIFO(st.st_mode))
		return openat(dir, name, flags);
	int fd = openat(dir, name, flags | O_NONBLOCK);
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	if (fd < 0)
		return fd;
	if (!poll(&ready, 1, SAY_AFTER_MS)) {
		fprintf(stderr, "cowblk: key file: waiting for who writes the pipe\n");
		while (poll(&ready, 1, -1) < 0 && errno == EINTR)
			;
	}
	fcntl(fd, F_SETFL, 0);
	return fd;
}

static int load_at(int dir, const char *name, struct cow_secret *secret)
{
	int fd = open_source(dir, name);
	if (fd < 0)
		return -errno;
	int ret = read_all(fd, secret);
	close(fd);
	return ret;
}

static int load_file(const char *path, struct cow_secret *secret, struct cow_error *err)
{
	int ret = load_at(AT_FDCWD, path, secret);
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
	int dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int ret = dir < 0 ? -errno : load_at(dir, name, secret);
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

static int load_one(const struct cow_secret_source *source, const char *what, bool twice,
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
		return cow_secret_prompt(what, twice, secret, err);
	}
	return -EINVAL;
}

int cow_secrets_load(struct cow_secrets *secrets, const char *what, bool twice,
		     struct cow_error *err)
{
	int ret = 0;
	if (secrets->nr)
		prctl(PR_SET_DUMPABLE, 0);
	for (size_t i = 0; i < secrets->nr && !ret; i++) {
		secrets->owned[i] = cow_secret_new();
		secrets->loaded[i] = secrets->owned[i];
		if (!secrets->owned[i])
			ret = cow_error_set(err, -ENOMEM, "out of memory");
		else
			ret = load_one(&secrets->sources[i], what, twice, secrets->owned[i], err);
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
