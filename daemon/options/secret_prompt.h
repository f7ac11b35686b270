/* SPDX-License-Identifier: MIT */
/* Asks for a passphrase on the terminal, without echo. */
#ifndef COW_SECRET_PROMPT_H
#define COW_SECRET_PROMPT_H

#include "engine/base/error.h"
#include "engine/base/result.h"
#include "engine/crypt/secret.h"

enum cow_prompt { COW_PROMPT_ONCE, COW_PROMPT_TWICE };

/* what: named in the prompt. TWICE: asks again and compares. -ECANCELED: interrupted; -ENXIO: there is no terminal. */
COW_MUST_CHECK int cow_secret_prompt(const char *what, enum cow_prompt times,
				     struct cow_secret *secret, struct cow_error *err);

#endif
