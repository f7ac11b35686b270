/* SPDX-License-Identifier: MIT */
/*
 * Verbs on the closed image between two openings, as the command line has them, on the simulator's
 * thread: with power lost, a host operation failing, or the host full in the middle of one.
 *
 * Whatever happens: what the guest sees stays as it is, every image of the chain is sound, the header
 * is that of before or of after, and the verb can be run again to its end.
 */
#ifndef SIM_TOOL_H
#define SIM_TOOL_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/edit/amend.h"
#include "tests/sim/slots.h"

struct sim_action;
struct sim_run;

#define SIM_NAME_BYTES 1024u

enum sim_tool_what {
	SIM_TOOL_COMMIT,
	SIM_TOOL_REBASE,
	SIM_TOOL_FLATTEN,
	SIM_TOOL_AMEND,
	SIM_TOOL_RESIZE,
	SIM_TOOL_COMPACT,
	SIM_TOOL_KEYS,
	SIM_NR_TOOLS
};

struct sim_tool {
	bool pending; /* cut off, or failed: to be run again */
	unsigned what;
	/* the backing file's name before and after; "": none */
	char was[SIM_NAME_BYTES], base[SIM_NAME_BYTES];
	const char *format; /* of that after */
	const char *into;   /* COMMIT: the path of a file further below; NULL: the backing file */
	bool keep;	    /* COMMIT: the image is not emptied */
	struct cow_amend_options amend;
	enum cow_preallocation preallocation; /* RESIZE, of what is added */
	uint32_t was_order;		      /* AMEND: of the refcounts, before */
	struct sim_slots slots;		      /* KEYS */
	uint64_t size_bytes;		      /* RESIZE */
	uint64_t step_bytes;		      /* COMPACT */
	bool zeroes, compress;		      /* COMPACT */
	uint64_t length;		      /* COMPACT: of the file before */
	uint64_t
		was_bytes; /* the disk's size before: a kill, then a loss of power, bring it back */
	int refused;	   /* what it has to fail with; 0: nothing */
	uint64_t full_at;  /* world.events from which on the host is full; 0: it is not */
	uint64_t injected; /* errors put in, of any kind, before it */
	bool may_leak;	   /* the images below: one was cut off or failed while it wrote there */
	bool had_faults;   /* the last one met one of what the action asked for */
};

/* The image is closed. False: there is no such thing for it as it stands. */
bool sim_tool_choose(struct sim_run *run, const struct sim_action *a);
/*
 * What was chosen, with what the action says going wrong; NULL: nothing does. Ends with the power off,
 * or with nothing in its way any more.
 */
void sim_tool_run(struct sim_run *run, const struct sim_action *a);
/* The image is closed, power is on: is what is on disk that of before or of after? */
void sim_tool_check(struct sim_run *run);
/* A host operation is about to take effect. */
void sim_tool_event(struct sim_run *run);
uint64_t sim_tool_hash(const struct sim_run *run);

/* The path of "base" or "other", which ends with its name; static. */
const char *sim_tool_path(const struct sim_run *run, const char *which);
const char *sim_tool_name(const struct sim_run *run, const char *which);
/* The name of the image's backing file as it stands in the header; "": none. */
void sim_tool_backing(struct sim_run *run, char name[SIM_NAME_BYTES]);
/* Of the disk that it holds; 0: there is none. */
uint64_t sim_tool_backing_bytes(struct sim_run *run);

#endif
