/* SPDX-License-Identifier: MIT */
#include "engine/snapshot/snapshot_select.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "engine/core/load.h"
#include "engine/host/system.h"
#include "engine/snapshot/snapshot_list.h"

/* Far behind the bytes that QEMU locks. Ids that are no numbers share one byte. */
#define LOCK_BASE (1ll << 40)
#define LOCK_IDS (1ul << 32)

static struct flock lock_of(const struct cow_snapshot *s, short type)
{
	return (struct flock){
		.l_type = type,
		.l_whence = SEEK_SET,
		.l_start = LOCK_BASE + (off_t)(strtoul(s->id, NULL, 10) % LOCK_IDS),
		.l_len = 1,
	};
}

static int lock_snapshot(struct cow_file *file, const struct cow_snapshot *s, short type,
			 const char *held, struct cow_error *err)
{
	struct flock fl = lock_of(s, type);
	if (file->host != cow_host_system() || !fcntl(cow_host_fd(file), F_OFD_SETLK, &fl))
		return 0;
	if (errno != EAGAIN && errno != EACCES)
		return cow_error_set(err, -errno, "cannot lock snapshot '%s': %s", s->name,
				     strerror(errno));
	return cow_error_set(err, -EBUSY, "snapshot '%s' is %s", s->name, held);
}

static int lock_shared(struct cow_file *file, const struct cow_snapshot *s, struct cow_error *err)
{
	return lock_snapshot(file, s, F_RDLCK, "being deleted", err);
}

int cow_snapshot_lock_exclusive(struct cow_file *file, const struct cow_snapshot *s,
				struct cow_error *err)
{
	return lock_snapshot(file, s, F_WRLCK, "attached: detach it first", err);
}

void cow_snapshot_unlock(struct cow_file *file, const struct cow_snapshot *s)
{
	struct flock fl = lock_of(s, F_UNLCK);
	if (file->host == cow_host_system() && fcntl(cow_host_fd(file), F_OFD_SETLK, &fl))
		return; /* it goes with the file */
}

static int check_size(const struct cow_snapshot *s, const struct cow_header *h,
		      struct cow_error *err)
{
	if (s->disk_bytes % 512 || s->disk_bytes > INT64_MAX ||
	    cow_header_l1_entries(h, s->disk_bytes) > QCOW2_MAX_L1_BYTES / 8)
		return cow_error_set(err, -EINVAL,
				     "snapshot '%s': its disk size %" PRIu64 " is impossible",
				     s->name, s->disk_bytes);
	return 0;
}

/* list[*idx] is the one that text names, and can be read as the image's disk. */
static int choose(const struct cow_file *file, const struct cow_header *h,
		  const struct cow_snapshot *list, const char *text, uint32_t *idx,
		  struct cow_error *err)
{
	const struct cow_snapshot_key key = { .text = text };
	int ret = cow_snapshot_find(list, h->nr_snapshots, &key, idx, err);
	if (!ret)
		ret = cow_snapshot_verify_l1(&list[*idx], h, file->size_bytes, err);
	return ret ? ret : check_size(&list[*idx], h, err);
}

static int load_chosen(struct cow_loop *loop, struct cow_file *file, const char *text,
		       const struct cow_header *h, struct cow_snapshot **list, uint32_t *idx,
		       struct cow_error *err)
{
	uint64_t used_bytes;
	int ret = cow_load_snapshots(loop, file, h, list, &used_bytes, err);
	if (ret)
		return ret;
	ret = choose(file, h, *list, text, idx, err);
	if (ret)
		cow_snapshots_free(*list, h->nr_snapshots);
	return ret;
}

/* Looked at again once it is locked: until then it could be deleted. */
int cow_snapshot_select(struct cow_loop *loop, struct cow_file *file, const char *text,
			struct cow_header *h, struct cow_error *err)
{
	struct cow_snapshot *list;
	struct cow_header now;
	uint8_t *cluster;
	uint32_t idx;
	int ret = load_chosen(loop, file, text, h, &list, &idx, err);
	if (ret)
		return ret;
	ret = lock_shared(file, &list[idx], err);
	cow_snapshots_free(list, h->nr_snapshots);
	if (!ret)
		ret = cow_load_header(loop, file, &now, &cluster, err);
	if (ret)
		return ret;
	free(cluster);
	ret = load_chosen(loop, file, text, &now, &list, &idx, err);
	if (ret)
		return ret;
	h->size_bytes = list[idx].disk_bytes;
	h->l1_off = list[idx].l1_off;
	h->l1_entries = list[idx].l1_entries;
	cow_snapshots_free(list, now.nr_snapshots);
	return 0;
}
