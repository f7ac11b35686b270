/* SPDX-License-Identifier: MIT */
/*
 * The message that goes with a failure: one line, "what, where, what to do". Filled by the control
 * plane only (open, create, check); the I/O path has -errno and the log.
 */
#ifndef COW_BASE_ERROR_H
#define COW_BASE_ERROR_H

struct cow_error {
	int code; /* -errno, 0 when no error was set */
	/* one line: control characters are shown as ?, the middle of what is too long as ... */
	char text[512];
};

/*
 * Set code (negative errno) and text unless an error stands already: the first error wins.
 * err may be NULL. Returns code.
 */
int cow_error_set(struct cow_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* The same with -ENOMEM, "out of memory". */
int cow_error_no_memory(struct cow_error *err);

/* Put "PREFIX: " in front of a set text. */
void cow_error_prefix(struct cow_error *err, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

#endif
