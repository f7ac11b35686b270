/* SPDX-License-Identifier: MIT */
/*
 * The one reader of decimal numbers. strtoul() and sscanf() take signs and white space, and wrap
 * around in silence: "ublkb4294967296" would be ublkb0.
 */
#ifndef COW_NUMBER_H
#define COW_NUMBER_H

#include <stdbool.h>
#include <stdint.h>

/* Digits at the beginning of *text, of a number up to max; moves *text behind them. False: no such. */
bool cow_number_take(const char **text, uint64_t max, uint64_t *value);

/*
 * The whole text: digits only, without leading zeros, so that a number has one name. False: not a
 * number up to max.
 */
bool cow_number_parse(const char *text, uint64_t max, uint64_t *value);

#endif
