/* SPDX-License-Identifier: MIT */
/* What the subcommands share. */
#include "daemon/cli/cmd.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	char *end;
	errno = 0;
	unsigned long long whole = strtoull(text, &end, 10);
	if (errno)
		return -EINVAL;
	double fraction = 0, place = 0.1;
	if (*end == '.')
		for (end++; isdigit((unsigned char)*end); end++, place /= 10)
			fraction += (*end - '0') * place;
	const char *rest = end;
	int power = parse_unit(&rest);
	if (power < 0)
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
