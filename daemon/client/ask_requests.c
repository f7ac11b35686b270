/* SPDX-License-Identifier: MIT */
#include "daemon/client/ask_requests.h"

#include <errno.h>
#include <stdlib.h>

#include "daemon/client/ask.h"
#include "daemon/options/cmd.h"
#include "daemon/control/control.h"

/* Far more than a daemon lists. */
#define MAX_REPLY_BYTES (64u << 20)

/* What follows the line: JSON. */
static int receive(struct cow_talk *talk, uint64_t bytes, struct json_object **answer)
{
	if (bytes > MAX_REPLY_BYTES)
		return -EMSGSIZE;
	char *text = calloc(1, bytes + 1);
	int ret = text ? cow_talk_receive_bytes(talk, text, bytes) : -ENOMEM;
	if (!ret)
		*answer = json_tokener_parse(text);
	free(text);
	if (ret || json_object_is_type(*answer, json_type_object))
		return ret;
	json_object_put(*answer);
	return -EBADMSG;
}

int cow_ask_requests(struct cow_target target, struct json_object **answer)
{
	struct cow_talk talk;
	struct json_object *request = json_object_new_object(), *reply;
	json_object_object_add(request, "cmd", json_object_new_string("requests"));
	int status = cow_ask(&talk, target, request, &reply);
	if (!status) {
		int ret = receive(&talk, cow_control_number(reply, "bytes"), answer);
		json_object_put(reply);
		status = ret ? cow_ask_fail(target.id, ret) : 0;
	}
	cow_talk_close(&talk);
	return status;
}
