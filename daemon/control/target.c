/* SPDX-License-Identifier: MIT */
#include "daemon/control/target.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/control/control.h"
#include "daemon/control/record.h"
#include "engine/base/number.h"

static bool parse_device(const char *name, uint32_t *id)
{
	uint64_t number;
	if (!strncmp(name, "/dev/", 5))
		name += 5;
	if (strncmp(name, "ublkb", 5) || !cow_number_parse(name + 5, COW_MAX_DEVICE_ID, &number))
		return false;
	*id = (uint32_t)number;
	return true;
}

bool cow_target_device(const char *name, uint32_t *id)
{
	if (parse_device(name, id))
		return true;
	char *real = realpath(name, NULL);
	bool device = real && parse_device(real, id);
	free(real);
	return device;
}

static bool same_file(const char *a, const char *b)
{
	struct stat x, y;
	return !strcmp(a, b) ||
	       (!stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino);
}

int cow_target_image(const char *image, uint32_t *ids, int max)
{
	static uint32_t all[COW_MAX_DEVICES];
	char *real = realpath(image, NULL);
	int nr = cow_record_list(all, COW_MAX_DEVICES), found = 0;
	for (int i = 0; i < nr && found < max; i++) {
		struct cow_record record;
		if (cow_record_read(all[i], &record))
			continue;
		if (same_file(record.image, real ? real : image))
			ids[found++] = all[i];
		cow_record_fini(&record);
	}
	free(real);
	return nr < 0 ? nr : found;
}

bool cow_target_writer(const char *name, uint32_t *id)
{
	static uint32_t ids[COW_MAX_DEVICES];
	if (cow_target_device(name, id))
		return true;
	int nr = cow_target_image(name, ids, COW_MAX_DEVICES);
	bool found = false;
	for (int i = 0; i < nr; i++) {
		struct cow_record record;
		if (cow_record_read(ids[i], &record))
			continue;
		bool writer = cow_record_writes_image(&record);
		cow_record_fini(&record);
		if (!writer)
			continue;
		*id = ids[i];
		found = true;
		if (!cow_control_is_dead(ids[i]))
			break;
	}
	return found;
}
