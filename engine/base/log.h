/* SPDX-License-Identifier: MIT */
/*
 * One log sink for the process; the program sets it (standard error, journald), the default is
 * standard error.
 */
#ifndef COW_BASE_LOG_H
#define COW_BASE_LOG_H

enum cow_log_level { /* values of syslog(3) */
		     COW_LOG_ERR = 3,
		     COW_LOG_WARNING = 4,
		     COW_LOG_INFO = 6,
		     COW_LOG_DEBUG = 7,
};

typedef void cow_log_sink(enum cow_log_level level, const char *line);

/* sink NULL restores the default. Not thread-safe: call before threads start. */
void cow_log_set_sink(cow_log_sink *sink, enum cow_log_level max_level);

void cow_log(enum cow_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
