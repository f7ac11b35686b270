/* SPDX-License-Identifier: MIT */
#include "daemon/options/closed.h"

#include "daemon/options/cmd.h"
#include "daemon/options/named.h"
#include "engine/host/system.h"
#include "engine/loop/loop_plain.h"

int cow_closed_run(const char *image, unsigned flags,
		   int (*run)(const void *ctx, struct cow_loop *loop, struct cow_file *file,
			      struct cow_error *err),
		   const void *ctx)
{
	struct cow_host *host = cow_host_system();
	struct cow_error err = { 0 };
	struct cow_loop *loop;
	struct cow_file *file;
	if (cow_loop_plain_new(&loop))
		return cow_cmd_fail("out of memory");
	int ret = host->ops->open(host, image, flags | COW_OPEN_BUFFERED, &file, &err);
	if (!ret) {
		ret = run(ctx, loop, file, &err);
		if (ret)
			cow_error_prefix(&err, "%s", image);
		host->ops->close(file);
	}
	cow_loop_free(loop);
	return ret ? cow_named_fail(image, ret, &err) : 0;
}
