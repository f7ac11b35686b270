/* SPDX-License-Identifier: MIT */
/*
 * Images with contents that the engine cannot make itself (compressed clusters, snapshots), made by
 * qemu-img.
 */
#ifndef SIM_PREPARE_H
#define SIM_PREPARE_H

#include "tests/memory/disk.h"
#include "tests/sim/model.h"
#include "tests/sim/script.h"

bool sim_have_qemu(void);
/* dir/raw holds the contents. The image's bytes go into file; dir is removed. */
void sim_prepare(const struct sim_config *config, const char *dir, struct memory_file *file);

/* The model's contents now, one id a sector. */
uint64_t *sim_snapshot_remember(const struct sim_model *model);
/* Reads the image's first snapshot straight from the file's bytes and compares. */
void sim_snapshot_verify(const struct memory_file *file, const uint64_t *ids, uint64_t nr_sectors);

#endif
