/* SPDX-License-Identifier: MIT */
/* How a command asks a device's daemon: see daemon/control/control.h. */
#ifndef COW_ASK_H
#define COW_ASK_H

#include <json-c/json.h>
#include <stdint.h>

#include "daemon/control/talk.h"
#include "daemon/control/target.h"
#include "engine/base/result.h"

/* A daemon that has said nothing for so long, not even what it is at, is stuck. */
#define COW_ASK_LIMIT_MS 10000u

/*
 * Sends request (taken over) to the daemon of the target and waits for its answer as long as the daemon
 * says that it is at work. 0 or an exit status, after telling what went wrong. *reply is to be put when it is 0.
 * talk is to be closed in any case; more may follow the answer there.
 */
COW_MUST_CHECK int cow_ask(struct cow_talk *talk, struct cow_target target,
			   struct json_object *request, struct json_object **reply);

/*
 * The same with limits of one's own, for the daemon's silence and for all of it (UINT_MAX: none), and without a word
 * about errors: the daemon's answer, whatever it is, or NULL and *error.
 */
struct json_object *cow_ask_within(struct cow_talk *talk, struct cow_target target,
				   struct json_object *request, unsigned silence_ms,
				   unsigned limit_ms, int *error);
/* Puts the reply; tells an error that it says. Exit status. */
int cow_ask_show_error(uint32_t id, struct json_object *reply);
/* Another request on the same connection, from where its first answer has left it. */
COW_MUST_CHECK int cow_ask_again(struct cow_talk *talk, uint32_t id, struct json_object *request,
				 struct json_object **reply);

/* Tells that the daemon's answer did not come, for error -errno; the exit status. */
int cow_ask_fail(uint32_t id, int error);

#endif
