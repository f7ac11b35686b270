/* SPDX-License-Identifier: MIT */
#include "daemon/device/affinity.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/number.h"

/* One "N" or "N-M"; moves *text behind it. */
static int parse_range(const char **text, cpu_set_t *cpus)
{
	uint64_t first, last;
	if (!cow_number_take(text, CPU_SETSIZE - 1, &first))
		return -EINVAL;
	last = first;
	if (**text == '-') {
		(*text)++;
		if (!cow_number_take(text, CPU_SETSIZE - 1, &last) || last < first)
			return -EINVAL;
	}
	for (uint64_t i = first; i <= last; i++)
		CPU_SET(i, cpus);
	return 0;
}

static int parse_list(const char *text, cpu_set_t *cpus)
{
	CPU_ZERO(cpus);
	for (;;) {
		int ret = parse_range(&text, cpus);
		if (ret || !*text)
			return ret;
		if (*text++ != ',')
			return -EINVAL;
	}
}

int cow_affinity_parse(const char *text, struct cow_affinity *affinity)
{
	static const struct {
		const char *name;
		enum cow_affinity_policy policy;
	} names[] = {
		{ "float", COW_AFFINITY_FLOAT },
		{ "queue", COW_AFFINITY_QUEUE },
		{ "other", COW_AFFINITY_OTHER },
	};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(text, names[i].name)) {
			affinity->policy = names[i].policy;
			return 0;
		}
	affinity->policy = COW_AFFINITY_LIST;
	return parse_list(text, &affinity->list);
}

bool cow_affinity_choose(const struct cow_affinity *affinity, const cpu_set_t *submitters,
			 const cpu_set_t *allowed, cpu_set_t *cpus)
{
	switch (affinity->policy) {
	case COW_AFFINITY_FLOAT:
		return false;
	case COW_AFFINITY_QUEUE:
		CPU_AND(cpus, submitters, allowed);
		break;
	case COW_AFFINITY_OTHER:
		CPU_AND(cpus, submitters, allowed);
		CPU_XOR(cpus, cpus, allowed);
		break;
	case COW_AFFINITY_LIST:
		CPU_AND(cpus, &affinity->list, allowed);
		break;
	}
	return CPU_COUNT(cpus) > 0;
}
