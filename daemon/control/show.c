/* SPDX-License-Identifier: MIT */
/* See show.h. In this order: values; snapshots. */
#include "daemon/control/show.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/bitmap/bitmap.h"

/* ---- values ---- */

/* Bytes of a well-formed UTF-8 sequence that shows something; 0: none starts here. */
static unsigned utf8_bytes(const unsigned char *p)
{
	unsigned n = p[0] < 0x80		   ? 1
		     : p[0] >= 0xc2 && p[0] < 0xe0 ? 2
		     : (p[0] & 0xf0) == 0xe0	   ? 3
		     : p[0] >= 0xf0 && p[0] < 0xf5 ? 4
						   : 0;
	if (p[0] < 0x20 || p[0] == 0x7f || (p[0] == 0xc2 && p[1] < 0xa0))
		return 0;
	for (unsigned i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return n;
}

char *cow_show_clean(const char *text)
{
	char *clean = strdup(text);
	if (!clean)
		abort();
	for (unsigned char *p = (unsigned char *)clean; *p;) {
		unsigned n = utf8_bytes(p);
		if (!n)
			*p = '?';
		p += n ? n : 1;
	}
	return clean;
}

/* JSON can have control characters; what is no character is told by its bytes. */
static char *escape(const char *text)
{
	char *escaped = malloc(4 * strlen(text) + 1), *out = escaped;
	if (!escaped)
		abort();
	for (const unsigned char *p = (const unsigned char *)text; *p;) {
		unsigned n = *p < 0x20 || *p == 0x7f		   ? 1
			     : *p == 0xc2 && (p[1] & 0xc0) == 0x80 ? 2
								   : utf8_bytes(p);
		if (n) {
			memcpy(out, p, n);
			out += n;
			p += n;
		} else {
			out += sprintf(out, "\\x%02x", *p++);
		}
	}
	*out = '\0';
	return escaped;
}

void cow_show_string(struct json_object *to, const char *key, const char *text)
{
	char *escaped = escape(text);
	json_object_object_add(to, key, json_object_new_string(escaped));
	free(escaped);
}

void cow_show_u64(struct json_object *to, const char *key, uint64_t value)
{
	json_object_object_add(to, key, json_object_new_uint64(value));
}

void cow_show_bytes(uint64_t bytes, char out[32])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	unsigned unit = 0;
	double value = (double)bytes;
	for (; value >= 1000 && unit < 6; unit++)
		value /= 1024;
	snprintf(out, 32, "%.3g %s", value, units[unit]);
}

/* ---- snapshots ---- */

static struct json_object *one_snapshot(const struct cow_snapshot *s)
{
	struct json_object *one = json_object_new_object();
	cow_show_string(one, "id", s->id);
	cow_show_string(one, "name", s->name);
	cow_show_u64(one, "vm-state-size", s->vm_state_bytes);
	cow_show_u64(one, "date-sec", s->date_sec);
	cow_show_u64(one, "date-nsec", s->date_nsec);
	cow_show_u64(one, "vm-clock-sec", s->vm_clock_nsec / 1000000000u);
	cow_show_u64(one, "vm-clock-nsec", s->vm_clock_nsec % 1000000000u);
	if (s->icount != UINT64_MAX)
		cow_show_u64(one, "icount", s->icount);
	return one;
}

struct json_object *cow_show_snapshots(const struct cow_snapshot *list, uint32_t nr)
{
	struct json_object *array = json_object_new_array();
	for (uint32_t i = 0; i < nr; i++)
		json_object_array_add(array, one_snapshot(&list[i]));
	return array;
}

static uint64_t get_u64(struct json_object *o, const char *key)
{
	struct json_object *value;
	return json_object_object_get_ex(o, key, &value) ? json_object_get_uint64(value) : 0;
}

static const char *get_string(struct json_object *o, const char *key)
{
	struct json_object *value;
	return json_object_object_get_ex(o, key, &value) ? json_object_get_string(value) : "";
}

static void print_snapshot(struct json_object *s)
{
	char size[32], date[32] = "?", clock[40];
	time_t sec = (time_t)get_u64(s, "date-sec");
	uint64_t vm = get_u64(s, "vm-clock-sec");
	struct tm tm;
	cow_show_bytes(get_u64(s, "vm-state-size"), size);
	if (localtime_r(&sec, &tm))
		strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(clock, sizeof(clock), "%02" PRIu64 ":%02" PRIu64 ":%02" PRIu64 ".%03" PRIu64,
		 vm / 3600, vm / 60 % 60, vm % 60, get_u64(s, "vm-clock-nsec") / 1000000);
	char *id = cow_show_clean(get_string(s, "id")),
	     *name = cow_show_clean(get_string(s, "name"));
	printf("%-9s %-16s %8s%20s%13s%11s\n", id, name, size, date, clock,
	       get_string(s, "icount"));
	free(id);
	free(name);
}

void cow_show_snapshots_text(struct json_object *list)
{
	printf("%-9s %-16s %8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK",
	       "ICOUNT");
	for (size_t i = 0; i < json_object_array_length(list); i++)
		print_snapshot(json_object_array_get_idx(list, i));
}

struct json_object *cow_show_bitmaps(const struct cow_bitmap *list, uint32_t nr)
{
	struct json_object *array = json_object_new_array();
	for (uint32_t i = 0; i < nr; i++) {
		struct json_object *one = json_object_new_object();
		cow_show_string(one, "name", list[i].name);
		cow_show_u64(one, "granularity", 1ull << list[i].granularity_bits);
		cow_show_string(one, "state", cow_bitmap_state(list[i].flags));
		json_object_array_add(array, one);
	}
	return array;
}

/* The name last: it may be long. */
void cow_show_bitmaps_text(struct json_object *list)
{
	if (json_object_array_length(list))
		printf("%-11s %-12s %s\n", "GRANULARITY", "STATE", "NAME");
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *one = json_object_array_get_idx(list, i);
		char *name = cow_show_clean(get_string(one, "name"));
		printf("%-11" PRIu64 " %-12s %s\n", get_u64(one, "granularity"),
		       get_string(one, "state"), name);
		free(name);
	}
}
