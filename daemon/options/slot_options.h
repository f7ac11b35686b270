/* SPDX-License-Identifier: MIT */
/*
 * Key slots on a command line: amend's -o encrypt.NAME=VALUE and --object with qemu-img's names, and
 * where the passphrases that are added and removed come from.
 */
#ifndef COW_SLOT_OPTIONS_H
#define COW_SLOT_OPTIONS_H

#include <argp.h>
#include <stdbool.h>

#include "daemon/options/passphrase.h"
#include "engine/crypt/luks_change.h"

enum cow_slot_role { COW_SLOT_OPENS, COW_SLOT_NEW, COW_SLOT_OLD, COW_SLOT_NR_ROLES };

/* Zeroed by the caller. */
struct cow_slot_options {
	bool given, force;
	const char *state;
	struct cow_luks_change change;
	/* OPENS is also the input of cow_secret_argp */
	struct cow_secrets secrets[COW_SLOT_NR_ROLES];
	const char *ids[COW_SLOT_NR_ROLES]; /* of --object that -o names */
	/* --object secret,id=...,file=... */
	struct {
		const char *id, *file;
	} objects[COW_MAX_SECRETS];
	size_t nr_objects;
};

void cow_slot_options_init(struct cow_slot_options *o);
/* --object secret,id=ID,file=FILE. Ends the process with a line about what is wrong. Keeps list. */
void cow_slot_options_object(struct cow_slot_options *o, char *list, struct argp_state *state);
/* A passphrase from a file (NULL: from the terminal); one for each role. */
void cow_slot_options_source(struct cow_slot_options *o, enum cow_slot_role role, const char *file,
			     struct argp_state *state);
/* name: behind "encrypt.". False: no such value. */
bool cow_slot_options_parse(struct cow_slot_options *o, const char *name, const char *value,
			    bool *known);
/* What depends on several of them. */
void cow_slot_options_finish(struct cow_slot_options *o, struct argp_state *state);
/* Gets the passphrases, and puts them into o->change. On failure nothing is held. */
COW_MUST_CHECK int cow_slot_options_load(struct cow_slot_options *o, const char *image,
					 struct cow_error *err);
void cow_slot_options_free(struct cow_slot_options *o);

#endif
