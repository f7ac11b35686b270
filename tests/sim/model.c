/* SPDX-License-Identifier: MIT */
#include "tests/sim/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"
#include "tests/sim/random.h"

#define WORDS (SIM_SECTOR / 8)

/* ---- contents ---- */

/*
 * Half of all compresses well, the rest to any part of its size, so that compressed clusters begin
 * and end anywhere in host clusters.
 */
static void pattern(uint64_t words[WORDS], uint64_t id, uint64_t sector)
{
	uint64_t base = sim_mix(id * 0x9e3779b97f4a7c15ull + sector + 1);
	unsigned noise = id % 2 ? (unsigned)(id / 2 * 7 % WORDS) : 0;
	words[0] = id;
	words[1] = sector;
	for (unsigned i = 2; i < WORDS; i++)
		words[i] = i < noise ? (base + i) * 0xd1342543de82ef95ull : base;
}

void sim_fill(uint8_t *buf, uint64_t id, uint64_t sector, uint64_t nr)
{
	if (!id) {
		memset(buf, 0, nr * SIM_SECTOR);
		return;
	}
	for (uint64_t i = 0; i < nr; i++) {
		uint64_t words[WORDS];
		pattern(words, id, sector + i);
		memcpy(buf + i * SIM_SECTOR, words, SIM_SECTOR);
	}
}

enum content { CONTENT_OK, CONTENT_FOREIGN, CONTENT_GARBAGE };

static enum content identify(const uint8_t *buf, uint64_t sector, uint64_t *id, uint64_t *of_sector)
{
	uint64_t words[WORDS], expect[WORDS];
	static const uint8_t zeros[SIM_SECTOR];
	*id = 0;
	*of_sector = sector;
	if (!memcmp(buf, zeros, SIM_SECTOR))
		return CONTENT_OK;
	memcpy(words, buf, SIM_SECTOR);
	*id = words[0];
	*of_sector = words[1];
	pattern(expect, *id, *of_sector);
	if (!*id || memcmp(words, expect, SIM_SECTOR))
		return CONTENT_GARBAGE;
	return *of_sector == sector ? CONTENT_OK : CONTENT_FOREIGN;
}

/* ---- versions ---- */

static struct sim_version *add_version(struct sim_cell *cell, uint64_t id, uint64_t start)
{
	if (cell->nr == cell->max) {
		cell->max = cell->max ? cell->max * 2 : 2;
		cell->versions = realloc(cell->versions, cell->max * sizeof(*cell->versions));
		cow_assert(cell->versions);
	}
	struct sim_version *v = &cell->versions[cell->nr++];
	*v = (struct sim_version){
		.id = id, .start = start, .end = SIM_NEVER, .died = SIM_NEVER, .lost = SIM_NEVER
	};
	return v;
}

void sim_model_set(struct sim_model *m, uint64_t sector, uint64_t id)
{
	struct sim_cell *cell = &m->cells[sector];
	cell->nr = 0;
	struct sim_version *v = add_version(cell, id, 0);
	v->end = 0;
	v->sure = true;
}

void sim_model_set_any(struct sim_model *m, uint64_t sector, const uint64_t *ids, unsigned nr)
{
	struct sim_cell *cell = &m->cells[sector];
	cell->nr = 0;
	for (unsigned i = 0; i < nr; i++) {
		struct sim_version *v = add_version(cell, ids[i], 0);
		v->end = 0;
		v->sure = nr == 1;
	}
}

void sim_model_init(struct sim_model *m, uint64_t nr_sectors)
{
	memset(m, 0, sizeof(*m));
	m->cells = calloc(nr_sectors, sizeof(*m->cells));
	cow_assert(m->cells);
	m->nr_sectors = nr_sectors;
	for (uint64_t s = 0; s < nr_sectors; s++)
		sim_model_set(m, s, 0);
}

void sim_model_fini(struct sim_model *m)
{
	for (uint64_t s = 0; s < m->nr_sectors; s++)
		free(m->cells[s].versions);
	free(m->cells);
}

uint64_t sim_model_tick(struct sim_model *m)
{
	return ++m->clock;
}

uint64_t sim_model_write_begin(struct sim_model *m, uint64_t id, uint64_t sector, uint64_t nr)
{
	uint64_t start = sim_model_tick(m);
	for (uint64_t s = sector; s < sector + nr; s++)
		add_version(&m->cells[s], id, start);
	return start;
}

static void stop(uint64_t *when, uint64_t now)
{
	if (*when == SIM_NEVER)
		*when = now;
}

/* Versions that v, which is sure, has outdated for readers. */
static void outdate(struct sim_cell *cell, const struct sim_version *v, uint64_t now)
{
	for (unsigned i = 0; i < cell->nr; i++)
		if (cell->versions[i].end < v->start)
			stop(&cell->versions[i].died, now);
}

/* Versions that v, which is sure and durable, has outdated for good. */
static void lose(struct sim_cell *cell, const struct sim_version *v, uint64_t now)
{
	for (unsigned i = 0; i < cell->nr; i++)
		if (cell->versions[i].end < v->start)
			stop(&cell->versions[i].lost, now);
}

static void end_in_cell(struct sim_cell *cell, uint64_t start, uint64_t now, bool sure,
			bool durable)
{
	for (unsigned i = 0; i < cell->nr; i++) {
		struct sim_version *v = &cell->versions[i];
		if (v->start != start || v->end != SIM_NEVER)
			continue;
		v->end = now;
		v->sure = sure;
		if (sure)
			outdate(cell, v, now);
		if (sure && durable)
			lose(cell, v, now);
		return;
	}
}

void sim_model_write_end(struct sim_model *m, uint64_t start, uint64_t sector, uint64_t nr,
			 bool sure, bool durable)
{
	uint64_t now = sim_model_tick(m);
	for (uint64_t s = sector; s < sector + nr; s++)
		end_in_cell(&m->cells[s], start, now, sure, durable);
}

/* Forget versions that neither a reader that might still run nor a crash can bring up. */
static void forget(struct sim_cell *cell, uint64_t before)
{
	unsigned keep = 0;
	for (unsigned i = 0; i < cell->nr; i++) {
		const struct sim_version *v = &cell->versions[i];
		bool gone = v->lost < before && v->died < before;
		if (!gone)
			cell->versions[keep++] = *v;
	}
	cell->nr = keep;
}

void sim_model_flushed(struct sim_model *m, uint64_t start)
{
	uint64_t now = sim_model_tick(m);
	for (uint64_t s = 0; s < m->nr_sectors; s++) {
		struct sim_cell *cell = &m->cells[s];
		if (cell->nr == 1)
			continue;
		for (unsigned i = 0; i < cell->nr; i++)
			if (cell->versions[i].sure && cell->versions[i].end < start)
				lose(cell, &cell->versions[i], now);
		if (now > 4096) /* no request lives that long */
			forget(cell, now - 4096);
	}
}

/* ---- reading ---- */

static bool quiet_since(const struct sim_cell *cell, uint64_t start)
{
	for (unsigned i = 0; i < cell->nr; i++)
		if (cell->versions[i].end >= start)
			return false;
	return true;
}

/* A reader has seen id while nobody wrote: all other versions are over. */
static void settle(struct sim_cell *cell, uint64_t id, uint64_t now)
{
	struct sim_version *found = NULL;
	for (unsigned i = 0; i < cell->nr; i++) {
		struct sim_version *v = &cell->versions[i];
		if (v->id != id)
			stop(&v->died, now);
		else if (v->died == SIM_NEVER)
			found = v;
	}
	if (!found || (found->sure && cell->nr == 1))
		return;
	found->sure = true;
	found->start = found->end = now;
}

static void describe(const struct sim_cell *cell, uint64_t sector, enum content content,
		     uint64_t id, uint64_t of_sector, char *text, size_t size)
{
	static const char *const what[] = { "an outdated or impossible version",
					    "another sector's data", "garbage" };
	int n = snprintf(text, size, "sector %llu holds %s: version %llu of sector %llu; versions:",
			 (unsigned long long)sector, what[content], (unsigned long long)id,
			 (unsigned long long)of_sector);
	for (unsigned i = 0; i < cell->nr && n > 0 && (size_t)n < size; i++) {
		const struct sim_version *v = &cell->versions[i];
		n += snprintf(text + n, size - (size_t)n, " %llu[%llu..%lld died %lld lost %lld%s]",
			      (unsigned long long)v->id, (unsigned long long)v->start,
			      (long long)v->end, (long long)v->died, (long long)v->lost,
			      v->sure ? "" : " unsure");
	}
}

static bool sector_ok(struct sim_model *m, uint64_t start, uint64_t now, uint64_t sector,
		      const uint8_t *buf, char *text, size_t size)
{
	struct sim_cell *cell = &m->cells[sector];
	uint64_t id, of_sector;
	enum content content = identify(buf, sector, &id, &of_sector);
	for (unsigned i = 0; content == CONTENT_OK && i < cell->nr; i++) {
		if (cell->versions[i].id == id && cell->versions[i].died > start) {
			if (quiet_since(cell, start))
				settle(cell, id, now);
			return true;
		}
	}
	describe(cell, sector, content, id, of_sector, text, size);
	return false;
}

bool sim_model_read_ok(struct sim_model *m, uint64_t start, uint64_t sector, uint64_t nr,
		       const uint8_t *buf, char *text, size_t size)
{
	uint64_t now = sim_model_tick(m);
	for (uint64_t i = 0; i < nr; i++)
		if (!sector_ok(m, start, now, sector + i, buf + i * SIM_SECTOR, text, size))
			return false;
	return true;
}

/* Whatever may have survived; which of it did is settled by the first reader. */
static void crash_cell(struct sim_cell *cell, uint64_t now)
{
	unsigned keep = 0;
	for (unsigned i = 0; i < cell->nr; i++) {
		struct sim_version v = cell->versions[i];
		if (v.lost != SIM_NEVER)
			continue;
		v.start = v.end = now;
		v.died = SIM_NEVER;
		v.sure = false;
		cell->versions[keep++] = v;
	}
	cell->nr = keep;
}

void sim_model_die(struct sim_model *m)
{
	uint64_t now = sim_model_tick(m);
	for (uint64_t s = 0; s < m->nr_sectors; s++)
		for (unsigned i = 0; i < m->cells[s].nr; i++)
			if (m->cells[s].versions[i].end == SIM_NEVER)
				m->cells[s].versions[i].end = now;
}

void sim_model_crash(struct sim_model *m)
{
	uint64_t now = sim_model_tick(m);
	for (uint64_t s = 0; s < m->nr_sectors; s++)
		crash_cell(&m->cells[s], now);
}
