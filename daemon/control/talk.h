/* SPDX-License-Identifier: MIT */
/*
 * Talking in lines of JSON over a control connection (control.h), blocking, each call within a total
 * limit: a peer that sends or takes a byte a second does not stretch it. For the commands, and for a
 * job of the daemon that talks to its client.
 */
#ifndef COW_TALK_H
#define COW_TALK_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/control/control.h"
#include "engine/base/result.h"

struct cow_talk {
	int fd; /* non-blocking; -1: none */
	uint64_t begun_ms, deadline_ms;
	/*
	 * UINT64_MAX: none; of all calls together, whatever their own limits are, until the daemon
	 * says that it closes its image
	 */
	uint64_t end_ms;
	unsigned limit_ms;
	/* whom the user hears that we wait for, and when next; "": nobody is told */
	char whom[96];
	uint64_t word_ms;
	size_t nr_line;
	char line[COW_CONTROL_LINE_BYTES];
};

/*
 * A connection that is there: fd stays the caller's. limit_ms: of each call from here on (UINT_MAX:
 * none).
 */
void cow_talk_init(struct cow_talk *talk, int fd, unsigned limit_ms);
/*
 * To the daemon of /dev/ublkb<id>, whose process is pid (0: not known). After 2 seconds of waiting
 * standard error says for whom, then every half minute. -ETIMEDOUT: it does not answer;
 * -ECONNREFUSED, -ENOENT: there is none. 0 or -errno.
 */
COW_MUST_CHECK int cow_talk_connect(struct cow_talk *talk, uint32_t id, pid_t pid,
				    unsigned limit_ms);
void cow_talk_close(struct cow_talk *talk);

/* Takes over line. 0 or -errno. */
COW_MUST_CHECK int cow_talk_send(struct cow_talk *talk, struct json_object *line);
/*
 * The next line that is no progress; each line of progress gives the limit anew. NULL: none came;
 * *error says why (-ENODATA: the connection ended; -ETIMEDOUT).
 */
struct json_object *cow_talk_receive(struct cow_talk *talk, int *error);
/* What follows a line, all of it; the limit grows with its size. 0 or -errno. */
COW_MUST_CHECK int cow_talk_receive_bytes(struct cow_talk *talk, void *buf, size_t bytes);
/* Waits for the other end to close. 0 or -ETIMEDOUT. */
COW_MUST_CHECK int cow_talk_wait_end(struct cow_talk *talk);

#endif
