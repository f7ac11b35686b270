/* SPDX-License-Identifier: MIT */
#include "engine/meta/outlive.h"

int cow_outlive_begin(struct cow_outlive *o, int fd)
{
	int ret = cow_shared_begin(&o->shared, fd);
	if (!ret)
		ret = cow_shared_take(&o->shared, sizeof(*o->head), &o->part);
	if (ret)
		return ret;
	o->head = o->part.memory;
	o->head->version = COW_OUTLIVE_VERSION;
	return 0;
}

void cow_outlive_note_leaks(struct cow_outlive *o)
{
	atomic_store(&o->head->leaks, true);
}

void cow_outlive_complete(struct cow_outlive *o)
{
	atomic_store(&o->head->magic, COW_OUTLIVE_MAGIC);
}

void cow_outlive_end(struct cow_outlive *o)
{
	if (!o->head)
		return;
	atomic_store(&o->head->leaks, false);
	atomic_store(&o->head->magic, 0);
}

void cow_outlive_fini(struct cow_outlive *o)
{
	cow_shared_unmap(&o->part);
	o->head = NULL;
}
