/* SPDX-License-Identifier: MIT */
#include "tests/interop/model.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SECTOR 512u
#define WORDS (SECTOR / 8)
#define NEVER UINT64_MAX
#define CIPHER_WORDS 2 /* an AES block */
#define MAX_PRINTED 8
#define ARENA_BYTES (8ull << 30) /* address space, not memory */

/* One write to one sector. */
struct entry {
	struct entry *next;
	uint64_t version, begin, end, durable; /* end, durable: NEVER until it happened */
	bool maybe;
};

struct sector {
	struct entry *list; /* NULL: `version` alone, settled */
	uint64_t version;
	bool touched;
};

struct model {
	pthread_mutex_t lock;
	uint64_t now;
	uint64_t nr_sectors;
	const uint8_t *initial;
	bool crash, encrypted;
	uint64_t flushed;		     /* begin of the newest completed flush */
	bool after_crash;		     /* reads are judged by `flushed` */
	uint64_t reading[MODEL_MAX_READERS]; /* begin of each running read, or 0 */
	unsigned nr_readers;		     /* highest slot used, plus 1 */
	uint64_t printed;
	uint8_t *arena, *arena_end;
	struct entry *free_entries;
	struct sector *sectors;
};

static void *map_shared(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED) {
		perror("model: mmap");
		exit(2);
	}
	return p;
}

struct model *model_new(uint64_t size_bytes, const uint8_t *initial, bool crash)
{
	struct model *m = map_shared(sizeof(*m));
	pthread_mutexattr_t attr;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	pthread_mutex_init(&m->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	m->now = 1;
	m->nr_sectors = size_bytes / SECTOR;
	m->initial = initial;
	m->crash = crash;
	m->sectors = map_shared(m->nr_sectors * sizeof(struct sector));
	m->arena = map_shared(ARENA_BYTES);
	m->arena_end = m->arena + ARENA_BYTES;
	return m;
}

void model_set_encrypted(struct model *m)
{
	m->encrypted = true;
}

static struct entry *entry_new(struct model *m)
{
	struct entry *e = m->free_entries;
	if (e) {
		m->free_entries = e->next;
		return e;
	}
	if (m->arena == m->arena_end) {
		fprintf(stderr, "model: out of memory: fewer or shorter operations\n");
		exit(2);
	}
	e = (struct entry *)m->arena;
	m->arena += 64;
	return e;
}

_Static_assert(sizeof(struct entry) <= 64, "arena slots");

static void entry_free(struct model *m, struct entry *e)
{
	e->next = m->free_entries;
	m->free_entries = e;
}

static struct entry *push(struct model *m, struct sector *s, uint64_t version, uint64_t begin)
{
	struct entry *e = entry_new(m);
	*e = (struct entry){
		.next = s->list, .version = version, .begin = begin, .end = NEVER, .durable = NEVER
	};
	s->list = e;
	return e;
}

/* ---- candidates ---- */

/*
 * Whoever began to look at `when` cannot see a write that had ended before this: the begin of the
 * newest write that was done for certain by then.
 */
static uint64_t replaced_before(const struct sector *s, uint64_t when, bool durably)
{
	uint64_t newest = 0;
	for (const struct entry *by = s->list; by; by = by->next)
		if (!by->maybe && (durably ? by->durable : by->end) < when && by->begin > newest)
			newest = by->begin;
	return newest;
}

static bool is_candidate(const struct entry *e, uint64_t replaced)
{
	return e->end >= replaced;
}

static uint64_t oldest_reader(const struct model *m)
{
	uint64_t oldest = m->now;
	for (unsigned i = 0; i < m->nr_readers; i++)
		if (m->reading[i] && m->reading[i] < oldest)
			oldest = m->reading[i];
	return oldest;
}

/*
 * durable times are set lazily: a write that ended before the newest completed flush began is
 * durable.
 */
static void note_flush(const struct model *m, struct sector *s)
{
	for (struct entry *e = s->list; e; e = e->next)
		if (e->durable == NEVER && e->end < m->flushed)
			e->durable = e->end;
}

static void settle(struct model *m, struct sector *s, uint64_t version)
{
	while (s->list) {
		struct entry *e = s->list;
		s->list = e->next;
		entry_free(m, e);
	}
	s->version = version;
}

static void prune(struct model *m, struct sector *s, uint64_t horizon)
{
	note_flush(m, s);
	uint64_t replaced = replaced_before(s, horizon, m->crash);
	struct entry **link = &s->list;
	while (*link) {
		struct entry *e = *link;
		if (is_candidate(e, replaced)) {
			link = &e->next;
			continue;
		}
		*link = e->next;
		entry_free(m, e);
	}
	struct entry *only = s->list;
	if (only && !only->next && (m->crash ? only->durable : only->end) < horizon)
		settle(m, s, only->version);
}

/* ---- writes ---- */

static void sector_write_begin(struct model *m, struct sector *s, uint64_t version, bool maybe)
{
	if (!s->list) {
		struct entry *base = push(m, s, s->version, 0);
		base->end = 0;
		base->durable = 0;
	}
	push(m, s, version, m->now)->maybe = maybe;
	s->touched = true;
}

uint64_t model_write_begin(struct model *m, uint64_t offset, uint64_t length, uint64_t version)
{
	pthread_mutex_lock(&m->lock);
	uint64_t begin = ++m->now;
	for (uint64_t i = offset / SECTOR; i < (offset + length) / SECTOR; i++)
		sector_write_begin(m, &m->sectors[i], version, false);
	pthread_mutex_unlock(&m->lock);
	return begin;
}

uint64_t model_discard_begin(struct model *m, uint64_t offset, uint64_t head, uint64_t tail,
			     uint64_t end)
{
	pthread_mutex_lock(&m->lock);
	uint64_t begin = ++m->now;
	for (uint64_t i = offset / SECTOR; i < end / SECTOR; i++)
		sector_write_begin(m, &m->sectors[i], MODEL_ZERO,
				   i < head / SECTOR || i >= tail / SECTOR);
	pthread_mutex_unlock(&m->lock);
	return begin;
}

static void sector_write_end(struct model *m, struct sector *s, uint64_t begin, bool fua,
			     uint64_t horizon)
{
	struct entry *e = s->list;
	while (e && e->begin != begin)
		e = e->next;
	if (!e) {
		fprintf(stderr, "model: lost a write: its own bug\n");
		abort();
	}
	e->end = m->now;
	if (fua)
		e->durable = m->now;
	prune(m, s, horizon);
}

void model_write_end(struct model *m, uint64_t offset, uint64_t length, uint64_t begin, bool fua)
{
	pthread_mutex_lock(&m->lock);
	m->now++;
	uint64_t horizon = oldest_reader(m);
	for (uint64_t i = offset / SECTOR; i < (offset + length) / SECTOR; i++)
		sector_write_end(m, &m->sectors[i], begin, fua, horizon);
	pthread_mutex_unlock(&m->lock);
}

/* ---- flushes and crashes ---- */

uint64_t model_flush_begin(struct model *m)
{
	pthread_mutex_lock(&m->lock);
	uint64_t begin = ++m->now;
	pthread_mutex_unlock(&m->lock);
	return begin;
}

void model_flush_end(struct model *m, uint64_t begin)
{
	pthread_mutex_lock(&m->lock);
	m->now++;
	if (begin > m->flushed)
		m->flushed = begin;
	pthread_mutex_unlock(&m->lock);
}

void model_crashed(struct model *m, bool crashed)
{
	m->after_crash = crashed;
	memset(m->reading, 0, sizeof(m->reading));
	m->nr_readers = 0;
	m->now++;
}

void model_lock_forever(struct model *m)
{
	pthread_mutex_lock(&m->lock);
}

void model_unlock_after_kill(struct model *m)
{
	pthread_mutexattr_t attr;
	pthread_mutexattr_init(&attr);
	pthread_mutex_init(&m->lock, &attr);
	pthread_mutexattr_destroy(&attr);
}

/* ---- reads ---- */

static uint64_t word_at(uint64_t version, uint64_t sector, unsigned i)
{
	return version << (64 - MODEL_VERSION_BITS) |
	       ((sector * WORDS + i) & ((1ull << (64 - MODEL_VERSION_BITS)) - 1));
}

void model_fill(uint64_t version, uint64_t offset, uint64_t length, void *buf)
{
	uint64_t *words = buf;
	for (uint64_t i = 0; i < length / 8; i++)
		words[i] = version == MODEL_ZERO
				   ? 0
				   : word_at(version, offset / SECTOR + i / WORDS, i % WORDS);
}

static uint64_t expected(const struct model *m, uint64_t version, uint64_t sector, unsigned i)
{
	uint64_t word = 0;
	if (version == MODEL_INIT)
		memcpy(&word, m->initial + sector * SECTOR + i * 8, 8);
	else if (version != MODEL_ZERO)
		word = word_at(version, sector, i);
	return word;
}

static bool matches(const struct model *m, uint64_t version, uint64_t sector, const uint64_t *words)
{
	if (version == MODEL_INIT)
		return !memcmp(m->initial + sector * SECTOR, words, SECTOR);
	for (unsigned i = 0; i < WORDS; i++)
		if (words[i] != expected(m, version, sector, i))
			return false;
	return true;
}

static bool word_matches(const struct model *m, const struct sector *s, uint64_t sector, unsigned i,
			 uint64_t word, uint64_t replaced)
{
	for (const struct entry *e = s->list; e; e = e->next)
		if (is_candidate(e, replaced) && word == expected(m, e->version, sector, i))
			return true;
	return false;
}

static bool racing(const struct sector *s, uint64_t when)
{
	for (const struct entry *e = s->list; e; e = e->next)
		if (e->end >= when)
			return true;
	return false;
}

/*
 * Several candidates side by side. Of an encrypted sector at most two cipher blocks in a row are
 * nobody's, between two that are somebody's (or at the sector's ends).
 */
static bool is_torn(const struct model *m, const struct sector *s, uint64_t sector,
		    const uint64_t *words, uint64_t replaced)
{
	unsigned nobodys = 0;
	for (unsigned i = 0; i < WORDS; i += CIPHER_WORDS) {
		bool known = word_matches(m, s, sector, i, words[i], replaced) &&
			     word_matches(m, s, sector, i + 1, words[i + 1], replaced);
		nobodys = known ? 0 : nobodys + 1;
		if (nobodys > (m->encrypted ? 2 : 0))
			return false;
	}
	return true;
}

static bool settled(const struct model *m, const struct sector *s, uint64_t horizon)
{
	for (const struct entry *e = s->list; e; e = e->next)
		if (e->end >= horizon)
			return false;
	return !m->crash;
}

static bool sector_read(struct model *m, uint64_t sector, const uint64_t *words, uint64_t when,
			uint64_t horizon)
{
	struct sector *s = &m->sectors[sector];
	if (!s->list)
		return matches(m, s->version, sector, words);
	note_flush(m, s);
	uint64_t replaced = replaced_before(s, when, m->after_crash);
	for (struct entry *e = s->list; e; e = e->next) {
		if (!is_candidate(e, replaced) || !matches(m, e->version, sector, words))
			continue;
		/* What was read is what stays, unless somebody still looks at an older state. */
		if (m->after_crash || settled(m, s, horizon))
			settle(m, s, e->version);
		return true;
	}
	if (!racing(s, when))
		return false;
	return is_torn(m, s, sector, words, replaced);
}

static void describe(const struct model *m, uint64_t sector, const uint64_t *words, uint64_t when)
{
	const struct sector *s = &m->sectors[sector];
	fprintf(stderr,
		"model: sector %" PRIu64 " (offset %" PRIu64 "): read %016" PRIx64 " %016" PRIx64
		" .. %016" PRIx64 " (version %" PRIu64 "?), may be",
		sector, sector * SECTOR, words[0], words[1], words[WORDS - 1],
		words[0] >> (64 - MODEL_VERSION_BITS));
	if (!s->list)
		fprintf(stderr, " %" PRIu64, s->version);
	uint64_t replaced = replaced_before(s, when, m->after_crash);
	for (const struct entry *e = s->list; e; e = e->next)
		if (is_candidate(e, replaced))
			fprintf(stderr, " %" PRIu64 "%s%s", e->version, e->maybe ? "?" : "",
				e->end >= when ? "*" : "");
	fprintf(stderr, "\n");
}

void model_read_begin(struct model *m, unsigned reader)
{
	pthread_mutex_lock(&m->lock);
	m->reading[reader] = ++m->now;
	if (reader >= m->nr_readers)
		m->nr_readers = reader + 1;
	pthread_mutex_unlock(&m->lock);
}

uint64_t model_read_end(struct model *m, unsigned reader, uint64_t offset, uint64_t length,
			const void *buf)
{
	pthread_mutex_lock(&m->lock);
	uint64_t when = m->reading[reader], bad = 0;
	m->reading[reader] = 0;
	m->now++;
	uint64_t horizon = oldest_reader(m);
	horizon = when < horizon ? when : horizon;
	if (m->after_crash)
		when = m->now; /* every recorded durable time is in the past */
	for (uint64_t done = 0; done < length; done += SECTOR) {
		const uint64_t *words = (const uint64_t *)((const uint8_t *)buf + done);
		uint64_t sector = (offset + done) / SECTOR;
		if (sector_read(m, sector, words, when, horizon))
			continue;
		bad++;
		if (m->printed++ < MAX_PRINTED)
			describe(m, sector, words, when);
	}
	pthread_mutex_unlock(&m->lock);
	return bad;
}

bool model_touched(struct model *m, uint64_t offset, uint64_t length)
{
	for (uint64_t i = offset / SECTOR; i < (offset + length) / SECTOR; i++)
		if (m->sectors[i].touched)
			return true;
	return false;
}
