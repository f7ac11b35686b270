/* SPDX-License-Identifier: MIT */
#include "engine/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int cow_error_set(struct cow_error *err, int code, const char *fmt, ...)
{
	if (!err || err->code)
		return code;
	err->code = code;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	return code;
}

void cow_error_prefix(struct cow_error *err, const char *fmt, ...)
{
	if (!err || !err->code)
		return;
	char old[sizeof(err->text)];
	memcpy(old, err->text, sizeof(old));
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n < sizeof(err->text))
		snprintf(err->text + n, sizeof(err->text) - (size_t)n, ": %s", old);
}
