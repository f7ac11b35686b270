/* SPDX-License-Identifier: MIT */
/* A long command on the foreground: how far it is, and how it is cut short. */
#ifndef COW_INTERRUPT_H
#define COW_INTERRUPT_H

#include <stdatomic.h>
#include <stdbool.h>

#include "engine/base/result.h"
#include "engine/tool/walk.h"

/*
 * From now on SIGINT, SIGTERM and SIGHUP set the flag that is returned, and SIGUSR1 prints how far
 * the command is. The second of them ends the process at once.
 */
const atomic_bool *cow_interrupt_catch(void);
/* Ends the process by the signal that came, as if it had not been caught; else returns status. */
COW_MUST_CHECK int cow_interrupt_end(int status);

/*
 * How far it is, on standard error: on a terminal, and where -p forces it; -q and SIGUSR1 as above.
 */
struct cow_progress cow_interrupt_progress(bool force, bool quiet);
/* The line goes away. */
void cow_interrupt_finish(void);

#endif
