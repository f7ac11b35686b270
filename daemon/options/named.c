/* SPDX-License-Identifier: MIT */
#include "daemon/options/named.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/options/cmd.h"
#include "daemon/control/record.h"
#include "daemon/control/target.h"

static bool is_file(const char *name)
{
	struct stat st;
	return !stat(name, &st) && !S_ISBLK(st.st_mode);
}

char *cow_named_path(const char *name)
{
	struct cow_record record;
	uint32_t id;
	char *path;
	if (is_file(name) || !cow_target_device(name, &id)) {
		path = strdup(name);
	} else if (cow_record_read(id, &record)) {
		cow_cmd_fail("/dev/ublkb%u: not attached by cowblk: see `cowblk list`", id);
		return NULL;
	} else if (cow_target_has_moved(&record)) {
		cow_cmd_fail("%s: its image is no longer at %s: name it by its path", name,
			     record.image);
		cow_record_fini(&record);
		return NULL;
	} else {
		path = strdup(record.image);
		cow_record_fini(&record);
	}
	if (!path)
		cow_cmd_fail("out of memory");
	return path;
}

int cow_named_fail_alike(const char *image, const char *text)
{
	uint32_t id;
	if (!cow_target_alike(image, &id))
		return cow_cmd_fail("%s", text);
	return cow_cmd_fail("%s (perhaps attached as /dev/ublkb%u, whose image has that name and "
			    "inode number on another mount: then name the device)",
			    text, id);
}

int cow_named_fail(const char *image, int ret, const struct cow_error *err)
{
	uint32_t id;
	if (ret == -EBUSY && cow_target_image(image, &id, 1) > 0)
		return cow_cmd_fail("%s: attached as /dev/ublkb%u: detach it first", image, id);
	const char *text = err->text[0] ? err->text : strerror(-ret);
	return ret == -EBUSY ? cow_named_fail_alike(image, text) : cow_cmd_fail("%s", text);
}
