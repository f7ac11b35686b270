/* SPDX-License-Identifier: MIT */
/*
 * fuse_file FILE FOLDER: a FUSE file system of one file, FOLDER/file, which is FILE. Only who mounted
 * it may use it (no allow_other). Ends when it is unmounted; stopped (SIGSTOP), it answers nobody.
 * While FILE.full exists there is no room for what is written.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILE_INO 2u
#define MAX_DATA (128u << 10)

static int backing, fuse;
static char full[4096];
static _Alignas(8) uint8_t in[MAX_DATA + 4096], data[MAX_DATA];

static void reply(uint64_t unique, int error, const void *body, size_t bytes)
{
	struct fuse_out_header head = { .len = (uint32_t)(sizeof(head) + bytes),
					.error = error,
					.unique = unique };
	struct iovec iov[] = { { &head, sizeof(head) }, { (void *)(uintptr_t)body, bytes } };
	if (writev(fuse, iov, bytes ? 2 : 1) < 0 && errno != ENOENT)
		perror("fuse_file: reply");
}

static struct fuse_attr attributes(uint64_t ino)
{
	struct stat st;
	if (fstat(backing, &st))
		exit(1);
	if (ino != FILE_INO)
		return (struct fuse_attr){ .ino = ino, .mode = S_IFDIR | 0755, .nlink = 2 };
	return (struct fuse_attr){ .ino = ino,
				   .size = (uint64_t)st.st_size,
				   .blocks = (uint64_t)st.st_blocks,
				   .mode = S_IFREG | 0600,
				   .nlink = 1,
				   .blksize = 4096 };
}

static void reply_attributes(const struct fuse_in_header *head)
{
	struct fuse_attr_out out = { .attr = attributes(head->nodeid) };
	reply(head->unique, 0, &out, sizeof(out));
}

static void look_up(const struct fuse_in_header *head, const char *name)
{
	struct fuse_entry_out out = { .nodeid = FILE_INO, .attr = attributes(FILE_INO) };
	if (strcmp(name, "file"))
		reply(head->unique, -ENOENT, NULL, 0);
	else
		reply(head->unique, 0, &out, sizeof(out));
}

static void set_attributes(const struct fuse_in_header *head, const struct fuse_setattr_in *set)
{
	if (set->valid & FATTR_SIZE && ftruncate(backing, (off_t)set->size))
		reply(head->unique, -errno, NULL, 0);
	else
		reply_attributes(head);
}

static void read_data(const struct fuse_in_header *head, const struct fuse_read_in *request)
{
	uint32_t want = request->size < MAX_DATA ? request->size : MAX_DATA;
	ssize_t n = pread(backing, data, want, (off_t)request->offset);
	reply(head->unique, n < 0 ? -errno : 0, data, n < 0 ? 0 : (size_t)n);
}

static void write_data(const struct fuse_in_header *head, const struct fuse_write_in *request)
{
	if (!access(full, F_OK)) {
		reply(head->unique, -ENOSPC, NULL, 0);
		return;
	}
	ssize_t n = pwrite(backing, request + 1, request->size, (off_t)request->offset);
	struct fuse_write_out out = { .size = n < 0 ? 0 : (uint32_t)n };
	reply(head->unique, n < 0 ? -errno : 0, &out, n < 0 ? 0 : sizeof(out));
}

static void init(const struct fuse_in_header *head, const struct fuse_init_in *request)
{
	struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION,
				     .minor = FUSE_KERNEL_MINOR_VERSION,
				     .max_readahead = request->max_readahead,
				     .flags = FUSE_BIG_WRITES,
				     .max_background = 16,
				     .congestion_threshold = 12,
				     .max_write = MAX_DATA,
				     .time_gran = 1 };
	reply(head->unique, 0, &out, sizeof(out));
}

static void allocate(const struct fuse_in_header *head, const struct fuse_fallocate_in *request)
{
	int ret = fallocate(backing, (int)request->mode, (off_t)request->offset,
			    (off_t)request->length);
	reply(head->unique, ret ? -errno : 0, NULL, 0);
}

static void serve(const struct fuse_in_header *head)
{
	const void *body = head + 1;
	struct fuse_open_out opened = { 0 };
	struct fuse_statfs_out space = { .st = { .bsize = 4096, .namelen = 255, .frsize = 4096 } };
	switch (head->opcode) {
	case FUSE_INIT:
		init(head, body);
		break;
	case FUSE_LOOKUP:
		look_up(head, body);
		break;
	case FUSE_GETATTR:
		reply_attributes(head);
		break;
	case FUSE_SETATTR:
		set_attributes(head, body);
		break;
	case FUSE_OPEN:
	case FUSE_OPENDIR:
		reply(head->unique, 0, &opened, sizeof(opened));
		break;
	case FUSE_READ:
		read_data(head, body);
		break;
	case FUSE_WRITE:
		write_data(head, body);
		break;
	case FUSE_FALLOCATE:
		allocate(head, body);
		break;
	case FUSE_STATFS:
		reply(head->unique, 0, &space, sizeof(space));
		break;
	case FUSE_FSYNC:
		reply(head->unique, fdatasync(backing) ? -errno : 0, NULL, 0);
		break;
	case FUSE_FLUSH:
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_ACCESS:
		reply(head->unique, 0, NULL, 0);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;
	default:
		reply(head->unique, -ENOSYS, NULL, 0);
	}
}

int main(int argc, char **argv)
{
	char options[100];
	if (argc != 3)
		return 2;
	snprintf(full, sizeof(full), "%s.full", argv[1]);
	backing = open(argv[1], O_RDWR | O_CLOEXEC);
	fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", fuse);
	if (backing < 0 || fuse < 0 || mount("file", argv[2], "fuse", 0, options)) {
		perror("fuse_file");
		return 1;
	}
	for (;;) {
		ssize_t n = read(fuse, in, sizeof(in));
		if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
			continue;
		if (n < (ssize_t)sizeof(struct fuse_in_header))
			return n < 0 && errno != ENODEV;
		serve((const struct fuse_in_header *)in);
	}
}
