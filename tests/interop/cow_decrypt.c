/* SPDX-License-Identifier: MIT */
/*
 * cow_decrypt IMAGE RAW KEYFILE...: unlocks an encrypted image with the passphrases in the files
 * and writes its disk, deciphered, to RAW. It walks the tables by itself, so that the cipher and
 * LUKS can be tested without the request path. No compression, no backing file, no extended L2.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/be.h"
#include "engine/base/buf.h"
#include "engine/crypt/secret.h"
#include "engine/crypt/unlock.h"
#include "engine/core/load.h"
#include "engine/host/system.h"
#include "engine/loop/blocking.h"
#include "engine/loop/loop_plain.h"

struct disk {
	struct cow_loop *loop;
	struct cow_file *file;
	struct cow_header h;
	struct cow_extensions ext;
	struct cow_crypt_key *key;
	struct cow_crypt *crypt;
	uint8_t *l2, *cluster;
	int out;
};

static int complain(const char *what, int ret)
{
	fprintf(stderr, "cow_decrypt: %s: %s\n", what, strerror(-ret));
	return ret;
}

static int copy_cluster(struct disk *d, uint64_t guest, uint64_t entry)
{
	uint64_t host = entry & QCOW2_OFFSET_MASK, bytes = cow_cluster_bytes(&d->h);
	if (entry & QCOW2_COMPRESSED)
		return complain("a compressed cluster", -ENOTSUP);
	if (!host || (entry & QCOW2_ZERO))
		return 0;
	int ret = cow_loop_read(d->loop, d->file, host, d->cluster, bytes);
	if (!ret && d->crypt)
		ret = cow_crypt_decrypt(d->crypt,
					cow_crypt_key_uses_guest_offset(d->key) ? guest : host,
					d->cluster, bytes);
	if (ret)
		return complain("cluster", ret);
	uint64_t n = d->h.size_bytes - guest < bytes ? d->h.size_bytes - guest : bytes;
	return pwrite(d->out, d->cluster, n, (off_t)guest) == (ssize_t)n ? 0
									 : complain("RAW", -errno);
}

static int copy_table(struct disk *d, uint64_t l1_idx, uint64_t l1_entry)
{
	uint64_t nr = cow_l2_entries(&d->h);
	if (!(l1_entry & QCOW2_OFFSET_MASK))
		return 0;
	int ret = cow_loop_read(d->loop, d->file, l1_entry & QCOW2_OFFSET_MASK, d->l2,
				cow_cluster_bytes(&d->h));
	for (uint64_t i = 0; i < nr && !ret; i++) {
		uint64_t guest = (l1_idx * nr + i) << d->h.cluster_bits;
		if (guest < d->h.size_bytes)
			ret = copy_cluster(d, guest, cow_load64_be(d->l2 + i * 8));
	}
	return ret;
}

static int copy_disk(struct disk *d)
{
	uint8_t *l1 = cow_buf_alloc(d->h.l1_entries * 8ull);
	int ret = cow_loop_read(d->loop, d->file, d->h.l1_off, l1, d->h.l1_entries * 8ull);
	d->l2 = cow_buf_alloc(cow_cluster_bytes(&d->h));
	d->cluster = cow_buf_alloc(cow_cluster_bytes(&d->h));
	if (!ret && ftruncate(d->out, (off_t)d->h.size_bytes))
		ret = complain("RAW", -errno);
	for (uint32_t i = 0; i < d->h.l1_entries && !ret; i++)
		ret = copy_table(d, i, cow_load64_be(l1 + i * 8));
	free(l1);
	free(d->l2);
	free(d->cluster);
	return ret;
}

static int unlock(struct disk *d, char **paths, int nr, struct cow_error *err)
{
	struct cow_secret *secrets[COW_MAX_SECRETS];
	for (int i = 0; i < nr; i++) {
		int fd = open(paths[i], O_RDONLY | O_CLOEXEC);
		secrets[i] = cow_secret_new();
		ssize_t n = fd < 0 ? -1 : read(fd, secrets[i]->data, sizeof(secrets[i]->data));
		if (n < 0)
			exit(-complain(paths[i], -errno));
		secrets[i]->bytes = (size_t)n;
		close(fd);
	}
	int ret =
		cow_unlock_key(&(struct cow_locked){ d->loop, d->file, &d->h, &d->ext },
			       (const struct cow_secret *const *)secrets, (size_t)nr, &d->key, err);
	for (int i = 0; i < nr; i++)
		cow_secret_free(secrets[i]);
	if (!ret && d->key)
		ret = cow_crypt_new(d->key, &d->crypt);
	return ret;
}

static int open_disk(struct disk *d, const char *path, struct cow_error *err)
{
	uint8_t *cluster = NULL;
	int ret = cow_host_system()->ops->open(cow_host_system(), path,
					       COW_OPEN_BUFFERED | COW_OPEN_NO_LOCK, &d->file, err);
	if (!ret)
		ret = cow_load_header(d->loop, d->file, &d->h, &cluster, err);
	if (!ret)
		ret = cow_extensions_decode(cluster, &d->h, &d->ext, err);
	free(cluster);
	return ret;
}

int main(int argc, char **argv)
{
	struct disk d = { 0 };
	struct cow_error err = { 0 };
	if (argc < 3 || argc > 3 + (int)COW_MAX_SECRETS || cow_loop_plain_new(&d.loop))
		return complain("usage: cow_decrypt IMAGE RAW KEYFILE...", -EINVAL), 2;
	int ret = open_disk(&d, argv[1], &err);
	if (!ret)
		ret = unlock(&d, argv + 3, argc - 3, &err);
	if (!ret) {
		d.out = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		ret = d.out < 0 ? complain(argv[2], -errno) : copy_disk(&d);
	}
	if (err.code)
		fprintf(stderr, "cow_decrypt: %s\n", err.text);
	cow_crypt_free(d.crypt);
	cow_crypt_key_free(d.key);
	if (d.file)
		d.file->host->ops->close(d.file);
	cow_loop_free(d.loop);
	return ret ? 1 : 0;
}
