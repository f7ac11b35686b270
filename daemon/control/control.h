/* SPDX-License-Identifier: MIT */
/*
 * The control socket of a daemon: a client sends one line of JSON, gets one line back, and the end
 * of the connection.
 *
 *   {"cmd":"status"}                 {"ok":true,"state":"live",...}
 *   {"cmd":"requests"}               see serve_requests.h; bytes follow the line of the answer
 *   {"cmd":"snapshot",...}           see serve_snapshot.h
 *   {"cmd":"bitmap",...}             see serve_bitmap.h; bytes may follow the line of the answer
 *   {"cmd":"resize",...}             see serve_resize.h
 *   {"cmd":"detach","force":false}   {"ok":true} when the image is closed, or {"ok":false,"error":"..."}; the connection
 *                                    ends when the daemon has
 *
 * "cookie" in a request says which device it is for: a daemon of another, which has the same number by
 * now, refuses it. With "progress":true in the request, lines {"progress":"what the daemon is at"} come before the answer, one a
 * second: a daemon that says nothing is stuck. A request is dropped when its client closes the connection.
 */
#ifndef COW_CONTROL_H
#define COW_CONTROL_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine/base/result.h"

/* A line with its newline, in both directions. */
#define COW_CONTROL_LINE_BYTES 4096

/* A listening socket, root's only, non-blocking; takes over a stale one. fd or -errno. */
COW_MUST_CHECK int cow_control_listen(uint32_t id);
/*
 * Without waiting: -EAGAIN: the daemon's backlog is full, or it died and another one is on its way. -ECONNREFUSED, -ENOENT: no daemon there. A
 * non-blocking fd or -errno.
 */
COW_MUST_CHECK int cow_control_connect(uint32_t id);

/* Does somebody listen? */
bool cow_control_answers(uint32_t id);
/* Is there a daemon no more? One that is stuck is not dead. */
bool cow_control_is_dead(uint32_t id);

/* Takes over line: its text with a newline, to be freed; NULL: too long, or no memory. */
char *cow_control_line(struct json_object *line);

struct json_object *cow_control_ok(void);
struct json_object *cow_control_error(const char *text);
/* The string at key; otherwise if there is none. Valid as long as line. */
const char *cow_control_text(struct json_object *line, const char *key, const char *otherwise);
/* A number of the line, 0 when it is not there. */
uint64_t cow_control_number(struct json_object *line, const char *key);
/* NULL if reply says ok; else its text, valid as long as reply. */
const char *cow_control_reply_error(struct json_object *reply);

/* CLOCK_MONOTONIC. */
uint64_t cow_control_now_ms(void);

/* Progress of a daemon that closes its image: the device has stopped, nothing can hurry it. */
#define COW_CONTROL_CLOSING "closing the image"

#endif
