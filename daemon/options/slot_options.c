/* SPDX-License-Identifier: MIT */
/* See slot_options.h. In this order: --object; -o, and options of their own; what belongs together; loading. */
#include "daemon/options/slot_options.h"

#include <stdio.h>
#include <string.h>

#include "daemon/options/values.h"
#include "engine/base/number.h"

#define MAX_ITER_MS 60000u
#define MAX_SLOT 7u

void cow_slot_options_init(struct cow_slot_options *o)
{
	*o = (struct cow_slot_options){ .change.slot = COW_LUKS_ANY_SLOT };
}

/* ---- --object ---- */

static const char *object_value(struct argp_state *state, const char *name, const char *value)
{
	if (!value || !*value)
		argp_error(state, "--object %s: must be NAME=VALUE", name);
	if (!strcmp(name, "data"))
		argp_error(state, "--object secret,data=...: every user of the machine can read "
				  "the command line: use file=FILE");
	bool raw = !strcmp(name, "format") && !strcmp(value, "raw");
	if (strcmp(name, "id") && strcmp(name, "file") && !raw)
		argp_error(state, "--object secret,%s=%s: only id=ID,file=FILE is supported", name,
			   value);
	return value;
}

void cow_slot_options_object(struct cow_slot_options *o, char *list, struct argp_state *state)
{
	const char *id = NULL, *file = NULL;
	char *value, *name = cow_values_next(&list, &value);
	if (!name || value || strcmp(name, "secret"))
		argp_error(state, "--object %s: must be secret,id=ID,file=FILE", name ? name : "");
	while ((name = cow_values_next(&list, &value)) != NULL) {
		const char *word = object_value(state, name, value);
		if (!strcmp(name, "id"))
			id = word;
		else if (!strcmp(name, "file"))
			file = word;
	}
	if (!id || !file)
		argp_error(state, "--object secret: %s is missing", id ? "file=FILE" : "id=ID");
	if (o->nr_objects == COW_MAX_SECRETS)
		argp_error(state, "--object: more than %u passphrases", COW_MAX_SECRETS);
	o->objects[o->nr_objects].id = id;
	o->objects[o->nr_objects++].file = file;
}

/* ---- -o, and options of their own ---- */

void cow_slot_options_source(struct cow_slot_options *o, enum cow_slot_role role, const char *file,
			     struct argp_state *state)
{
	struct cow_secrets *s = &o->secrets[role];
	if (s->nr == (role == COW_SLOT_OPENS ? COW_MAX_SECRETS : 1))
		argp_error(state, "more than one passphrase to be %s",
			   role == COW_SLOT_NEW ? "added" : "removed");
	s->sources[s->nr++] =
		(struct cow_secret_source){ file ? COW_SECRET_FILE : COW_SECRET_PROMPT, file };
}

static bool parse_slot(struct cow_slot_options *o, const char *value)
{
	uint64_t slot;
	bool valid = cow_number_parse(value, MAX_SLOT, &slot);
	o->change.slot = valid ? (int)slot : COW_LUKS_ANY_SLOT;
	return valid;
}

static bool parse_iter_time(struct cow_slot_options *o, const char *value)
{
	uint64_t ms = 0;
	bool valid = cow_number_parse(value, MAX_ITER_MS, &ms) && ms;
	o->change.iter_ms = (unsigned)ms;
	return valid;
}

static bool parse_state(struct cow_slot_options *o, const char *value)
{
	o->state = value;
	o->change.what = !strcmp(value, "active") ? COW_LUKS_ADD_KEY : COW_LUKS_REMOVE_KEY;
	return o->change.what == COW_LUKS_ADD_KEY || !strcmp(value, "inactive");
}

static bool parse_format(struct cow_slot_options *o, const char *value)
{
	(void)o;
	return !strcmp(value, "luks");
}

static bool parse_opens(struct cow_slot_options *o, const char *value)
{
	o->ids[COW_SLOT_OPENS] = value;
	return true;
}

static bool parse_new(struct cow_slot_options *o, const char *value)
{
	o->ids[COW_SLOT_NEW] = value;
	return true;
}

static bool parse_old(struct cow_slot_options *o, const char *value)
{
	o->ids[COW_SLOT_OLD] = value;
	return true;
}

bool cow_slot_options_parse(struct cow_slot_options *o, const char *name, const char *value,
			    bool *known)
{
	static const struct {
		const char *name;
		bool (*parse)(struct cow_slot_options *o, const char *value);
	} values[] = {
		{ "state", parse_state },	  { "keyslot", parse_slot },
		{ "iter-time", parse_iter_time }, { "format", parse_format },
		{ "key-secret", parse_opens },	  { "new-secret", parse_new },
		{ "old-secret", parse_old },
	};
	o->given = true;
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		*known = !strcmp(values[i].name, name);
		if (*known)
			return values[i].parse(o, value);
	}
	return false;
}

/* ---- what belongs together ---- */

static void take_object(struct cow_slot_options *o, enum cow_slot_role role,
			struct argp_state *state)
{
	const char *id = o->ids[role];
	if (!id)
		return;
	for (size_t i = 0; i < o->nr_objects; i++) {
		if (!strcmp(o->objects[i].id, id)) {
			cow_slot_options_source(o, role, o->objects[i].file, state);
			return;
		}
	}
	argp_error(state, "-o encrypt.%s=%s: no --object secret,id=%s,file=FILE is given",
		   role == COW_SLOT_NEW	  ? "new-secret"
		   : role == COW_SLOT_OLD ? "old-secret"
					  : "key-secret",
		   id, id);
}

static const char *find_conflict(const struct cow_slot_options *o)
{
	bool add = o->change.what == COW_LUKS_ADD_KEY;
	if (!o->state)
		return "encrypt.state is missing: active adds a passphrase, inactive removes one";
	if (add && !o->secrets[COW_SLOT_NEW].nr)
		return "encrypt.state=active: the new passphrase is missing: --new-key-file, "
		       "--new-key-prompt or encrypt.new-secret";
	if (add && o->force)
		return "--force: only removes: needs encrypt.state=inactive";
	if (add && !o->secrets[COW_SLOT_OPENS].nr && !o->secrets[COW_SLOT_OLD].nr)
		return "encrypt.state=active: a passphrase that opens the image is missing: "
		       "--key-file or another --key-...";
	if (!add && (o->secrets[COW_SLOT_NEW].nr || o->change.iter_ms))
		return "encrypt.state=inactive: takes no new passphrase and no encrypt.iter-time";
	if (!add && o->change.slot < 0 && !o->secrets[COW_SLOT_OLD].nr)
		return "encrypt.state=inactive: what is to be removed is missing: encrypt.keyslot, "
		       "--old-key-file or encrypt.old-secret";
	if (!add && !o->secrets[COW_SLOT_OPENS].nr && !o->force)
		return "encrypt.state=inactive: a passphrase that stays is missing: --key-file or "
		       "another --key-... (--force does without)";
	return NULL;
}

void cow_slot_options_finish(struct cow_slot_options *o, struct argp_state *state)
{
	for (unsigned role = 0; role < COW_SLOT_NR_ROLES; role++)
		take_object(o, (enum cow_slot_role)role, state);
	bool any = o->secrets[COW_SLOT_OPENS].nr || o->secrets[COW_SLOT_NEW].nr ||
		   o->secrets[COW_SLOT_OLD].nr || o->nr_objects || o->force;
	if (!o->given && any)
		argp_error(state, "passphrases and --force: need -o encrypt.state=active|inactive");
	const char *conflict = o->given ? find_conflict(o) : NULL;
	if (conflict)
		argp_error(state, "-o %s", conflict);
}

/* ---- loading ---- */

static int load_role(struct cow_slot_options *o, enum cow_slot_role role, const char *image,
		     struct cow_error *err)
{
	static const char *const words[] = { "", ", new passphrase", ", passphrase to be removed" };
	char what[256];
	snprintf(what, sizeof(what), "%.200s%s", image, words[role]);
	return cow_secrets_load(&o->secrets[role], what,
				role == COW_SLOT_NEW ? COW_PROMPT_TWICE : COW_PROMPT_ONCE, err);
}

int cow_slot_options_load(struct cow_slot_options *o, const char *image, struct cow_error *err)
{
	struct cow_luks_change *c = &o->change;
	int ret = 0;
	for (unsigned role = 0; role < COW_SLOT_NR_ROLES && !ret; role++)
		ret = load_role(o, (enum cow_slot_role)role, image, err);
	if (ret) {
		cow_slot_options_free(o);
		return ret;
	}
	c->force = o->force;
	c->secrets = o->secrets[COW_SLOT_OPENS].loaded;
	c->nr_secrets = o->secrets[COW_SLOT_OPENS].nr;
	c->new_secret = o->secrets[COW_SLOT_NEW].loaded[0];
	c->old_secret = o->secrets[COW_SLOT_OLD].loaded[0];
	return 0;
}

void cow_slot_options_free(struct cow_slot_options *o)
{
	for (unsigned role = 0; role < COW_SLOT_NR_ROLES; role++)
		cow_secrets_free(&o->secrets[role]);
}
