/* SPDX-License-Identifier: MIT */
#include "engine/base/number.h"

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

bool cow_number_take(const char **text, uint64_t max, uint64_t *value)
{
	const char *p = *text;
	uint64_t v = 0;
	if (!is_digit(*p))
		return false;
	for (; is_digit(*p); p++) {
		unsigned digit = (unsigned)(*p - '0');
		if (v > max / 10 || digit > max - v * 10)
			return false;
		v = v * 10 + digit;
	}
	*text = p;
	*value = v;
	return true;
}

bool cow_number_parse(const char *text, uint64_t max, uint64_t *value)
{
	const char *end = text;
	uint64_t v;
	if (text[0] == '0' && is_digit(text[1]))
		return false;
	if (!cow_number_take(&end, max, &v) || *end)
		return false;
	*value = v;
	return true;
}
