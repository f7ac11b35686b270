/* SPDX-License-Identifier: MIT */
/* See complete.h. In this order: words; what a placeholder stands for; values; arguments; all. */
#include "daemon/options/complete.h"

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/control/target.h"
#include "engine/host/system.h"
#include "engine/life/info.h"
#include "engine/loop/loop_plain.h"

#define MAX_WORD 256

struct complete {
	const struct cow_known *known;
	const struct cow_value_doc *values;
	const char *typed; /* the word at the cursor */
	size_t nr_kept;	   /* bytes of it that a value stands behind: "--output=" */
	const char *image; /* whose snapshots and bitmaps are offered; NULL: none's */
	bool files, folders;
	/* what stands before it */
	const char **args;
	int nr_args;
	const struct argp_option **given;
	int nr_given;
};

/* ---- words ---- */

static bool is_plain(const char *word)
{
	for (const char *p = word; *p; p++)
		if (!isascii((unsigned char)*p) ||
		    (!isalnum((unsigned char)*p) && !strchr("-_.,/=+:@%", *p)))
			return false;
	return *word != '\0';
}

void cow_complete_offer(const char *typed, const char *word, const char *description)
{
	if (!is_plain(word) || strncmp(word, typed, strlen(typed)) != 0)
		return;
	fputs(word, stdout);
	if (description)
		putchar('\t');
	for (const char *p = description ? description : ""; *p; p++)
		putchar(iscntrl((unsigned char)*p) ? '?' : *p);
	putchar('\n');
}

/* A value: behind what is kept of the word. */
static void offer(const struct complete *c, const char *word, const char *description)
{
	char whole[MAX_WORD];
	int n = snprintf(whole, sizeof(whole), "%.*s%s", (int)c->nr_kept, c->typed, word);
	if (*word && n < MAX_WORD)
		cow_complete_offer(c->typed, whole, description);
}

/* ---- what a placeholder stands for ---- */

static void offer_devices(const struct complete *c)
{
	static uint32_t ids[COW_MAX_DEVICES];
	int nr = cow_record_list(ids, COW_MAX_DEVICES);
	for (int i = 0; i < nr; i++) {
		struct cow_record record;
		char name[32];
		if (cow_record_read(ids[i], &record))
			continue;
		snprintf(name, sizeof(name), "/dev/ublkb%u", ids[i]);
		offer(c, name, record.image);
		cow_record_fini(&record);
	}
}

enum inside {
	SNAPSHOTS,
	BITMAPS,
};

static void offer_names(const struct complete *c, const struct cow_info *info, enum inside inside)
{
	for (uint32_t i = 0; inside == SNAPSHOTS && i < info->header.nr_snapshots; i++)
		offer(c, info->snapshots[i].name, NULL);
	for (uint32_t i = 0; inside == BITMAPS && info->bitmaps && i < info->ext.nr_bitmaps; i++)
		offer(c, info->bitmaps[i].name, NULL);
}

/* Of the image on the line, attached or not. Nothing is said of one that cannot be read. */
static void offer_inside(const struct complete *c, enum inside inside)
{
	const char *image = c->image;
	struct cow_record record = { 0 };
	struct cow_error err = { 0 };
	struct cow_info info;
	struct cow_loop *loop;
	uint32_t id;
	if (cow_loop_plain_new(&loop))
		return;
	if (cow_target_device(image, &id) && !cow_record_read(id, &record))
		image = record.image;
	if (!cow_info_load(cow_host_system(), loop, image, &info, &err)) {
		offer_names(c, &info, inside);
		cow_info_fini(&info);
	}
	cow_record_fini(&record);
	cow_loop_free(loop);
}

/* What is meant as it stands: placeholders begin with a large letter. */
static bool is_word(const char *word)
{
	return islower((unsigned char)*word) || isdigit((unsigned char)*word);
}

static bool names_a_file(const char *word)
{
	static const char *const names[] = {
		"FILE", "IMAGE", "IMAGE1", "IMAGE2", "BASE", "TARGET"
	};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(names[i], word))
			return true;
	return false;
}

static void offer_placeholder(struct complete *c, const char *word)
{
	if (!strcmp(word, "DIR"))
		c->folders = true;
	else if (!strcmp(word, "DEVICE"))
		offer_devices(c);
	else if (names_a_file(word))
		c->files = true;
	else if (c->image && !strcmp(word, "SNAPSHOT"))
		offer_inside(c, SNAPSHOTS);
	else if (c->image && (!strcmp(word, "BITMAP") || !strcmp(word, "SOURCE")))
		offer_inside(c, BITMAPS);
}

/* "on|off", "float|CPUS", "IMAGE|DEVICE": len bytes. */
static void offer_spec(struct complete *c, const char *spec, size_t len, const char *description)
{
	while (len > 0) {
		char one[MAX_WORD];
		const char *bar = memchr(spec, '|', len);
		size_t n = bar ? (size_t)(bar - spec) : len;
		snprintf(one, sizeof(one), "%.*s", (int)n, spec);
		if (is_word(spec))
			offer(c, one, description);
		else
			offer_placeholder(c, one);
		len -= bar ? n + 1 : n;
		spec += bar ? n + 1 : n;
	}
}

/* ---- values ---- */

/* The values of a -o: in front of " (", if they are words. */
static void offer_value(struct complete *c, const struct cow_value_doc *doc)
{
	const char *note = strstr(doc->values, " (");
	size_t len = note ? (size_t)(note - doc->values) : strlen(doc->values);
	if (!strncmp(doc->values, "a file", 6))
		c->files = true;
	else if (!memchr(doc->values, ' ', len))
		offer_spec(c, doc->values, len, NULL);
}

/* NAME=VALUE[,...]: what stands behind the last comma. */
static void offer_list(struct complete *c)
{
	const char *at = c->typed + c->nr_kept, *comma = strrchr(at, ',');
	at = comma ? comma + 1 : at;
	size_t len = strcspn(at, "=");
	c->nr_kept = (size_t)(at - c->typed) + (at[len] ? len + 1 : 0);
	for (const struct cow_value_doc *doc = c->values; doc && doc->name; doc++) {
		char name[MAX_WORD];
		snprintf(name, sizeof(name), "%s=", doc->name);
		if (!at[len])
			offer(c, name, doc->values);
		else if (len == strlen(doc->name) && !strncmp(doc->name, at, len))
			offer_value(c, doc);
	}
}

static void offer_option_value(struct complete *c, const struct argp_option *option, size_t nr_kept)
{
	c->nr_kept = nr_kept;
	c->image = c->nr_args ? c->args[0] : NULL;
	if (!strncmp(option->arg, "NAME=VALUE", 10))
		offer_list(c);
	else
		offer_spec(c, option->arg, strlen(option->arg), NULL);
}

static void offer_options(const struct complete *c)
{
	for (size_t i = 0; i < c->known->nr; i++) {
		const struct argp_option *o = &c->known->options[i];
		char word[MAX_WORD];
		if (o->flags & OPTION_HIDDEN)
			continue;
		snprintf(word, sizeof(word), "--%s%s", o->name ? o->name : "", o->arg ? "=" : "");
		if (o->name)
			offer(c, word, o->doc);
		snprintf(word, sizeof(word), "-%c", o->key);
		if (isalnum(o->key) && (!o->name || strlen(c->typed) == 2))
			offer(c, word, o->doc);
	}
}

/* ---- arguments ---- */

/* One word of a form, without its brackets and dots. False: the end of the line. */
static bool next_token(const char **form, const char **token, size_t *len, bool *repeats)
{
	const char *at = *form + strspn(*form, " [");
	size_t n = strcspn(at, " \n");
	*form = at + n;
	*token = at;
	*repeats = n > 3 && memmem(at, n, "...", 3);
	*len = strcspn(at, " \n].");
	return n > 0;
}

static bool is_given(const struct complete *c, const struct argp_option *option)
{
	for (int i = 0; i < c->nr_given; i++)
		if (c->given[i] == option)
			return true;
	return false;
}

/* A form that begins with an option is for lines that have it. */
enum form { FORM_GIVEN, FORM_PLAIN, FORM_OTHER };

/* Moves *form behind the option. */
static enum form skip_option(const struct complete *c, const char **form)
{
	const struct argp_option *option;
	const char *at = *form, *token;
	size_t len;
	bool repeats;
	if (*at != '-' || !next_token(&at, &token, &len, &repeats))
		return FORM_PLAIN;
	option = token[1] == '-' ? cow_known_long(c->known, token + 2, len - 2)
				 : cow_known_short(c->known, token[1]);
	if (option && option->arg)
		next_token(&at, &token, &len, &repeats);
	*form = at;
	return option && is_given(c, option) ? FORM_GIVEN : FORM_OTHER;
}

static void offer_form(struct complete *c, const char *form)
{
	const char *token = NULL, *repeated = NULL;
	size_t len = 0, repeated_len = 0;
	bool repeats = false;
	for (int i = 0; i <= c->nr_args; i++) {
		bool more = next_token(&form, &token, &len, &repeats);
		if (!more && !repeated)
			return;
		if (!more) {
			token = repeated;
			len = repeated_len;
		} else if (repeats) {
			repeated = token;
			repeated_len = len;
		}
		if (i == c->nr_args)
			break;
		if (is_word(token) &&
		    (strlen(c->args[i]) != len || strncmp(c->args[i], token, len) != 0))
			return;
		if (!strncmp(token, "IMAGE", 5))
			c->image = c->args[i];
	}
	offer_spec(c, token, len, NULL);
}

/* False: there is none of that kind. */
static bool offer_forms(struct complete *c, const char *args_doc, enum form which)
{
	bool any = false;
	for (const char *form = args_doc; form; form = strchr(form, '\n')) {
		const char *rest = form += *form == '\n';
		if (skip_option(c, &rest) != which)
			continue;
		offer_form(c, rest);
		any = true;
	}
	return any;
}

/* ---- all ---- */

/* What is typed before the cursor. Returns the option that waits for its value, if any. */
static const struct argp_option *look_back(struct complete *c, int nr, char **words,
					   bool *only_args)
{
	const struct argp_option *waits = NULL;
	for (int i = 0; i < nr; i++) {
		const char *word = words[i];
		if (waits) {
			waits = NULL;
		} else if (*only_args || word[0] != '-' || !word[1]) {
			c->args[c->nr_args++] = word;
		} else if (!strcmp(word, "--")) {
			*only_args = true;
		} else {
			waits = cow_known_wants_next(c->known, word);
			c->given[c->nr_given++] =
				word[1] == '-'
					? cow_known_long(c->known, word + 2, strcspn(word + 2, "="))
					: cow_known_short(c->known, word[1]);
		}
	}
	return waits;
}

static void complete(struct complete *c, const char *args_doc, int nr, char **words)
{
	bool only_args = false;
	const struct argp_option *option = look_back(c, nr - 1, words, &only_args);
	size_t len = strcspn(c->typed, "=");
	if (option) {
		offer_option_value(c, option, 0);
	} else if (only_args || c->typed[0] != '-') {
		bool any = false;
		for (enum form which = FORM_GIVEN; args_doc && !any && which <= FORM_OTHER; which++)
			any = offer_forms(c, args_doc, which);
	} else if (!c->typed[len]) {
		offer_options(c);
	} else if (c->typed[1] == '-') {
		option = cow_known_long(c->known, c->typed + 2, len - 2);
		if (option && option->arg)
			offer_option_value(c, option, len + 1);
	}
}

void cow_complete(const struct cow_known *known, const char *args_doc,
		  const struct cow_value_doc *values, int nr, char **words)
{
	struct complete c = { .known = known, .values = values };
	if (nr < 1)
		return;
	c.typed = words[nr - 1];
	c.args = calloc((size_t)nr, sizeof(*c.args));
	c.given = calloc((size_t)nr, sizeof(struct argp_option *));
	if (c.args && c.given) {
		complete(&c, args_doc, nr, words);
		printf("%s %zu\n", c.files ? "files" : c.folders ? "folders" : "none", c.nr_kept);
	}
	free(c.args);
	free(c.given);
}
