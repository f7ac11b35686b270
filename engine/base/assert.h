/* SPDX-License-Identifier: MIT */
/*
 * Assertions that stay on in release: they guard against our own bugs, never against an image or
 * the host.
 */
#ifndef COW_BASE_ASSERT_H
#define COW_BASE_ASSERT_H

_Noreturn void cow_assert_fail(const char *expr, const char *file, int line, const char *func);

#define cow_assert(e) ((e) ? (void)0 : cow_assert_fail(#e, __FILE__, __LINE__, __func__))

#endif
