/* SPDX-License-Identifier: MIT */
/* What the subcommands share. */
#include "daemon/options/cmd.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/number.h"

int cow_cmd_fail(const char *fmt, ...)
{
	char *text;
	va_list ap;
	va_start(ap, fmt);
	int len = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (len < 0)
		return 1;
	for (char *p = text; *p; p++) /* one line, whatever the name of a file holds */
		if (iscntrl((unsigned char)*p))
			*p = '?';
	fprintf(stderr, "cowblk: %s\n", text);
	free(text);
	return 1;
}

int cow_cmd_fail_ambiguous(const char *name)
{
	return cow_cmd_fail("%s: is a device, and a file here: say /dev/%s or ./%s", name, name,
			    name);
}

/* Powers of 1024; -1: no such unit. Moves *text behind it. */
static int parse_unit(const char **text)
{
	static const char units[] = "KMGTPE";
	if (**text == '\0' || **text == 'B' || **text == 'b')
		return 0;
	const char *unit = strchr(units, toupper((unsigned char)**text));
	if (!unit)
		return -1;
	(*text)++;
	if (**text == 'i')
		(*text)++;
	return (int)(unit - units) + 1;
}

int cow_cmd_parse_size(const char *text, unsigned long long *bytes)
{
	const char *rest = text;
	uint64_t whole;
	double fraction = 0, place = 0.1;
	if (!cow_number_take(&rest, UINT64_MAX, &whole))
		return -EINVAL;
	bool has_fraction = *rest == '.';
	if (has_fraction) {
		if (!isdigit((unsigned char)rest[1]))
			return -EINVAL;
		for (rest++; isdigit((unsigned char)*rest); rest++, place /= 10)
			fraction += (*rest - '0') * place;
	}
	int power = parse_unit(&rest);
	if (power < 0 || (has_fraction && !power))
		return -EINVAL;
	if (*rest == 'B' || *rest == 'b')
		rest++;
	if (*rest)
		return -EINVAL;
	unsigned long long unit = 1ull << (10 * power);
	if (whole > UINT64_MAX / unit - 1)
		return -EINVAL;
	*bytes = whole * unit + (unsigned long long)(fraction * (double)unit);
	return 0;
}
