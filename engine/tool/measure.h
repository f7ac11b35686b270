/* SPDX-License-Identifier: MIT */
/* How large an image would become, as QEMU works it out: a little too much rather than too little. */
#ifndef COW_MEASURE_H
#define COW_MEASURE_H

#include "engine/base/result.h"
#include "engine/create/create.h"
#include "engine/tool/disk.h"
#include "engine/tool/walk.h"

struct cow_measure {
	/* what is asked for */
	enum cow_disk_format format;
	const struct cow_create_options *create; /* qcow2; its size_bytes counts without a disk */
	struct cow_disk *disk; /* whose content the image shall have; may be NULL */
	const atomic_bool *cancel;
	struct cow_progress progress;
	/* results, bytes */
	uint64_t required;	  /* of the host file */
	uint64_t fully_allocated; /* when the whole disk is written */
};

/* 0, or -errno with a text: options that contradict each other, a size that the format cannot have. */
COW_MUST_CHECK int cow_measure(struct cow_measure *m, struct cow_error *err);

#endif
