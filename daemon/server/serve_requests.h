/* SPDX-License-Identifier: MIT */
/*
 * The requests in flight, for clients and for the log.
 *
 *   {"cmd":"requests"}   {"ok":true,"bytes":N}, then N bytes of JSON: an object of
 *     "requests"        oldest first; of each "queue", "tag", "kind", "fua", "offset" and "length" in bytes, "age-ms", "step"
 *                       (null: not known), "waits-for" and "host-ios"
 *     "silent-queues"   those whose thread does not answer: of their requests less is known
 *     "left-out"        how many more there are than are listed
 *
 * They are the queue threads': each is asked by a message and answers when it comes to it, while the
 * control thread goes on.
 */
#ifndef COW_SERVE_REQUESTS_H
#define COW_SERVE_REQUESTS_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/device/device.h"

struct cow_requests {
	const struct cow_device *device;
	bool asking;
	uint64_t deadline_ms;
};

/* The control thread's, like all here, while the device's queues run. now_ms: cow_control_now_ms(). */
void cow_requests_ask(struct cow_requests *requests, uint64_t now_ms);
/* Have all queues answered, or had time enough? */
bool cow_requests_are_in(const struct cow_requests *requests, uint64_t now_ms);

/* The answer to a client; *bytes to be freed. */
struct json_object *cow_requests_show(const struct cow_requests *requests, void **bytes,
				      size_t *nr_bytes);
void cow_requests_log(const struct cow_requests *requests);

#endif
