/* SPDX-License-Identifier: MIT */
/*
 * A dirty bitmap in the image: whenever it is found not to be in use, it covers every sector that
 * differs from when it was last clear, what was written while it was disabled excepted. It is
 * cleared now and then on the running image, and made anew after it was lost to a crash; a script
 * may add, clear, disable, enable and remove it.
 */
#ifndef SIM_BITMAP_H
#define SIM_BITMAP_H

#include <stdbool.h>
#include <stdint.h>

struct sim_action;
struct sim_run;

enum sim_bitmap_found { SIM_BITMAP_GONE, SIM_BITMAP_INCONSISTENT, SIM_BITMAP_BELIEVED };

enum sim_bitmap_what {
	SIM_BITMAP_ADD,	   /* clear it if it is there */
	SIM_BITMAP_TOGGLE, /* disable it, or enable it */
	SIM_BITMAP_REMOVE,
	SIM_NR_BITMAP_WHATS
};

struct sim_bitmap_state {
	bool present, enabled;
	uint64_t *base; /* what each sector held when it was last clear, or enabled */
	bool *must;	/* sectors that had changed before it was disabled */
};

struct sim_bitmap {
	/* before the last command; and if that took effect: as long as nobody knows they differ */
	struct sim_bitmap_state is[2];
	bool *dirty; /* each sector's, as last found in the file; NULL: there was never a bitmap */
	enum sim_bitmap_found found;
	bool found_enabled;
	bool tracked; /* the session that is open keeps it */
};

/* The new image gets one. */
void sim_bitmap_create(struct sim_run *run);
/* The image is closed, perhaps by a crash. clean: without accidents. */
void sim_bitmap_look(struct sim_run *run, bool clean);
/* It is open again, and what it holds is settled. */
/* Opened with what a killed process left: that may have been its bitmap, too. */
void sim_bitmap_outlived(struct sim_run *run);
void sim_bitmap_judge(struct sim_run *run);
/* A script's command (length: enum sim_bitmap_what) on the running image. */
void sim_bitmap_command(struct sim_run *run, const struct sim_action *a);
/* Of what it may be from here on. */
uint64_t sim_bitmap_hash(const struct sim_run *run);
void sim_bitmap_fini(struct sim_run *run);

#endif
