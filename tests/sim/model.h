/* SPDX-License-Identifier: MIT */
/*
 * What every guest sector may contain, by the rules of DESIGN.md 4.4.
 *
 * Contents are named by numbers: 0 is zeros, others fill the sector with a pattern of (number,
 * sector), so that a sector that holds another's data or an older state of its own is told apart. A
 * sector has a list of versions, one for each request that wrote it, with the request's start and
 * end on the model's clock:
 *
 *   may be read       unless a successful write began after the version's end and itself ended before the read began
 *   may survive       unless a successful write began after the version's end and is covered: it ended before a successful
 *                     FLUSH began, or it was FUA and ended
 *
 * A discard, and a request that failed, may or may not have taken effect: it adds a version and
 * outdates none. What a read finds while nobody writes settles the sector: from then on it holds
 * that and nothing else.
 */
#ifndef SIM_MODEL_H
#define SIM_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_SECTOR 512u
#define SIM_NEVER UINT64_MAX

struct sim_version {
	uint64_t id;
	uint64_t start, end; /* end SIM_NEVER: in flight */
	uint64_t died;	     /* when it stopped being readable */
	uint64_t lost;	     /* when it stopped being able to survive */
	bool sure;	     /* it did take effect: outdates what ended before its start */
};

struct sim_cell {
	struct sim_version *versions;
	unsigned nr, max;
};

struct sim_model {
	struct sim_cell *cells;
	uint64_t nr_sectors;
	uint64_t clock;
	uint64_t next_tag;
};

void sim_model_init(struct sim_model *m, uint64_t nr_sectors);
void sim_model_fini(struct sim_model *m);
/* The sector holds exactly this, durably. */
void sim_model_set(struct sim_model *m, uint64_t sector, uint64_t id);
/* One of these, durably. */
void sim_model_set_any(struct sim_model *m, uint64_t sector, const uint64_t *ids, unsigned nr);

uint64_t sim_model_tick(struct sim_model *m);
/* A request that writes id; returns its start, which names it at the end. */
uint64_t sim_model_write_begin(struct sim_model *m, uint64_t id, uint64_t sector, uint64_t nr);
/* sure: success of a write or write-zeroes. durable: FUA. */
void sim_model_write_end(struct sim_model *m, uint64_t start, uint64_t sector, uint64_t nr,
			 bool sure, bool durable);
/* A FLUSH that began at start succeeded. */
void sim_model_flushed(struct sim_model *m, uint64_t start);
/* Whether a read that began at start may have found buf. Settles. Fills text if not. */
bool sim_model_read_ok(struct sim_model *m, uint64_t start, uint64_t sector, uint64_t nr,
		       const uint8_t *buf, char *text, size_t size);
/*
 * Power was lost or the process killed: what may survive is now what may be read; requests in
 * flight are over.
 */
void sim_model_crash(struct sim_model *m);
/* The process was killed, and what it acknowledged is there: only requests in flight are over. */
void sim_model_die(struct sim_model *m);

/* ---- contents ---- */

void sim_fill(uint8_t *buf, uint64_t id, uint64_t sector, uint64_t nr);

#endif
