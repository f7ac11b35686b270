/* SPDX-License-Identifier: MIT */
/*
 * Results are used. An exported function whose int tells of an error, or is what was asked for, is
 * marked COW_MUST_CHECK (lint_results); who means to ignore one says so, with the reason beside it:
 * COW_IGNORE(cow_loop_poll(loop)).
 */
#ifndef COW_RESULT_H
#define COW_RESULT_H

#define COW_MUST_CHECK __attribute__((warn_unused_result))

/* A cast to void does not silence GCC. */
#define COW_IGNORE(call) ((void)!(call))

#endif
