/* SPDX-License-Identifier: MIT */
#include "daemon/server/serve_resize.h"

#include <inttypes.h>

#include "daemon/control/control.h"
#include "engine/base/log.h"
#include "engine/life/live_resize.h"

void cow_serve_resize(struct cow_image *image, struct cow_loop *loop, uint32_t block_bytes,
		      struct cow_job *job)
{
	struct cow_error err = { 0 };
	uint64_t size_bytes, pause_ns;
	struct json_object *sign, *shrink;
	struct cow_resize_options options = {
		.bytes = cow_control_number(job->request, "bytes"),
		.block_bytes = block_bytes,
	};
	if (json_object_object_get_ex(job->request, "sign", &sign))
		options.sign = json_object_get_int(sign);
	if (json_object_object_get_ex(job->request, "shrink", &shrink))
		options.shrink = json_object_get_boolean(shrink);
	int ret = cow_image_resize(image, loop, &options, &size_bytes, &pause_ns, &err);
	double ms = (double)pause_ns / 1e6;
	job->reply = ret ? cow_control_error(err.text) : cow_control_ok();
	json_object_object_add(job->reply, "size", json_object_new_uint64(size_bytes));
	json_object_object_add(job->reply, "pause_ms", json_object_new_double(ms));
	if (!ret)
		cow_log(COW_LOG_INFO, "resized to %" PRIu64 " bytes: requests waited for %.1f ms",
			size_bytes, ms);
}
