/* SPDX-License-Identifier: MIT */
#include "tests/sim/script.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/assert.h"

void sim_script_add(struct sim_script *script, const struct sim_action *action)
{
	if (script->nr == script->max) {
		script->max = script->max * 2 + 64;
		script->actions = realloc(script->actions, script->max * sizeof(*script->actions));
		cow_assert(script->actions);
	}
	script->actions[script->nr++] = *action;
}

void sim_script_fini(struct sim_script *script)
{
	free(script->actions);
	memset(script, 0, sizeof(*script));
}

/* ---- text ---- */

static const char *const names[SIM_NR_ACTIONS] = { "read",	   "write",  "flush",	 "discard",
						   "zeroes",	   "crash",  "reopen",	 "fault",
						   "full",	   "drain",  "snapshot", "live",
						   "queue-leaves", "bitmap", "tool" };

static const struct {
	const char *name;
	unsigned flag;
} flag_names[] = {
	{ "fua", SIM_FUA },	    { "nounmap", SIM_NOUNMAP },	    { "zero", SIM_ZERO_DATA },
	{ "kill", SIM_KILL },	    { "eager", SIM_EAGER },	    { "late", SIM_LATE },
	{ "at-sync", SIM_AT_SYNC }, { "at-header", SIM_AT_HEADER }, { "fails", SIM_FAILS },
	{ "no-room", SIM_NO_ROOM },
};
#define NR_FLAGS (sizeof(flag_names) / sizeof(flag_names[0]))

#define FIELD(f)                                                                                   \
	{                                                                                          \
#f, offsetof(struct sim_config, f), false                                          \
	}
#define LIMIT(f)                                                                                   \
	{                                                                                          \
#f, offsetof(struct sim_config, limits.f), true                                    \
	}
static const struct {
	const char *name;
	size_t at;
	bool limit; /* 32 bits; 0, the default, is not printed */
} fields[] = {
	/* clang-format off */
	FIELD(seed),
	FIELD(size_bytes),
	FIELD(cluster_bits),
	FIELD(refcount_bits),
	FIELD(version),
	FIELD(lazy),
	FIELD(backing),
	FIELD(backing_bytes),
	FIELD(prepared),
	FIELD(ext_l2),
	FIELD(zstd),
	FIELD(compress),
	FIELD(encrypt),
	FIELD(data_file),
	FIELD(block_device),
	FIELD(live),
	FIELD(tool),
	FIELD(other),
	FIELD(other_bytes),
	FIELD(name_bytes),
	FIELD(bitmap),
	FIELD(base_bits),
	FIELD(base_pack),
	FIELD(base_ext_l2),
	FIELD(base_encrypt),
	FIELD(base_snapshot),
	FIELD(deep_bytes),
	FIELD(queues),
	FIELD(depth),
	FIELD(cache_bytes),
	FIELD(reserve_bytes),
	FIELD(buffered),
	FIELD(no_discard),
	FIELD(detect_zeroes),
	FIELD(noise),
	FIELD(permille),
	FIELD(sweep),
	FIELD(outlive),
	FIELD(guest),
	LIMIT(ring),
	LIMIT(ring_own),
	LIMIT(release_batch),
	LIMIT(release_punches),
	LIMIT(cache_slots),
	LIMIT(cache_least),
	LIMIT(dirty_slots),
	LIMIT(dirty_blocks),
	LIMIT(pass_writes),
	LIMIT(live_few),
	LIMIT(live_brake),
	LIMIT(extents),
	LIMIT(pieces),
	LIMIT(bounces),
	LIMIT(packed),
	LIMIT(pack_clusters),
	LIMIT(inflated),
	/* clang-format on */
};
#define NR_FIELDS (sizeof(fields) / sizeof(fields[0]))

static void *field(struct sim_config *c, size_t i)
{
	return (char *)c + fields[i].at;
}

static uint64_t get_field(struct sim_config *c, size_t i)
{
	return fields[i].limit ? *(uint32_t *)field(c, i) : *(uint64_t *)field(c, i);
}

static void set_field(struct sim_config *c, size_t i, uint64_t value)
{
	if (fields[i].limit)
		*(uint32_t *)field(c, i) = (uint32_t)value;
	else
		*(uint64_t *)field(c, i) = value;
}

void sim_script_print(const struct sim_script *script, FILE *f)
{
	struct sim_config c = script->config;
	fprintf(f, "config");
	for (size_t i = 0; i < NR_FIELDS; i++)
		if (!fields[i].limit || get_field(&c, i))
			fprintf(f, " %s=%llu", fields[i].name,
				(unsigned long long)get_field(&c, i));
	fprintf(f, "\n");
	for (unsigned i = 0; i < script->nr; i++) {
		const struct sim_action *a = &script->actions[i];
		fprintf(f, "%s %u %llu %llu", names[a->kind], a->queue,
			(unsigned long long)a->offset, (unsigned long long)a->length);
		for (size_t n = 0; n < NR_FLAGS; n++)
			if (a->flags & flag_names[n].flag)
				fprintf(f, " %s", flag_names[n].name);
		fprintf(f, "\n");
	}
}

static int parse_field(struct sim_config *c, char *word)
{
	char *value = strchr(word, '=');
	if (!value)
		return -EINVAL;
	*value++ = '\0';
	for (size_t i = 0; i < NR_FIELDS; i++) {
		if (!strcmp(word, fields[i].name)) {
			set_field(c, i, strtoull(value, NULL, 0));
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_config(struct sim_config *c, char *save)
{
	char *word;
	while ((word = strtok_r(NULL, " \n", &save)) != NULL)
		if (parse_field(c, word))
			return -EINVAL;
	return 0;
}

static int parse_flag(struct sim_action *a, const char *word)
{
	for (size_t i = 0; i < NR_FLAGS; i++) {
		if (!strcmp(word, flag_names[i].name)) {
			a->flags |= flag_names[i].flag;
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_action(struct sim_action *a, const char *name, char *save)
{
	uint64_t numbers[3] = { 0 };
	char *word;
	unsigned kind = 0;
	while (kind < SIM_NR_ACTIONS && strcmp(names[kind], name))
		kind++;
	if (kind == SIM_NR_ACTIONS)
		return -EINVAL;
	a->kind = (enum sim_action_kind)kind;
	for (unsigned i = 0; i < 3 && (word = strtok_r(NULL, " \n", &save)) != NULL; i++)
		numbers[i] = strtoull(word, NULL, 0);
	a->queue = (unsigned)numbers[0];
	a->offset = numbers[1];
	a->length = numbers[2];
	while ((word = strtok_r(NULL, " \n", &save)) != NULL)
		if (parse_flag(a, word))
			return -EINVAL;
	return 0;
}

int sim_script_parse(struct sim_script *script, FILE *f, unsigned *line)
{
	char buf[1024];
	memset(script, 0, sizeof(*script));
	for (*line = 1; fgets(buf, sizeof(buf), f); ++*line) {
		char *save = NULL, *word = strtok_r(buf, " \n", &save);
		struct sim_action a = { 0 };
		if (!word || word[0] == '#')
			continue;
		if (!strcmp(word, "config") ? parse_config(&script->config, save)
					    : parse_action(&a, word, save))
			return -EINVAL;
		if (strcmp(word, "config"))
			sim_script_add(script, &a);
	}
	return script->config.size_bytes ? 0 : -EINVAL;
}
