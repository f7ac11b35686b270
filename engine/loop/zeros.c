/* SPDX-License-Identifier: MIT */
#include "engine/loop/zeros.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "engine/base/buf.h"
#include "engine/base/math.h"
#include "engine/host/system.h"
#include "engine/loop/blocking.h"

#define CHUNK_BYTES (1u << 20)

int cow_zeros_write(struct cow_loop *loop, struct cow_file *file, uint64_t off, uint64_t bytes)
{
	uint8_t *zeros = cow_buf_alloc(CHUNK_BYTES);
	int ret = zeros ? 0 : -ENOMEM;
	for (uint64_t done = 0; done < bytes && !ret;) {
		uint64_t n = cow_min(bytes - done, (uint64_t)CHUNK_BYTES);
		ret = cow_loop_write(loop, file, off + done, zeros, n);
		done += n;
	}
	free(zeros);
	return ret;
}

int cow_zeros_reserve(struct cow_loop *loop, struct cow_file *file, uint64_t off, uint64_t bytes)
{
	if (file->host == cow_host_system() && bytes) {
		if (!fallocate(cow_host_fd(file), 0, (off_t)off, (off_t)bytes)) {
			cow_file_grown(file, off + bytes);
			return 0;
		}
		if (errno != EOPNOTSUPP && errno != ENOSYS)
			return -errno;
	}
	return cow_zeros_write(loop, file, off, bytes);
}
