/* SPDX-License-Identifier: MIT */
#include "daemon/options/values.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "daemon/options/args.h"

/* Up to a comma that stands alone. */
static char *next_word(char **list)
{
	char *word = *list, *out = word, *in = word;
	for (; *in && (*in != ',' || in[1] == ','); in++) {
		in += *in == ',';
		*out++ = *in;
	}
	*list = *in ? in + 1 : NULL;
	*out = '\0';
	return word;
}

char *cow_values_next(char **list, char **value)
{
	while (*list) {
		char *word = next_word(list);
		if (!*word)
			continue;
		*value = strchr(word, '=');
		if (*value)
			*(*value)++ = '\0';
		return word;
	}
	return NULL;
}

bool cow_value_switch(const char *value, bool *on)
{
	*on = !strcmp(value, "on");
	return *on || !strcmp(value, "off");
}

bool cow_value_preallocation(const char *value, enum cow_preallocation *out)
{
	static const char *const names[] = {
		[COW_PREALLOC_OFF] = "off",
		[COW_PREALLOC_METADATA] = "metadata",
		[COW_PREALLOC_FALLOC] = "falloc",
		[COW_PREALLOC_FULL] = "full",
	};
	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (!strcmp(value, names[i])) {
			*out = (enum cow_preallocation)i;
			return true;
		}
	}
	return false;
}

bool cow_value_compat(const char *value, uint32_t *version)
{
	if (!strcmp(value, "0.10") || !strcmp(value, "v2"))
		*version = 2;
	else if (!strcmp(value, "1.1") || !strcmp(value, "v3"))
		*version = 3;
	else
		return false;
	return true;
}

bool cow_values_is_help(const char *name, const char *value)
{
	return !value && (!strcmp(name, "help") || !strcmp(name, "?"));
}

void cow_values_help(const struct cow_value_doc *docs)
{
	puts("Options of -o, as NAME=VALUE[,NAME=VALUE...]:");
	for (; docs->name; docs++)
		printf("  %-20s %s\n", docs->name, docs->values);
}

static const char *doc_name(const void *ctx, size_t i)
{
	return ((const struct cow_value_doc *)ctx)[i].name;
}

void cow_values_unknown(const struct cow_value_doc *docs, const char *name,
			struct argp_state *state)
{
	const char *nearest = cow_args_nearest(name, doc_name, docs);
	argp_error(state, "-o %s: no such option%s%s: see -o help", name,
		   nearest ? ": did you mean " : "", nearest ? nearest : "");
}

void cow_values_invalid(const struct cow_value_doc *docs, const char *name, const char *value,
			struct argp_state *state)
{
	while (docs->name && strcmp(docs->name, name) != 0)
		docs++;
	argp_error(state, "-o %s: '%s' is not a valid value: %s", name, value,
		   docs->name ? docs->values : "see -o help");
}
