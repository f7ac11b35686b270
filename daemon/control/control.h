/* SPDX-License-Identifier: MIT */
/*
 * The control socket of a daemon: a client sends one line of JSON, gets one line back, and the end
 * of the connection.
 *
 *   {"cmd":"status"}                 {"ok":true,"state":"live",...}
 *   {"cmd":"snapshot",...}           see live.h
 *   {"cmd":"bitmap",...}             see live_bitmap.h; bytes may follow the line of the answer
 *   {"cmd":"detach","force":false}   {"ok":true} when the image is closed, or {"ok":false,"error":"..."}; the connection
 *                                    ends when the daemon has
 */
#ifndef COW_CONTROL_H
#define COW_CONTROL_H

#include <json-c/json.h>
#include <stdint.h>

/* A listening socket, root's only; takes over a stale one. fd or -errno. */
int cow_control_listen(uint32_t id);
/* -ECONNREFUSED, -ENOENT: no daemon there. fd or -errno. */
int cow_control_connect(uint32_t id);

/* Takes over line. */
int cow_control_send(int fd, struct json_object *line);
/*
 * timeout_ms -1: none. NULL: no (valid) line came; *error says why (-ENODATA: the connection
 * ended).
 */
struct json_object *cow_control_receive(int fd, int timeout_ms, int *error);
/* What goes along with a line, all of it. 0 or -errno. */
int cow_control_send_bytes(int fd, const void *buf, size_t bytes);
int cow_control_receive_bytes(int fd, void *buf, size_t bytes);
/* Waits for the other end to close. */
void cow_control_wait_end(int fd);

struct json_object *cow_control_ok(void);
struct json_object *cow_control_error(const char *text);
/* The string at key; otherwise if there is none. Valid as long as line. */
const char *cow_control_text(struct json_object *line, const char *key, const char *otherwise);
/* A number of the line, 0 when it is not there. */
uint64_t cow_control_number(struct json_object *line, const char *key);
/* NULL if reply says ok; else its text, valid as long as reply. */
const char *cow_control_reply_error(struct json_object *reply);

#endif
