/* SPDX-License-Identifier: MIT */
#include "daemon/cli/values.h"

#include <stddef.h>
#include <string.h>

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
