/* SPDX-License-Identifier: MIT */
#include "daemon/device/affinity.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* One "N" or "N-M"; moves *text behind it. */
static int parse_range(const char **text, cpu_set_t *cpus)
{
	char *end;
	unsigned long first = strtoul(*text, &end, 10), last = first;
	if (end == *text)
		return -EINVAL;
	if (*end == '-') {
		const char *from = end + 1;
		last = strtoul(from, &end, 10);
		if (end == from)
			return -EINVAL;
	}
	if (last < first || last >= CPU_SETSIZE)
		return -EINVAL;
	for (unsigned long i = first; i <= last; i++)
		CPU_SET(i, cpus);
	*text = end;
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
