/* SPDX-License-Identifier: MIT */
#include "daemon/options/known.h"

#include <string.h>

void cow_known_add(struct cow_known *known, const struct argp_option *options)
{
	for (; options && (options->name || options->key) && known->nr < COW_MAX_OPTIONS; options++)
		known->options[known->nr++] = *options;
}

void cow_known_gather(struct cow_known *known, const struct argp *argp)
{
	static const struct argp_option own[] = { { "help", '?', NULL, 0,
						    "Show the command's options", 0 },
						  { "usage", 0x300, NULL, OPTION_HIDDEN, NULL, 0 },
						  { 0 } };
	cow_known_add(known, own);
	cow_known_add(known, argp->options);
	for (const struct argp_child *c = argp->children; c && c->argp; c++)
		cow_known_add(known, c->argp->options);
}

const struct argp_option *cow_known_long(const struct cow_known *known, const char *name,
					 size_t len)
{
	const struct argp_option *found = NULL;
	unsigned fits = 0;
	for (size_t i = 0; i < known->nr; i++) {
		const struct argp_option *o = &known->options[i];
		if (!o->name || strncmp(o->name, name, len))
			continue;
		found = o;
		if (!o->name[len])
			return o;
		fits++;
	}
	return fits == 1 ? found : NULL;
}

const struct argp_option *cow_known_short(const struct cow_known *known, char letter)
{
	for (size_t i = 0; i < known->nr; i++)
		if (known->options[i].key == letter)
			return &known->options[i];
	return NULL;
}

const struct argp_option *cow_known_wants_next(const struct cow_known *known, const char *word)
{
	const struct argp_option *o;
	if (word[1] == '-') {
		o = strchr(word, '=') ? NULL : cow_known_long(known, word + 2, strlen(word + 2));
		return o && o->arg ? o : NULL;
	}
	for (const char *p = word + 1; *p; p++) {
		o = cow_known_short(known, *p);
		if (o && o->arg)
			return p[1] ? NULL : o;
	}
	return NULL;
}
