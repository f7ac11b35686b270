/* SPDX-License-Identifier: MIT */
/* The status of many devices at once: a daemon that does not answer delays nobody's. */
#ifndef COW_SURVEY_H
#define COW_SURVEY_H

#include <json-c/json.h>
#include <stdint.h>

struct cow_survey {
	uint32_t id;
	/*
	 * 0: reply is there. -ECONNREFUSED, -ENOENT: no daemon; -EACCES, -EPERM: not for this user;
	 * -ETIMEDOUT: it does not answer; -ENODATA: it ended meanwhile; ...
	 */
	int error;
	struct json_object *reply; /* owned by the caller */
	/* the survey's own */
	int fd;
	size_t nr_in;
	char *in;
};

/* ids are given. All are asked within limit_ms, or 256 at a time, where there are more. */
void cow_survey_run(struct cow_survey *all, unsigned nr, unsigned limit_ms);

#endif
