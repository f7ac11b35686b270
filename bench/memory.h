/* SPDX-License-Identifier: MIT */
/*
 * What the engine costs without a kernel: the host in memory of the tests, and a loop over it that does no
 * more than it must, since callgrind counts it with the engine. Guest data is not copied (I/O whose memory
 * lies in the range given to bench_memory_ignore()), metadata is. Single-threaded.
 */
#ifndef BENCH_MEMORY_H
#define BENCH_MEMORY_H

#include "engine/loop/loop.h"

/* Files opened through it live until the process ends; an existing file of the real host is read
 * into memory. */
struct cow_host *bench_memory_host(void);
int bench_memory_loop_new(struct cow_loop **out);
/* Transfers to and from this memory are only counted. */
void bench_memory_ignore(const void *start, size_t bytes);
/* I/Os started since the last call. */
uint64_t bench_memory_ios(void);

#endif
