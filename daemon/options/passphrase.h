/* SPDX-License-Identifier: MIT */
/*
 * Where passphrases come from: never from the command line itself, which every user of the machine
 * can read. The options, as a child parser for the subcommands that open or make images, and the
 * getting, which is done before the daemon forks and gives up its rights.
 *
 *   --key-file FILE          all bytes of the file, a newline at its end too (as QEMU and cryptsetup do it)
 *   --key-credential NAME    a credential of the systemd unit (LoadCredential=, SetCredentialEncrypted=)
 *   --key-keyring NAME       the kernel's keyrings: a key of type "user", described as NAME
 *   --key-prompt             asked for on the terminal
 *
 * Each may be given several times, for chains whose images have different passphrases.
 */
#ifndef COW_PASSPHRASE_H
#define COW_PASSPHRASE_H

#include <argp.h>
#include <stdbool.h>

#include "daemon/options/secret_prompt.h"
#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/crypt/secret.h"

enum cow_secret_kind {
	COW_SECRET_FILE,
	COW_SECRET_CREDENTIAL,
	COW_SECRET_KEYRING,
	COW_SECRET_PROMPT
};

struct cow_secret_source {
	enum cow_secret_kind kind;
	const char *name;
};

/* Zeroed by the caller. */
struct cow_secrets {
	size_t nr;
	struct cow_secret_source sources[COW_MAX_SECRETS];
	const struct cow_secret *loaded[COW_MAX_SECRETS]; /* as cow_unlock_key() wants them */
	struct cow_secret *owned[COW_MAX_SECRETS];
};

/*
 * A child for the subcommand's argp; its input (child_inputs, at ARGP_KEY_INIT) is a struct
 * cow_secrets.
 */
extern const struct argp cow_secret_argp;

/*
 * Gets them all. what: named in the prompt (the image). TWICE: a prompt asks again and compares
 * (for a new image). From now on the process leaves no core dump. On failure nothing is held.
 */
COW_MUST_CHECK int cow_secrets_load(struct cow_secrets *secrets, const char *what,
				    enum cow_prompt times, struct cow_error *err);
/* Wipes them. May be called twice, and without a load. */
void cow_secrets_free(struct cow_secrets *secrets);

#endif
