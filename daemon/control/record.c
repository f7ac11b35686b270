/* SPDX-License-Identifier: MIT */
/* See record.h. In this order: JSON; files. */
#include "daemon/control/record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/number.h"

#define JSON_FLAGS (JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)

void cow_record_path(uint32_t id, const char *suffix, char *path, size_t len)
{
	snprintf(path, len, COW_RUN_DIR "/ublkb%u.%s", id, suffix);
}

/*
 * Everybody may list what is attached, only root may put something there. Its mode is what it shall
 * be whatever the umask was of who made it.
 */
int cow_record_make_dir(void)
{
	struct stat st;
	if (mkdir(COW_RUN_DIR, 0755) && errno != EEXIST)
		return -errno;
	int fd = open(COW_RUN_DIR, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	int ret = fstat(fd, &st) ? -errno : st.st_uid != geteuid() ? -EPERM : 0;
	if (!ret && (st.st_mode & 07777) != 0755 && fchmod(fd, 0755))
		ret = -errno;
	close(fd);
	return ret;
}

static int open_lock(void)
{
	int ret = cow_record_make_dir();
	if (ret)
		return ret;
	int fd = open(COW_RUN_DIR "/lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? -errno : fd;
}

int cow_record_lock(enum cow_record_lock lock)
{
	int ret, fd = open_lock();
	if (fd < 0)
		return fd;
	if (!flock(fd, (lock == COW_RECORD_LOCK_ALL ? LOCK_EX : LOCK_SH) | LOCK_NB))
		return fd;
	ret = -errno;
	close(fd);
	return ret;
}

int cow_record_lock_size(uint32_t id)
{
	struct flock byte = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = id, .l_len = 1 };
	int ret, fd = open_lock();
	if (fd < 0 || !fcntl(fd, F_OFD_SETLK, &byte))
		return fd;
	ret = errno == EACCES || errno == EAGAIN ? -EWOULDBLOCK : -errno;
	close(fd);
	return ret;
}

int cow_record_supervise(uint32_t id)
{
	char path[64];
	cow_record_path(id, "life", path, sizeof(path));
	unlink(path);
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	if (!flock(fd, LOCK_EX | LOCK_NB))
		return fd;
	int ret = -errno;
	close(fd);
	return ret;
}

void cow_record_supervise_end(uint32_t id, int fd)
{
	struct stat ours, there;
	char path[64];
	cow_record_path(id, "life", path, sizeof(path));
	if (!fstat(fd, &ours) && !stat(path, &there) && ours.st_ino == there.st_ino)
		unlink(path);
	close(fd);
}

int cow_record_watch_supervisor(uint32_t id)
{
	char path[64];
	cow_record_path(id, "life", path, sizeof(path));
	return open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
}

static bool is_held(int fd)
{
	return flock(fd, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK;
}

void cow_record_wait_supervisor(int fd, unsigned limit_ms)
{
	if (fd < 0)
		return;
	for (unsigned ms = 0; ms < limit_ms && is_held(fd); ms++)
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	close(fd);
}

bool cow_record_is_supervised(uint32_t id)
{
	int fd = cow_record_watch_supervisor(id);
	bool held = fd >= 0 && is_held(fd);
	if (fd >= 0)
		close(fd);
	return held;
}

/* ---- JSON ---- */

struct json_object *cow_record_to_json(const struct cow_record *record)
{
	struct json_object *o = json_object_new_object();
	char device[24];
	snprintf(device, sizeof(device), "/dev/ublkb%u", record->id);
	json_object_object_add(o, "device", json_object_new_string(device));
	json_object_object_add(o, "id", json_object_new_int64(record->id));
	json_object_object_add(o, "image", json_object_new_string(record->image));
	json_object_object_add(o, "file-device", json_object_new_uint64(record->file_dev));
	json_object_object_add(o, "file-inode", json_object_new_uint64(record->file_ino));
	json_object_object_add(o, "size", json_object_new_uint64(record->size_bytes));
	json_object_object_add(o, "read-only", json_object_new_boolean(record->read_only));
	json_object_object_add(o, "temporary", json_object_new_boolean(record->temporary));
	if (record->snapshot)
		json_object_object_add(o, "snapshot", json_object_new_string(record->snapshot));
	json_object_object_add(o, "queues", json_object_new_int64(record->queues));
	json_object_object_add(o, "depth", json_object_new_int64(record->depth));
	json_object_object_add(o, "pid", json_object_new_int64(record->pid));
	json_object_object_add(o, "cookie", json_object_new_uint64(record->cookie));
	return o;
}

static uint64_t get_number(struct json_object *o, const char *key)
{
	struct json_object *v;
	return json_object_object_get_ex(o, key, &v) ? json_object_get_uint64(v) : 0;
}

static bool get_bool(struct json_object *o, const char *key)
{
	struct json_object *v;
	return json_object_object_get_ex(o, key, &v) && json_object_get_boolean(v);
}

static int from_json(struct json_object *o, struct cow_record *record)
{
	struct json_object *image, *snapshot;
	if (!json_object_object_get_ex(o, "image", &image) ||
	    !json_object_is_type(image, json_type_string))
		return -EINVAL;
	memset(record, 0, sizeof(*record));
	record->id = (uint32_t)get_number(o, "id");
	record->file_dev = get_number(o, "file-device");
	record->file_ino = get_number(o, "file-inode");
	record->size_bytes = get_number(o, "size");
	record->queues = (unsigned)get_number(o, "queues");
	record->depth = (unsigned)get_number(o, "depth");
	record->pid = (pid_t)get_number(o, "pid");
	record->cookie = get_number(o, "cookie");
	record->read_only = get_bool(o, "read-only");
	record->temporary = get_bool(o, "temporary");
	record->image = strdup(json_object_get_string(image));
	if (record->image && json_object_object_get_ex(o, "snapshot", &snapshot))
		record->snapshot = strdup(json_object_get_string(snapshot));
	return record->image ? 0 : -ENOMEM;
}

/* ---- files ---- */

static int write_file(const char *path, const char *text)
{
	unlink(path); /* somebody died before the rename */
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	size_t len = strlen(text);
	ssize_t n = fchmod(fd, 0644) ? -1 : write(fd, text, len);
	int ret = n < 0 ? -errno : (size_t)n == len ? 0 : -EIO;
	close(fd);
	return ret;
}

/* By rename: a reader sees all of it or nothing. */
int cow_record_write(const struct cow_record *record)
{
	char path[64], fresh[64];
	cow_record_path(record->id, "json", path, sizeof(path));
	cow_record_path(record->id, "new", fresh, sizeof(fresh));
	struct json_object *o = cow_record_to_json(record);
	int ret = write_file(fresh, json_object_to_json_string_ext(o, JSON_FLAGS));
	json_object_put(o);
	if (!ret && rename(fresh, path))
		ret = -errno;
	if (ret)
		unlink(fresh);
	return ret;
}

int cow_record_read(uint32_t id, struct cow_record *record)
{
	char path[64];
	cow_record_path(id, "json", path, sizeof(path));
	struct stat st;
	int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	bool regular = !fstat(fd, &st) && S_ISREG(st.st_mode);
	struct json_object *o = regular ? json_object_from_fd(fd) : NULL;
	close(fd);
	if (!o)
		return -EINVAL;
	int ret = from_json(o, record);
	json_object_put(o);
	if (!ret && record->id != id) {
		cow_record_fini(record);
		ret = -EINVAL;
	}
	return ret;
}

bool cow_record_writes_image(const struct cow_record *record)
{
	return !record->read_only && !record->temporary;
}

void cow_record_fini(struct cow_record *record)
{
	free(record->image);
	free(record->snapshot);
	record->image = record->snapshot = NULL;
}

void cow_record_clear(uint32_t id)
{
	static const char *const suffixes[] = { "json", "sock", "log", "new", "life" };
	char path[64];
	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		cow_record_path(id, suffixes[i], path, sizeof(path));
		unlink(path);
	}
}

void cow_record_remove(uint32_t id, uint64_t cookie)
{
	struct cow_record record;
	if (cow_record_read(id, &record))
		return;
	bool theirs = record.cookie == cookie;
	cow_record_fini(&record);
	if (theirs)
		cow_record_clear(id);
}

static int compare_ids(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

/* "ublkbN.json" */
static bool parse_name(const char *name, uint32_t *id)
{
	uint64_t number;
	if (strncmp(name, "ublkb", 5))
		return false;
	name += 5;
	if (name[0] == '0' && name[1] != '.')
		return false;
	if (!cow_number_take(&name, COW_MAX_DEVICE_ID, &number) || strcmp(name, ".json"))
		return false;
	*id = (uint32_t)number;
	return true;
}

int cow_record_list(uint32_t *ids, unsigned max)
{
	DIR *d = opendir(COW_RUN_DIR);
	if (!d)
		return errno == ENOENT ? 0 : -errno;
	unsigned nr = 0;
	struct dirent *e;
	while (nr < max && (e = readdir(d)))
		nr += parse_name(e->d_name, &ids[nr]);
	closedir(d);
	qsort(ids, nr, sizeof(*ids), compare_ids);
	return (int)nr;
}
