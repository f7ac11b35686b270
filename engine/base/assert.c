/* SPDX-License-Identifier: MIT */
#include "engine/base/assert.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void cow_assert_fail(const char *expr, const char *file, int line, const char *func)
{
	fprintf(stderr, "cowblk: BUG: %s:%d: %s: %s\n", file, line, func, expr);
	abort();
}
