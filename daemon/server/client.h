/* SPDX-License-Identifier: MIT */
/*
 * One connection to the daemon, never waited for: each call does what can be done now.
 *
 * state    what is true                                             it ends with
 * FREE     no connection
 * READING  the request is not complete                              its line, or the deadline
 * WAITING  the request is there, its job is not started             the control thread, which starts the job or answers
 * ASKING   the request is there, the queues are asked for it        the control thread, when they have answered
 * RUNNING  its job runs                                             the job's end
 * STOPPED  its detach has stopped the device, which is closed now   the close
 * SENDING  the answer is not all sent                               the last byte, or the deadline
 * TOLD     a detach is answered: the connection ends with the process
 *
 * In any state a connection that the other side has closed is closed here, and its request is dropped.
 */
#ifndef COW_CLIENT_H
#define COW_CLIENT_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/control/control.h"

enum cow_client_state {
	COW_CLIENT_FREE,
	COW_CLIENT_READING,
	COW_CLIENT_WAITING,
	COW_CLIENT_ASKING,
	COW_CLIENT_RUNNING,
	COW_CLIENT_STOPPED,
	COW_CLIENT_SENDING,
	COW_CLIENT_TOLD,
};

struct cow_client {
	enum cow_client_state state;
	int fd;
	uint64_t ticket;	     /* who came first */
	uint64_t deadline_ms;	     /* READING, SENDING: for all of it; cow_control_now_ms() */
	uint64_t beat_ms;	     /* WAITING to STOPPED: when the next progress line is due */
	struct json_object *request; /* owned */
	bool wants_progress;
	bool asked; /* ASKING: before the queues were asked, so that their answer is for it */
	bool stays; /* to be TOLD: it hears the end of the process too */
	size_t nr_in, nr_line, nr_bytes, nr_sent;
	char in[COW_CONTROL_LINE_BYTES];
	char *line;  /* of the answer, with its newline; owned */
	void *bytes; /* that follow it; owned */
};

/* Takes over the non-blocking fd. */
void cow_client_open(struct cow_client *client, int fd, uint64_t ticket, uint64_t now_ms);
void cow_client_close(struct cow_client *client);

/* READING: true when the request is complete: WAITING now. */
bool cow_client_read(struct cow_client *client, uint64_t now_ms);

/* Takes over reply and bytes. Sends what goes at once. */
void cow_client_answer(struct cow_client *client, struct json_object *reply, void *bytes,
		       size_t nr_bytes, uint64_t now_ms);
/* SENDING: goes on. */
void cow_client_send(struct cow_client *client);

/* A line {"progress":text} to a client that asked for such, if it is due and takes it. */
void cow_client_beat(struct cow_client *client, const char *text, uint64_t now_ms);

/* Has nothing happened in time? */
bool cow_client_is_late(const struct cow_client *client, uint64_t now_ms);
/* When something is due for this client; UINT64_MAX: never. */
uint64_t cow_client_due_ms(const struct cow_client *client);
/* What poll() shall look for; hanging up is always reported. */
short cow_client_events(const struct cow_client *client);

#endif
