/* SPDX-License-Identifier: MIT */
#include "engine/image/claim.h"

void cow_claims_init(struct cow_claims *claims, uint32_t slice_entries)
{
	claims->cluster_shift = (uint32_t)__builtin_ctz(slice_entries);
	for (unsigned i = 0; i < COW_CLAIMS_SHARDS; i++) {
		cow_mutex_init(&claims->shards[i].lock, COW_RANK_CLAIMS);
		claims->shards[i].claims = NULL;
		atomic_init(&claims->shards[i].nr, 0);
	}
}

void cow_claims_fini(struct cow_claims *claims)
{
	for (unsigned i = 0; i < COW_CLAIMS_SHARDS; i++)
		cow_mutex_fini(&claims->shards[i].lock);
}

static struct cow_claims_shard *shard_of(struct cow_claims *claims, enum cow_claim_space space,
					 uint64_t start)
{
	uint64_t n = space == COW_CLAIM_CLUSTERS ? start >> claims->cluster_shift : start;
	return &claims->shards[n % COW_CLAIMS_SHARDS];
}

static struct cow_claim *find_locked(struct cow_claims_shard *shard, enum cow_claim_space space,
				     uint64_t start, uint64_t end)
	COW_REQUIRES(claims, shard->lock);
static struct cow_claim *find_locked(struct cow_claims_shard *shard, enum cow_claim_space space,
				     uint64_t start, uint64_t end)
{
	for (struct cow_claim *c = shard->claims; c; c = c->next)
		if (c->space == space && c->start < end && start < c->end)
			return c;
	return NULL;
}

bool cow_claims_take(struct cow_claims *claims, struct cow_claim *claim, enum cow_claim_space space,
		     uint64_t start, uint64_t end, struct cow_task *task)
{
	struct cow_claims_shard *shard = shard_of(claims, space, start);
	cow_assert(!claim->held && start < end && shard == shard_of(claims, space, end - 1));
	cow_mutex_lock(&shard->lock);
	struct cow_claim *other = find_locked(shard, space, start, end);
	if (other) {
		cow_waitlist_park(&other->waiters, task, "a request that changes the range");
		cow_mutex_unlock(&shard->lock);
		return false;
	}
	claim->held = true;
	claim->space = space;
	claim->start = start;
	claim->end = end;
	cow_waitlist_init(&claim->waiters);
	claim->next = shard->claims;
	shard->claims = claim;
	atomic_fetch_add(&shard->nr, 1);
	cow_mutex_unlock(&shard->lock);
	return true;
}

void cow_claims_drop_held(struct cow_claims *claims, struct cow_claim *claim)
{
	cow_assert(claim->held);
	struct cow_claims_shard *shard = shard_of(claims, claim->space, claim->start);
	struct cow_waitlist wake;
	cow_waitlist_init(&wake);
	cow_mutex_lock(&shard->lock);
	struct cow_claim **link = &shard->claims;
	while (*link != claim)
		link = &(*link)->next;
	*link = claim->next;
	claim->held = false;
	atomic_fetch_sub(&shard->nr, 1);
	cow_waitlist_take(&claim->waiters, &wake);
	cow_mutex_unlock(&shard->lock);
	cow_waitlist_wake(&wake, 0);
}

bool cow_claims_overlaps(struct cow_claims *claims, enum cow_claim_space space, uint64_t start,
			 uint64_t end)
{
	struct cow_claims_shard *shard = shard_of(claims, space, start);
	if (!atomic_load(&shard->nr))
		return false;
	cow_mutex_lock(&shard->lock);
	bool found = find_locked(shard, space, start, end) != NULL;
	cow_mutex_unlock(&shard->lock);
	return found;
}

bool cow_claims_busy(struct cow_claims *claims, enum cow_claim_space space, uint64_t start,
		     uint64_t end, struct cow_task *task)
{
	struct cow_claims_shard *shard = shard_of(claims, space, start);
	if (!atomic_load(&shard->nr))
		return false;
	cow_mutex_lock(&shard->lock);
	struct cow_claim *other = find_locked(shard, space, start, end);
	if (other)
		cow_waitlist_park(&other->waiters, task, "a request that changes the range");
	cow_mutex_unlock(&shard->lock);
	return other != NULL;
}
