/* SPDX-License-Identifier: MIT */
#include "engine/base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Paths of 4096 bytes, and what is said of them. */
#define LONGEST 9216u

/*
 * One line whatever a path holds; of one that is too long the middle goes: the reason stands at the
 * end.
 */
static void store(struct cow_error *err, char *full)
{
	static const char gap[] = " ... ";
	const size_t size = sizeof(err->text), head = size / 4, len = strlen(full);
	for (char *p = full; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 0x7f)
			*p = '?';
	if (len < size) {
		memcpy(err->text, full, len + 1);
		return;
	}
	size_t tail = size - 1 - head - strlen(gap);
	memcpy(err->text, full, head);
	memcpy(err->text + head, gap, strlen(gap));
	memcpy(err->text + head + strlen(gap), full + len - tail, tail + 1);
}

int cow_error_set(struct cow_error *err, int code, const char *fmt, ...)
{
	char full[LONGEST];
	if (!err || err->code)
		return code;
	err->code = code;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(full, sizeof(full), fmt, ap);
	va_end(ap);
	store(err, full);
	return code;
}

int cow_error_no_memory(struct cow_error *err)
{
	return cow_error_set(err, -ENOMEM, "out of memory");
}

void cow_error_prefix(struct cow_error *err, const char *fmt, ...)
{
	char full[LONGEST];
	if (!err || !err->code)
		return;
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(full, sizeof(full), fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= sizeof(full))
		return;
	snprintf(full + n, sizeof(full) - (size_t)n, ": %s", err->text);
	store(err, full);
}
