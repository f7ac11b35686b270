/* SPDX-License-Identifier: MIT */
/* A script made from a seed: the image's shape, the run's habits, what happens to it. */
#include <string.h>

#include "engine/base/assert.h"
#include "engine/loop/loop.h"
#include "tests/sim/bitmap.h"
#include "tests/sim/random.h"
#include "tests/sim/script.h"
#include "tests/sim/snapshot.h"
#include "tests/sim/tool.h"

#define SECTOR 512u

/* ---- the image ---- */

static uint64_t pick_size(struct sim_random *r, uint64_t cluster_bits)
{
	uint64_t clusters = cluster_bits <= 12 ? 64 + sim_below(r, 512) : 8 + sim_below(r, 100);
	if (cluster_bits == 9)
		clusters *= 2;
	if (cluster_bits >= 16)
		clusters = 2 + sim_below(r, cluster_bits > 16 ? 12 : 40);
	uint64_t size = clusters << cluster_bits;
	if (sim_chance(r, 30))
		size -= SECTOR * sim_below(r, 1 + (1u << cluster_bits) / SECTOR / 2);
	return size;
}

/* An image that outgrows its first refcount table. */
static void growing_config(struct sim_config *c, struct sim_random *r)
{
	c->cluster_bits = 9;
	c->refcount_bits = 64;
	c->version = 3;
	c->size_bytes = SECTOR * (9000 + sim_below(r, 6000));
}

/* Images of qemu-img. Sharing and compressed clusters need refcounts above 1. */
static void prepare_config(struct sim_config *c, struct sim_random *r)
{
	c->ext_l2 = c->cluster_bits >= 14 && c->version == 3 && sim_chance(r, 25);
	if (!c->ext_l2 && !sim_chance(r, 12))
		return;
	c->prepared = 1 + sim_below(r, c->ext_l2 ? 4 : 3);
	c->zstd = c->version == 3 && sim_chance(r, 30);
	if (c->prepared == SIM_PREPARED_EMPTY)
		return;
	c->backing = SIM_BACKING_NONE;
	c->refcount_bits = c->version == 2 || sim_chance(r, 70) ? 16 : 32u << sim_below(r, 2);
}

static void make_config(struct sim_config *c, struct sim_random *r, const struct sim_plan *plan)
{
	static const uint8_t bits[] = { 9, 9, 9, 10, 11, 12, 12, 12, 13, 14, 14, 15, 16 };
	static const uint32_t caches[] = { 0, 1, 4096, 16384, 65536, 262144 };
	c->seed = sim_random_next(r);
	c->cluster_bits = bits[sim_below(r, sizeof(bits))];
	if (sim_chance(r, 5)) /* large ones take long */
		c->cluster_bits = 16 + sim_below(r, 6);
	c->size_bytes = pick_size(r, c->cluster_bits);
	c->version = sim_chance(r, 15) ? 2 : 3;
	c->refcount_bits = c->version == 2 || sim_chance(r, 40) ? 16 : 1u << sim_below(r, 7);
	if (sim_chance(r, 6))
		growing_config(c, r);
	c->lazy = c->version == 3 && sim_chance(r, 10);
	c->backing = sim_chance(r, 50) ? SIM_BACKING_NONE : 1 + sim_below(r, 2);
	c->backing_bytes = c->size_bytes;
	if (sim_chance(r, 50))
		c->backing_bytes = SECTOR * (1 + sim_below(r, c->size_bytes / SECTOR * 3 / 2));
	prepare_config(c, r);
	c->compress = sim_chance(r, 20);
	c->queues = 1 + sim_below(r, 4);
	c->depth = 1 + sim_below(r, 12);
	c->cache_bytes = caches[sim_below(r, sizeof(caches) / sizeof(caches[0]))];
	c->reserve_bytes = sim_chance(r, 25) ? 0 : 1 + sim_below(r, 64ull << c->cluster_bits);
	c->buffered = sim_chance(r, 30);
	c->no_discard = sim_chance(r, 15);
	c->detect_zeroes = sim_chance(r, 70) ? 0 : 1 + sim_below(r, 2);
	c->noise = sim_chance(r, 50);
	c->permille = plan->faults && sim_chance(r, 10) ? 1 + sim_below(r, 30) : 0;
	c->outlive = sim_mix(c->seed) % 4 == 0;
	c->guest = sim_mix(c->seed + 1) % 3 == 0;
}

/* The base below: a chain of three, made of what the top image may be made of. */
static void mix_base(struct sim_config *c, struct sim_random *r)
{
	static const uint8_t bits[] = { 9, 12, 12, 14, 16, 16 };
	if (c->backing != SIM_BACKING_QCOW2)
		return;
	c->base_bits = bits[sim_below(r, sizeof(bits))];
	c->base_pack = sim_below(r, 3);
	c->base_ext_l2 = c->base_bits >= 14 && sim_chance(r, 40);
	c->base_encrypt = !c->base_pack && sim_chance(r, 30) ? 1 + sim_below(r, 2) : SIM_ENCRYPT_NO;
	c->base_snapshot = sim_chance(r, 40);
	if (sim_chance(r, 50))
		c->deep_bytes = SECTOR * (1 + sim_below(r, c->backing_bytes / SECTOR * 3 / 2));
}

static void mix_encryption(struct sim_config *c, struct sim_random *r)
{
	if (!sim_chance(r, 40))
		return;
	c->encrypt = 1 + sim_below(r, 3);
	if (c->version == 2 && c->encrypt != SIM_ENCRYPT_LEGACY)
		c->encrypt = SIM_ENCRYPT_LEGACY;
}

static void mix_data_file(struct sim_config *c, struct sim_random *r)
{
	if (c->version == 2 || !sim_chance(r, 25))
		return;
	bool may_be_raw = c->backing == SIM_BACKING_NONE && !c->encrypt;
	c->data_file = may_be_raw && sim_chance(r, 50) ? SIM_DATA_RAW : SIM_DATA_OUTSIDE;
}

/*
 * What was added later comes from numbers of its own, so that the seeds without it mean what they
 * always meant.
 */
static void mix_config(struct sim_config *c, struct sim_random *r)
{
	if (sim_chance(r, 40))
		return;
	mix_base(c, r);
	if (!c->prepared) {
		mix_encryption(c, r);
		mix_data_file(c, r);
		c->ext_l2 = c->version == 3 && c->cluster_bits >= 14 && sim_chance(r, 40);
		c->zstd = c->version == 3 && sim_chance(r, 30);
		c->block_device = c->data_file != SIM_DATA_RAW && c->size_bytes <= 8u << 20 &&
				  sim_chance(r, 15);
	}
	if (c->encrypt || c->data_file)
		c->compress = 0;
	if (!c->data_file && sim_chance(r, 70))
		c->live = 20 + sim_below(r, 100);
}

/* 0, the default, or something tiny. */
static uint32_t tiny(struct sim_random *r, uint32_t min, uint32_t max)
{
	static const uint8_t chances[] = { 0, 30, 80 };
	if (!sim_chance(r, chances[sim_below(r, 3)]))
		return 0;
	return min +
	       (uint32_t)sim_below(r, sim_chance(r, 50) ? (max - min) / 4 + 1 : max - min + 1);
}

/* What the engine has little of in every run, so that waiting for it happens. */
static void draw_limits(struct sim_config *c, struct sim_random *r)
{
	struct cow_limits *l = &c->limits;
	if (sim_chance(r, 30))
		return;
	uint32_t room = tiny(r, 16, 400);
	if (room) {
		l->ring_own = 128;
		l->ring = l->ring_own + room;
	}
	l->release_batch = tiny(r, 1, 64);
	l->release_punches = tiny(r, 1, COW_RELEASE_PUNCHES);
	l->cache_slots = tiny(r, 8, 40);
	l->dirty_slots = tiny(r, 1, 20);
	l->dirty_blocks = tiny(r, 1, 4);
	l->pass_writes = tiny(r, 1, COW_WRITEBACK_IOS);
	l->extents = tiny(r, 2, COW_RESERVE_EXTENTS);
	l->pieces = tiny(r, 1, COW_OP_PIECES);
	l->bounces = 1 + (uint32_t)sim_below(r, sim_chance(r, 50) ? 2 : COW_QUEUE_BOUNCES);
	l->packed = tiny(r, 1, COW_QUEUE_PACKED);
	l->pack_clusters = tiny(r, 1, 16);
	l->inflated = tiny(r, 1, 8);
}

/* Takes no random number, as add_bitmap(). */
static void add_more_limits(struct sim_config *c)
{
	if (c->seed / 5 % 2)
		c->limits.cache_least = 8;
	if (c->seed / 3 % 2) {
		c->limits.live_few = 1;
		c->limits.live_brake = c->seed / 6 % 4;
	}
}

/*
 * Takes no random number: the other seeds mean what they always meant. On a small device there may
 * be no room to store one.
 */
static void add_bitmap(struct sim_config *c)
{
	if (c->version == 3 && !c->block_device && c->seed / 7 % 3 == 0)
		c->bitmap = 9 + c->seed / 21 % 9;
}

static bool is_growing(const struct sim_config *c)
{
	return c->cluster_bits == 9 && c->refcount_bits == 64 && c->size_bytes > 9000u * SECTOR;
}

static uint64_t pick_length(struct sim_random *r, const struct sim_config *c)
{
	uint64_t cluster = 1ull << c->cluster_bits;
	unsigned dice = (unsigned)sim_below(r, 100);
	if (dice < (c->compress ? 20u : 50u))
		return SECTOR * (1 + sim_below(r, 8));
	if (dice < 75)
		return cluster * (1 + sim_below(r, 3));
	if (dice < (is_growing(c) ? 76 : 95))
		return SECTOR * (1 + sim_below(r, 64));
	return SECTOR * (1 + sim_below(r, 1024));
}

static void pick_range(struct sim_random *r, const struct sim_config *c, struct sim_action *a)
{
	uint64_t cluster = 1ull << c->cluster_bits, sectors = c->size_bytes / SECTOR;
	uint64_t hot = sectors / 16 ? sectors / 16 : 1;
	a->offset = SECTOR * sim_below(r, sim_chance(r, 50) ? hot : sectors);
	if (sim_chance(r, c->compress ? 75 : 40))
		a->offset &= ~(cluster - 1);
	a->length = pick_length(r, c);
	if (a->length > (1u << 20) && a->kind <= SIM_GUEST_WRITE)
		a->length = 1u << 20;
	if (a->kind >= SIM_DISCARD && sim_chance(r, 5))
		a->length = c->size_bytes;
	if (a->length > c->size_bytes - a->offset)
		a->length = c->size_bytes - a->offset;
}

/*
 * A run's habits: which requests it likes, how often it crashes. Drawn per run, since some bugs
 * need much of one thing and none of another.
 */
struct habits {
	unsigned weight[SIM_ZEROES + 1], sum;
	uint64_t crash_every, fault_every, full_every, full_for;
	unsigned late_percent, sequence_percent;
	uint64_t last_end;
	unsigned eager_percent, fua_percent, flush_twice_percent, chase_percent;
};

static void draw_habits(struct habits *h, struct sim_random *r, const struct sim_plan *plan,
			bool growing)
{
	static const uint8_t weights[] = { 0, 1, 1, 4, 12 }, paces[] = { 1, 4, 4, 12 };
	memset(h, 0, sizeof(*h));
	for (unsigned i = 0; i <= SIM_ZEROES; i++)
		h->weight[i] = weights[sim_below(r, 5)];
	if (growing)
		h->weight[SIM_DISCARD] = h->weight[SIM_ZEROES] = 0;
	h->weight[SIM_READ] += 1;
	h->weight[SIM_GUEST_WRITE] += 3;
	h->weight[SIM_FLUSH] += !sim_chance(r, 25);
	for (unsigned i = 0; i <= SIM_ZEROES; i++)
		h->sum += h->weight[i];
	h->crash_every = plan->crash_every * paces[sim_below(r, 4)] / 4;
	h->fault_every = sim_chance(r, 50) ? 120 : 30 + sim_below(r, 300);
	h->full_every = 10 + sim_below(r, sim_chance(r, 50) ? 60 : 400);
	h->full_for = 4 + sim_below(r, 30);
	h->late_percent = (unsigned)sim_below(r, sim_chance(r, 50) ? 5 : 20);
	h->sequence_percent = sim_chance(r, 30) ? 60 : 5;
	h->eager_percent = (unsigned)sim_below(r, 90);
	h->fua_percent = sim_chance(r, 30) ? 30 : 4;
	h->flush_twice_percent = (unsigned)sim_below(r, 60);
	h->chase_percent = (unsigned)sim_below(r, 50);
}

static enum sim_action_kind pick_kind(struct sim_random *r, const struct habits *h)
{
	unsigned dice = (unsigned)sim_below(r, h->sum), kind = 0;
	while (dice >= h->weight[kind])
		dice -= h->weight[kind++];
	return (enum sim_action_kind)kind;
}

static void guest_action(struct sim_random *r, const struct sim_config *c, struct habits *h,
			 struct sim_action *a)
{
	a->kind = pick_kind(r, h);
	a->queue = (unsigned)sim_below(r, c->queues);
	if ((a->kind == SIM_GUEST_WRITE || a->kind == SIM_ZEROES) && sim_chance(r, h->fua_percent))
		a->flags |= SIM_FUA;
	if (a->kind == SIM_ZEROES && sim_chance(r, 30))
		a->flags |= SIM_NOUNMAP;
	if (a->kind == SIM_GUEST_WRITE && sim_chance(r, 6))
		a->flags |= SIM_ZERO_DATA;
	if (sim_chance(r, h->eager_percent))
		a->flags |= SIM_EAGER;
	if (a->kind == SIM_FLUSH)
		return;
	pick_range(r, c, a);
	if (sim_chance(r, h->sequence_percent) && h->last_end + a->length <= c->size_bytes)
		a->offset = h->last_end;
	h->last_end = a->offset + a->length;
}

/* FLUSHes often come together. */
static void maybe_twice(struct sim_random *r, const struct habits *h, struct sim_script *script)
{
	struct sim_action *last = &script->actions[script->nr - 1];
	if (last->kind != SIM_FLUSH || !sim_chance(r, h->flush_twice_percent))
		return;
	last->flags |= SIM_EAGER;
	struct sim_action twin = *last;
	twin.queue = (unsigned)sim_below(r, script->config.queues);
	sim_script_add(script, &twin);
}

/* Right behind a write something else for the same clusters, while it is in flight. */
static void maybe_chase(struct sim_random *r, const struct habits *h, struct sim_script *script)
{
	static const uint8_t kinds[] = { SIM_DISCARD, SIM_DISCARD, SIM_ZEROES, SIM_GUEST_WRITE,
					 SIM_READ };
	const struct sim_config *c = &script->config;
	struct sim_action *last = &script->actions[script->nr - 1];
	if (last->kind != SIM_GUEST_WRITE || !sim_chance(r, h->chase_percent))
		return;
	last->flags |= SIM_EAGER;
	struct sim_action next = { .kind = (enum sim_action_kind)kinds[sim_below(r, 5)] };
	uint64_t cluster = 1ull << c->cluster_bits,
		 end = (last->offset + last->length + cluster - 1) & ~(cluster - 1);
	next.queue = (unsigned)sim_below(r, c->queues);
	next.offset = last->offset & ~(cluster - 1);
	next.length = (end < c->size_bytes ? end : c->size_bytes) - next.offset;
	if (next.kind <= SIM_GUEST_WRITE && next.length > 1u << 20)
		next.length = 1u << 20;
	sim_script_add(script, &next);
}

/* Written, then freed while a transfer of it takes long. */
static void free_late(struct sim_random *r, struct sim_script *script, uint64_t at)
{
	const struct sim_config *c = &script->config;
	uint64_t cluster = 1ull << c->cluster_bits;
	struct sim_action put = { .kind = SIM_GUEST_WRITE, .offset = at, .length = cluster };
	struct sim_action late = { .kind = sim_chance(r, 50) ? SIM_GUEST_WRITE : SIM_READ,
				   .offset = at,
				   .length = SECTOR * (1 + sim_below(r, cluster / SECTOR)),
				   .queue = (unsigned)sim_below(r, c->queues),
				   .flags = SIM_LATE | SIM_EAGER };
	struct sim_action gone = { .kind = sim_chance(r, 60) ? SIM_DISCARD : SIM_ZEROES,
				   .offset = at,
				   .length = cluster,
				   .flags = sim_chance(r, 50) ? SIM_EAGER : 0 };
	if (sim_chance(r, 60))
		sim_script_add(script, &put);
	if (sim_chance(r, 80))
		sim_script_add(script, &late);
	sim_script_add(script, &gone);
}

/*
 * Clusters are freed one behind the other while transfers of them take long, the unlinks are made
 * durable, and others look for clusters: whatever is released too early meets one of them.
 */
static void maybe_late(struct sim_random *r, const struct habits *h, struct sim_script *script)
{
	const struct sim_config *c = &script->config;
	uint64_t clusters = c->size_bytes >> c->cluster_bits, first;
	if (!clusters || c->cluster_bits > 20 || !sim_chance(r, h->late_percent))
		return;
	first = sim_below(r, clusters);
	for (uint64_t n = 1 + sim_below(r, 3); n && first < clusters; n--, first++) {
		struct sim_action flush = { .kind = SIM_FLUSH,
					    .queue = (unsigned)sim_below(r, c->queues),
					    .flags = sim_chance(r, 50) ? SIM_EAGER : 0 };
		free_late(r, script, first << c->cluster_bits);
		if (n == 1 || sim_chance(r, 60))
			sim_script_add(script, &flush);
	}
	for (unsigned n = (unsigned)sim_below(r, 10); n; n--) {
		struct sim_action put = { .kind = SIM_GUEST_WRITE,
					  .queue = (unsigned)sim_below(r, c->queues),
					  .offset = sim_below(r, clusters) << c->cluster_bits,
					  .length = 1ull << c->cluster_bits };
		sim_script_add(script, &put);
	}
}

/* ---- closer to the edge ---- */

/*
 * Every eighth seed does more of what others seldom do. It takes numbers of its own, so that the
 * others mean what they always meant.
 */
static bool is_closer(uint64_t seed)
{
	return seed % 8 == 5;
}

/* What lies below ends inside a cluster. */
static void cut_backing(struct sim_random *r, struct sim_config *c)
{
	uint64_t cluster = 1ull << c->cluster_bits;
	if (c->backing == SIM_BACKING_NONE || c->cluster_bits == 9)
		return;
	if (c->backing_bytes >= c->size_bytes)
		c->backing_bytes =
			c->size_bytes - SECTOR * sim_below(r, c->size_bytes / SECTOR / 2);
	if (!(c->backing_bytes & (cluster - 1)))
		c->backing_bytes -= SECTOR * (1 + sim_below(r, cluster / SECTOR - 1));
}

/* To the cluster in which that ends, or the disk. */
static void move_to_edge(struct sim_random *r, const struct sim_config *c, struct sim_action *a)
{
	bool below = c->backing != SIM_BACKING_NONE && sim_chance(r, 70);
	uint64_t end = below ? c->backing_bytes : c->size_bytes, cluster = 1ull << c->cluster_bits;
	uint64_t start = end & ~(cluster - 1);
	if (end == start || !sim_chance(r, 20))
		return;
	a->offset = start + SECTOR * sim_below(r, cluster / SECTOR);
	if (a->offset >= c->size_bytes)
		a->offset = start;
	a->length = SECTOR * (1 + sim_below(r, 8));
	if (a->length > c->size_bytes - a->offset)
		a->length = c->size_bytes - a->offset;
}

/* Power is lost at a barrier of a close; more syncs find a host full. */
static void come_closer(struct sim_random *r, const struct sim_config *c, struct sim_action *a)
{
	if (a->kind <= SIM_ZEROES && a->kind != SIM_FLUSH)
		move_to_edge(r, c, a);
	if (a->kind == SIM_REOPEN && a->offset && sim_chance(r, 50))
		a->flags |= SIM_AT_SYNC;
	if (a->kind == SIM_FULL && a->offset && sim_chance(r, 40))
		a->queue = 1;
}

/* Bitmaps come and go. What an error or a full host leaves behind is seen at a close. */
static void add_closer(struct sim_random *r, struct sim_script *script)
{
	const struct sim_action last = script->actions[script->nr - 1];
	struct sim_action a = { .kind = SIM_REOPEN };
	struct sim_action bitmap = { .kind = SIM_BITMAP };
	if (script->config.bitmap && sim_chance(r, 3)) {
		bitmap.length = sim_below(r, SIM_NR_BITMAP_WHATS);
		sim_script_add(script, &bitmap);
	}
	if ((last.kind != SIM_FAULT && last.kind != SIM_FULL) || !sim_chance(r, 10))
		return;
	for (uint64_t n = sim_below(r, 4); n; n--)
		sim_script_add(script,
			       &(struct sim_action){ .kind = SIM_GUEST_WRITE,
						     .offset = 0,
						     .length = SECTOR * (1 + sim_below(r, 8)) });
	a.offset = sim_chance(r, 50) ? 1 + sim_below(r, 20) : 0;
	come_closer(r, &script->config, &a);
	sim_script_add(script, &a);
}

/* What is not a guest request; false if it is not the time. */
static bool host_action(struct sim_random *r, const struct sim_plan *plan, const struct habits *h,
			bool *full, struct sim_action *a)
{
	if (h->crash_every && !sim_below(r, h->crash_every)) {
		a->kind = SIM_CRASH;
		a->offset = 1 + sim_below(r, sim_chance(r, 50) ? 8 : 80);
		a->flags = sim_chance(r, 25) ? SIM_KILL : 0;
		if (sim_chance(r, 50)) {
			a->offset = 1 + sim_below(r, 5);
			a->flags |= SIM_AT_SYNC;
		} else if (sim_chance(r, 30)) {
			a->offset = 1 + sim_below(r, 10);
			a->flags |= SIM_AT_HEADER;
		}
	} else if (!sim_below(r, 250)) {
		a->kind = SIM_REOPEN;
		a->offset = plan->crash_every && sim_chance(r, 50) ? 1 + sim_below(r, 20) : 0;
	} else if (plan->faults && !sim_below(r, h->fault_every)) {
		a->kind = SIM_FAULT;
		a->length = sim_chance(r, 40) ? 0 : 1 + sim_below(r, 5);
		if (sim_chance(r, 30))
			a->length = 1 + COW_IO_SYNC;
		a->offset = 1 + sim_below(r, a->length ? 6 : 60);
	} else if (plan->faults && !sim_below(r, *full ? h->full_for : h->full_every)) {
		*full = !*full;
		a->kind = SIM_FULL;
		a->offset = *full ? 1 + sim_below(r, 2) : 0;
		a->length = sim_chance(r, 50) ? 100 : 1 + sim_below(r, 99);
		a->queue = sim_chance(r, 15);
	} else if (!sim_below(r, 60)) {
		a->kind = SIM_DRAIN;
	} else if (!sim_below(r, 80)) {
		a->kind = SIM_QUEUE_LEAVES;
		a->queue = (unsigned)sim_below(r, 8);
	} else if (!sim_below(r, 120)) {
		a->kind = SIM_SNAPSHOT;
		a->length = sim_below(r, 3);
		a->queue = (unsigned)sim_below(r, SIM_MAX_TAKEN);
		if (plan->resizes && a->queue < 2)
			a->length = SIM_SNAPSHOT_RESIZE;
		a->offset = plan->crash_every && sim_chance(r, 60)
				    ? 1 + sim_below(r, sim_chance(r, 50) ? 40 : 400)
				    : 0;
		a->flags = sim_chance(r, 25) ? SIM_KILL : 0;
	} else {
		return false;
	}
	return true;
}

/* Often with an error or the loss of power somewhere in it. */
static void live_action(struct sim_random *r, const struct sim_plan *plan,
			struct sim_script *script)
{
	struct sim_action a = { .kind = SIM_LIVE, .length = sim_chance(r, 60) ? 0 : 2 };
	a.queue = (unsigned)sim_below(r, SIM_MAX_TAKEN);
	if (plan->resizes && a.queue < 2)
		a.length = SIM_SNAPSHOT_RESIZE;
	if (plan->crash_every && sim_chance(r, 40)) {
		a.offset = 1 + sim_below(r, sim_chance(r, 50) ? 30 : 300);
		a.flags = sim_chance(r, 40) ? SIM_KILL : 0;
		if (sim_chance(r, 60)) {
			a.offset = 1 + sim_below(r, 5);
			a.flags |= SIM_AT_SYNC;
		}
	} else if (plan->faults && sim_chance(r, 30)) {
		struct sim_action fault = { .kind = SIM_FAULT,
					    .offset = 1 + sim_below(r, 40),
					    .flags = SIM_EAGER };
		fault.length = 1 + (sim_chance(r, 50) ? COW_IO_READ : sim_below(r, 5));
		sim_script_add(script, &fault);
	}
	sim_script_add(script, &a);
}

/* Takes no random number either. */
static void add_tools(struct sim_config *c)
{
	struct sim_random r = { .state = sim_mix(c->seed ^ 0x746f6f6c) };
	if (c->seed / 11 % 4)
		return;
	c->tool = 20 + sim_below(&r, 60);
	c->other = sim_below(&r, 3);
	c->other_bytes = SECTOR * (1 + sim_below(&r, c->size_bytes / SECTOR * 3 / 2));
}

/* Most often with something that goes wrong in it. */
static void tool_action(struct sim_random *r, const struct sim_plan *plan,
			struct sim_script *script)
{
	struct sim_action a = { .kind = SIM_TOOL, .queue = (unsigned)sim_below(r, 8) };
	bool chain = script->config.backing || script->config.other;
	a.length = chain ? sim_below(r, SIM_NR_TOOLS)
			 : SIM_TOOL_AMEND + sim_below(r, SIM_NR_TOOLS - SIM_TOOL_AMEND);
	if (plan->crash_every && sim_chance(r, 50)) {
		a.flags = sim_chance(r, 25) ? SIM_KILL : 0;
		a.offset = 1 + sim_below(r, sim_chance(r, 50) ? 30 : 300);
		if (sim_chance(r, 50)) {
			a.flags |= SIM_AT_SYNC;
			a.offset = 1 + sim_below(r, 8);
		}
	} else if (plan->faults && sim_chance(r, 60)) {
		a.flags = sim_chance(r, 50) ? SIM_FAILS : SIM_NO_ROOM;
		a.offset = 1 + sim_below(r, sim_chance(r, 50) ? 20 : 200);
	}
	sim_script_add(script, &a);
}

void sim_script_make(struct sim_script *script, uint64_t seed, const struct sim_plan *plan)
{
	struct sim_random r = { .state = sim_mix(seed + 1) }, more = { .state = sim_mix(~seed) };
	struct sim_random closer = { .state = sim_mix(seed ^ 0xed6e) };
	struct sim_plan p = *plan;
	p.resizes = seed / 7 % 3 == 1; /* takes no random number, as add_bitmap() */
	bool full = false;
	memset(script, 0, sizeof(*script));
	p.faults = p.faults && sim_chance(&r, 50);
	make_config(&script->config, &r, &p);
	struct habits habits;
	draw_habits(&habits, &r, plan, is_growing(&script->config));
	mix_config(&script->config, &more);
	draw_limits(&script->config, &more);
	add_bitmap(&script->config);
	add_more_limits(&script->config);
	if (is_closer(seed))
		cut_backing(&closer, &script->config);
	add_tools(&script->config);
	struct sim_random tools = { .state = sim_mix(script->config.tool ^ seed) };
	for (uint64_t i = 0; i < p.nr_actions; i++) {
		struct sim_action a = { 0 };
		if (!host_action(&r, &p, &habits, &full, &a))
			guest_action(&r, &script->config, &habits, &a);
		if (is_closer(seed))
			come_closer(&closer, &script->config, &a);
		sim_script_add(script, &a);
		maybe_twice(&r, &habits, script);
		maybe_chase(&r, &habits, script);
		maybe_late(&r, &habits, script);
		if (is_closer(seed))
			add_closer(&closer, script);
		if (script->config.live && !sim_below(&more, script->config.live))
			live_action(&more, &p, script);
		if (script->config.tool && !sim_below(&tools, script->config.tool))
			tool_action(&tools, &p, script);
	}
}
