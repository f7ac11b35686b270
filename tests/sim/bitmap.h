/* SPDX-License-Identifier: MIT */
/*
 * A dirty bitmap in the image: whenever it is found not to be in use, it covers every sector that
 * differs from when it was last clear. It is cleared now and then on the running image, and made
 * anew after it was lost to a crash.
 */
#ifndef SIM_BITMAP_H
#define SIM_BITMAP_H

#include <stdbool.h>
#include <stdint.h>

struct sim_run;

enum sim_bitmap_found { SIM_BITMAP_GONE, SIM_BITMAP_INCONSISTENT, SIM_BITMAP_BELIEVED };

struct sim_bitmap {
	/*
	 * what each sector held when it was last clear; the second: if the last command took effect
	 */
	uint64_t *base[2];
	bool *dirty; /* each sector's, as last found in the file */
	enum sim_bitmap_found found;
	bool tracked; /* the session that is open keeps it */
	bool may_be_gone;
};

/* The new image gets one. */
void sim_bitmap_create(struct sim_run *run);
/* The image is closed, perhaps by a crash. clean: without accidents. */
void sim_bitmap_look(struct sim_run *run, bool clean);
/* It is open again, and what it holds is settled. */
void sim_bitmap_judge(struct sim_run *run);
void sim_bitmap_fini(struct sim_run *run);

#endif
