/* SPDX-License-Identifier: MIT */
#include "daemon/client/clash.h"

#include "daemon/control/control.h"
#include "daemon/control/record.h"
#include "daemon/control/target.h"
#include "daemon/options/cmd.h"

/* One writer has the live disk alone; snapshots do not change. */
static bool clashes(const struct cow_record *theirs, const struct cow_device_config *ours)
{
	bool we_write = ours->open.writable && !ours->temporary;
	return !theirs->snapshot && !ours->open.snapshot &&
	       (we_write || cow_record_writes_image(theirs));
}

/* Only to say it better than the image lock can: which device has the image. */
bool cow_clash_find(const char *image, const struct cow_device_config *ours)
{
	static uint32_t ids[COW_MAX_DEVICES];
	int nr = cow_target_image(image, ids, COW_MAX_DEVICES);
	bool found = false;
	for (int i = 0; i < nr && !found; i++) {
		struct cow_record record;
		if (cow_record_read(ids[i], &record))
			continue;
		found = clashes(&record, ours) && cow_control_answers(record.id);
		if (found)
			cow_cmd_fail("%s: is attached as /dev/ublkb%u (process %d): use that, or "
				     "`cowblk detach` it first",
				     image, record.id, record.pid);
		cow_record_fini(&record);
	}
	return found;
}
