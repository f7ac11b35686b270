/* SPDX-License-Identifier: MIT */
#include "engine/edit/empty.h"

#include <errno.h>
#include <string.h>

#include "engine/edit/edit.h"
#include "engine/edit/edit_share.h"

static int empty(struct cow_edit *e)
{
	uint32_t nr = e->header.l1_entries;
	int ret = cow_edit_share(e, e->l1, nr, -1);
	if (ret)
		return ret;
	for (uint32_t i = 0; i < nr; i++) {
		e->l1_changed |= e->l1[i] != 0;
		e->l1[i] = 0;
	}
	if (!e->l1_changed)
		return 0;
	ret = cow_edit_move_l1(e, nr);
	return ret ? ret : cow_edit_commit(e);
}

int cow_empty(struct cow_loop *loop, struct cow_file *file, struct cow_error *err)
{
	struct cow_error own = { 0 };
	struct cow_edit e;
	int ret = cow_edit_open_any(&e, loop, file, &own);
	if (!ret) {
		if (e.header.incompatible & QCOW2_INCOMPAT_DATA_FILE)
			ret = cow_error_set(&own, -ENOTSUP, "the image has an external data file");
		if (!ret)
			ret = empty(&e);
		cow_edit_close(&e);
	}
	return ret ? cow_error_set(err, ret, "%s", own.code ? own.text : strerror(-ret)) : 0;
}
