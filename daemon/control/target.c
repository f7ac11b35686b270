/* SPDX-License-Identifier: MIT */
/* See target.h. */
#include "daemon/control/target.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/control/control.h"
#include "daemon/control/identity.h"
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

/* A name without a folder, of which there is a file here as well. */
static bool is_file_here(const char *name)
{
	struct stat st;
	return !strchr(name, '/') && !lstat(name, &st);
}

static bool is_attached(uint32_t id)
{
	char path[64];
	cow_record_path(id, "json", path, sizeof(path));
	return !access(path, F_OK);
}

bool cow_target_device(const char *name, uint32_t *id)
{
	if (parse_device(name, id))
		return is_attached(*id) || !is_file_here(name);
	char *real = realpath(name, NULL);
	bool device = real && !strncmp(real, "/dev/", 5) && parse_device(real, id);
	free(real);
	return device;
}

bool cow_target_is_ambiguous(const char *name)
{
	uint32_t id;
	return parse_device(name, &id) && is_file_here(name) && is_attached(id);
}

static struct cow_identity identity_of(const struct cow_record *record)
{
	return (struct cow_identity){ record->file_dev, record->file_ino };
}

bool cow_target_has_moved(const struct cow_record *record)
{
	struct cow_identity there, ours = identity_of(record);
	if (!record->file_ino)
		return false;
	errno = 0;
	if (!cow_identity_of(record->image, &there))
		return errno == ENOENT || errno == ENOTDIR;
	return !cow_identity_is_same(&there, &ours);
}

/* The devices whose record is so. */
static int find_devices(bool (*matches)(const struct cow_record *record, const void *key),
			const void *key, uint32_t *ids, int max)
{
	static uint32_t all[COW_MAX_DEVICES];
	int nr = cow_record_list(all, COW_MAX_DEVICES), found = 0;
	for (int i = 0; i < nr && found < max; i++) {
		struct cow_record record;
		if (cow_record_read(all[i], &record))
			continue;
		if (matches(&record, key))
			ids[found++] = all[i];
		cow_record_fini(&record);
	}
	return nr < 0 ? nr : found;
}

struct named_file {
	struct cow_identity identity;
	const char *path;
};

/* A path says nothing: the file may have been renamed, and another be there now. */
static bool is_of_file(const struct cow_record *record, const void *key)
{
	const struct named_file *file = key;
	struct cow_identity theirs = identity_of(record);
	return record->file_ino ? cow_identity_is_same(&theirs, &file->identity)
				: !strcmp(record->image, file->path);
}

int cow_target_image(const char *image, uint32_t *ids, int max)
{
	struct named_file file;
	if (!cow_identity_of(image, &file.identity))
		return 0;
	char *real = realpath(image, NULL);
	file.path = real ? real : image;
	int found = find_devices(is_of_file, &file, ids, max);
	free(real);
	return found;
}

/* Another file system's file may have the number by chance; hardly one that is called the same. */
static bool is_alike(const struct cow_record *record, const void *key)
{
	const struct named_file *file = key;
	const char *ours = strrchr(file->path, '/'), *theirs = strrchr(record->image, '/');
	return record->file_ino != UINT64_MAX && record->file_ino == file->identity.ino &&
	       record->file_dev != file->identity.dev &&
	       !strcmp(ours ? ours + 1 : file->path, theirs ? theirs + 1 : record->image);
}

bool cow_target_alike(const char *image, uint32_t *id)
{
	struct named_file file = { .path = image };
	return cow_identity_of(image, &file.identity) && find_devices(is_alike, &file, id, 1) > 0;
}

static bool is_left(const struct cow_record *record, const void *path)
{
	return !strcmp(record->image, path) && cow_control_is_dead(record->id);
}

/* Where a file is or was: its folder must be there. malloc'ed, or NULL. */
static char *place_of(const char *image)
{
	char *path = NULL, *real = realpath(image, NULL);
	if (real)
		return real;
	const char *slash = strrchr(image, '/');
	char *dir = slash ? strndup(image, (size_t)(slash - image) + 1) : strdup(".");
	real = dir ? realpath(dir, NULL) : NULL;
	if (real && asprintf(&path, "%s/%s", real, slash ? slash + 1 : image) < 0)
		path = NULL;
	free(dir);
	free(real);
	return path;
}

int cow_target_left(const char *image, uint32_t *ids, int max)
{
	char *place = place_of(image);
	int found = find_devices(is_left, place ? place : image, ids, max);
	free(place);
	return found;
}

static bool has_cookie(const struct cow_record *record, const void *cookie)
{
	return record->cookie == *(const uint64_t *)cookie;
}

bool cow_target_cookie(uint64_t cookie, uint32_t *id)
{
	return find_devices(has_cookie, &cookie, id, 1) > 0;
}

static uint64_t cookie_of(uint32_t id)
{
	struct cow_record record;
	if (cow_record_read(id, &record))
		return 0;
	uint64_t cookie = record.cookie;
	cow_record_fini(&record);
	return cookie;
}

bool cow_target_writer(const char *name, struct cow_target *target)
{
	static uint32_t ids[COW_MAX_DEVICES];
	if (cow_target_device(name, &target->id)) {
		target->cookie = cookie_of(target->id);
		return true;
	}
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
		*target = (struct cow_target){ ids[i], record.cookie };
		found = true;
		if (!cow_control_is_dead(ids[i]))
			break;
	}
	return found;
}
