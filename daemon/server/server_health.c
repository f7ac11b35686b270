/* SPDX-License-Identifier: MIT */
#include "daemon/server/server_health.h"

#include <string.h>

#include "daemon/control/show.h"

static struct json_object *counts(const struct cow_image_health *health)
{
	struct json_object *o = json_object_new_object();
	for (unsigned i = 0; i < COW_HEALTH_NR; i++)
		cow_show_u64(o, cow_health_kind_name(i), health->nr_errors[i]);
	return o;
}

static struct json_object *last_error(const struct cow_image_health *health)
{
	const struct cow_health_error *last = &health->last;
	if (!last->error)
		return NULL;
	struct json_object *o = json_object_new_object();
	cow_show_string(o, "kind", cow_health_kind_name(last->kind));
	cow_show_string(o, "file", health->last_file ? health->last_file : "?");
	cow_show_u64(o, "offset", last->offset);
	cow_show_u64(o, "errno", (uint64_t)last->error);
	cow_show_string(o, "error", strerror(last->error));
	cow_show_u64(o, "time", last->time_nsec / 1000000000u);
	return o;
}

void cow_health_show(struct json_object *reply, const struct cow_image *image)
{
	struct cow_image_health health = { 0 };
	if (image)
		cow_image_health(image, &health);
	json_object_object_add(reply, "errors", image ? counts(&health) : NULL);
	json_object_object_add(reply, "last-error", last_error(&health));
	json_object_object_add(reply, "discard-gives-space-back",
			       image ? json_object_new_boolean(health.gives_space_back) : NULL);
	/* Not for --no-discard and the like, where nobody expects it. */
	if (health.cannot_punch)
		cow_show_string(reply, "discard-note",
				"discards give no space back: the host cannot punch holes");
}
