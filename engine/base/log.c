/* SPDX-License-Identifier: MIT */
#include "engine/base/log.h"

#include <stdarg.h>
#include <stdio.h>

static void log_to_stderr(enum cow_log_level level, const char *line)
{
	(void)level;
	fprintf(stderr, "cowblk: %s\n", line);
}

static cow_log_sink *log_sink = log_to_stderr;
static enum cow_log_level log_max = COW_LOG_INFO;

void cow_log_set_sink(cow_log_sink *sink, enum cow_log_level max_level)
{
	log_sink = sink ? sink : log_to_stderr;
	log_max = max_level;
}

void cow_log(enum cow_log_level level, const char *fmt, ...)
{
	if (level > log_max)
		return;
	char line[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	log_sink(level, line);
}
