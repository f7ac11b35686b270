/* SPDX-License-Identifier: MIT */
/* The client's side of daemon/server/serve_snapshot.h. */
#ifndef COW_ASK_SNAPSHOT_H
#define COW_ASK_SNAPSHOT_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/control/target.h"

#include "engine/base/result.h"
#include "engine/snapshot/snapshot.h"

/*
 * Asks the daemon of the target. freeze: its mounted file systems are frozen
 * around it. Prints what there is to say; the exit status.
 */
COW_MUST_CHECK int cow_ask_snapshot(struct cow_target target, const char *action,
				    const struct cow_snapshot_key *key, bool freeze);

#endif
