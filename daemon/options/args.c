/* SPDX-License-Identifier: MIT */
/*
 * See args.h. In this order: the nearest word; actions; the common options; argp's own errors, in one line
 * as all others; options that nobody knows: found before getopt sees them; all.
 */
#include "daemon/options/args.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/options/cmd.h"
#include "daemon/options/complete.h"
#include "daemon/options/known.h"

#define MAX_WORD 32
#define MAX_ACTIONS 16

/* ---- the nearest word ---- */

static unsigned smallest(unsigned a, unsigned b, unsigned c)
{
	unsigned d = a < b ? a : b;
	return d < c ? d : c;
}

/* Letters to change, insert, remove or swap with their neighbour. Both at most MAX_WORD long. */
static unsigned distance(const char *a, const char *b)
{
	unsigned d[MAX_WORD + 1][MAX_WORD + 1];
	size_t m = strlen(a), n = strlen(b);
	for (size_t i = 0; i <= m; i++)
		d[i][0] = (unsigned)i;
	for (size_t j = 0; j <= n; j++)
		d[0][j] = (unsigned)j;
	for (size_t i = 1; i <= m; i++) {
		for (size_t j = 1; j <= n; j++) {
			unsigned change = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
			d[i][j] = smallest(d[i - 1][j] + 1, d[i][j - 1] + 1, change);
			bool swapped =
				i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
			if (swapped && d[i - 2][j - 2] + 1 < d[i][j])
				d[i][j] = d[i - 2][j - 2] + 1;
		}
	}
	return d[m][n];
}

const char *cow_args_nearest(const char *typed, const char *(*word)(const void *ctx, size_t i),
			     const void *ctx)
{
	const char *nearest = NULL, *one;
	size_t len = strlen(typed);
	if (len > MAX_WORD)
		return NULL;
	unsigned best = len < 4 ? 2 : (unsigned)len / 3 + 2; /* must be less */
	for (size_t i = 0; (one = word(ctx, i)) != NULL; i++) {
		if (!*one || strlen(one) > MAX_WORD)
			continue;
		/* Of a word that goes on, the beginning is enough. */
		bool begins = len >= 2 && !strncmp(one, typed, len);
		unsigned d = begins ? 0 : distance(typed, one);
		if (d < best) {
			best = d;
			nearest = one;
		}
	}
	return nearest;
}

/* ---- actions ---- */

static const char *forms; /* argp's args_doc, which a parser does not see */

struct actions {
	char text[256]; /* words, each ended by a NUL */
	const char *words[MAX_ACTIONS + 1];
};

/* The first word of each line, where that is no option and no placeholder. */
static void find_actions(const char *args_doc, struct actions *actions)
{
	size_t nr = 0, used = 0;
	for (const char *line = args_doc; line && nr < MAX_ACTIONS; line = strchr(line, '\n')) {
		line += *line == '\n';
		size_t len = strcspn(line, " \n");
		if (!islower((unsigned char)*line) || used + len >= sizeof(actions->text))
			continue;
		actions->words[nr++] = memcpy(actions->text + used, line, len);
		actions->text[used + len] = '\0';
		used += len + 1;
	}
	actions->words[nr] = NULL;
}

static const char *action_word(const void *ctx, size_t i)
{
	return ((const struct actions *)ctx)->words[i];
}

void cow_args_no_action(const struct argp_state *state, const char *word)
{
	struct actions actions;
	char all[256] = "";
	find_actions(forms, &actions);
	for (size_t i = 0; actions.words[i]; i++) {
		size_t used = strlen(all);
		snprintf(all + used, sizeof(all) - used, "%s%s", i ? ", " : "", actions.words[i]);
	}
	const char *nearest = cow_args_nearest(word, action_word, &actions);
	argp_error(state, "%s: not one of %s%s%s", word, all, nearest ? ": did you mean " : "",
		   nearest ? nearest : "");
}

/* ---- the common options ---- */

enum { KEY_OUTPUT = 0x200, KEY_SHARE = 'U', KEY_PROGRESS = 'p' };

static const struct {
	unsigned take;
	struct argp_option option;
} common[] = {
	{ COW_ARGS_QUIET, { "quiet", 'q', NULL, 0, "Print errors only", 0 } },
	{ COW_ARGS_OUTPUT, { "json", 'j', NULL, 0, "Print JSON", 0 } },
	{ COW_ARGS_OUTPUT,
	  { "output", KEY_OUTPUT, "json|human", 0, "The same, as qemu-img spells it", 0 } },
	{ COW_ARGS_FORMAT,
	  { "format", 'f', "qcow2", 0, "The image's format (-O as well): qcow2, no other", 0 } },
	{ COW_ARGS_FORMAT, { NULL, 'O', "qcow2", OPTION_HIDDEN, NULL, 0 } },
	{ COW_ARGS_SHARE,
	  { "force-share", KEY_SHARE, NULL, 0, "The image may be in use (as it always may)", 0 } },
	{ COW_ARGS_PROGRESS,
	  { "progress", KEY_PROGRESS, NULL, 0, "Show progress (without: on a terminal)", 0 } },
};

struct parse {
	struct cow_args *args;
	unsigned take;
	void *input;
};

static error_t parse_output(struct cow_args *args, const char *arg, struct argp_state *state)
{
	args->json = !strcmp(arg, "json");
	if (!args->json && strcmp(arg, "human"))
		argp_error(state, "--output %s: must be json or human", arg);
	return 0;
}

static error_t parse_format(int key, const char *arg, struct argp_state *state)
{
	if (strcmp(arg, "qcow2"))
		argp_error(state, "-%c %s: only qcow2 images are handled%s", key, arg,
			   !strcmp(arg, "raw") ? ": for a raw one see losetup" : "");
	return 0;
}

/* ---- argp's own errors, in one line as all others ---- */

static struct {
	const char *program;
	FILE *stream; /* what argp says before it ends the process */
	char *text;
	size_t bytes;
} said;

static void tell_said(void)
{
	if (!said.stream || fclose(said.stream) || !said.text[0])
		return;
	size_t n = strlen(said.program);
	const char *text = said.text;
	if (!strncmp(text, said.program, n) && !strncmp(text + n, ": ", 2))
		text += n + 2;
	said.text[strcspn(said.text, "\n")] = '\0';
	if (strstr(text, ": see "))
		cow_cmd_fail("%s", text);
	else
		cow_cmd_fail("%s: see `%s --help`", text, said.program);
}

static void listen_to_argp(const char *program)
{
	said.program = program;
	said.stream = open_memstream(&said.text, &said.bytes);
	if (said.stream)
		atexit(tell_said);
}

static void leave_argp(void)
{
	if (said.stream)
		fclose(said.stream);
	free(said.text);
	said.stream = NULL;
}

static error_t parse_common(int key, char *arg, struct argp_state *state)
{
	struct parse *parse = state->input;
	switch (key) {
	case ARGP_KEY_INIT:
		state->child_inputs[0] = parse->input;
		if (said.stream)
			state->err_stream = said.stream;
		return 0;
	case ARGP_KEY_ARG:
		if (!*arg && !(parse->take & COW_ARGS_EMPTY))
			argp_error(state, "an argument is empty: a name or a size belongs there");
		return ARGP_ERR_UNKNOWN;
	case 'q':
		parse->args->quiet = true;
		return 0;
	case 'j':
		parse->args->json = true;
		return 0;
	case KEY_OUTPUT:
		return parse_output(parse->args, arg, state);
	case 'f':
	case 'O':
		return parse_format(key, arg, state);
	case KEY_SHARE:
		parse->args->share = true;
		return 0;
	case KEY_PROGRESS:
		parse->args->progress = true;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

/* ---- options that nobody knows: found before getopt sees them ---- */

static const char *long_name(const void *ctx, size_t i)
{
	const struct cow_known *known = ctx;
	if (i >= known->nr)
		return NULL;
	return known->options[i].name ? known->options[i].name : "";
}

static int usage_status = COW_EXIT_USAGE;
static bool empty_values; /* Few options have a meaning for an empty one. */

static void refuse(const char *program, const char *what, const char *hint)
{
	cow_cmd_fail("%s: no such option%s%s: see `%s --help`", what,
		     hint ? ": did you mean --" : "", hint ? hint : "", program);
	exit(usage_status);
}

/* What has a short name in no command may have one in another: its long one begins with it. */
static const char *by_letter(const struct cow_known *known, char letter)
{
	for (size_t i = 0; i < known->nr; i++)
		if (known->options[i].name && known->options[i].name[0] == letter)
			return known->options[i].name;
	return NULL;
}

/* value: NULL if there is none. */
static void check_value(const char *program, const char *what, const struct argp_option *o,
			const char *value)
{
	if (value && (*value || empty_values))
		return;
	cow_cmd_fail("%s: %s: %s: see `%s --help`", what,
		     value ? "the value is empty" : "needs a value", o->arg, program);
	exit(usage_status);
}

/* True: the value is the next word. */
static bool scan_long(const struct cow_known *known, const char *program, const char *word,
		      const char *next)
{
	char name[128], what[130];
	size_t len = strcspn(word + 2, "=");
	snprintf(name, sizeof(name), "%.*s", (int)len, word + 2);
	snprintf(what, sizeof(what), "--%s", name);
	const struct argp_option *o = cow_known_long(known, name, strlen(name));
	if (!o)
		refuse(program, what, cow_args_nearest(name, long_name, known));
	if (o && !o->arg && word[2 + len]) {
		cow_cmd_fail("--%s: takes no value: see `%s --help`", o->name, program);
		exit(usage_status);
	}
	if (o && o->arg)
		check_value(program, what, o, word[2 + len] ? word + 3 + len : next);
	return o && o->arg && !word[2 + len];
}

static bool scan_short(const struct cow_known *known, const char *program, const char *word,
		       const char *next)
{
	for (const char *p = word + 1; *p; p++) {
		const struct argp_option *o = cow_known_short(known, *p);
		char what[] = { '-', *p, '\0' };
		if (!o)
			refuse(program, what, by_letter(known, *p));
		if (!o || !o->arg)
			continue;
		check_value(program, what, o, p[1] ? p + 1 : next);
		return !p[1];
	}
	return false;
}

static void scan(const struct cow_known *known, int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		const char *next = i + 1 < argc ? argv[i + 1] : NULL;
		if (argv[i][0] != '-' || !argv[i][1])
			continue;
		i += argv[i][1] == '-' ? scan_long(known, argv[0], argv[i], next)
				       : scan_short(known, argv[0], argv[i], next);
	}
}

/* ---- all ---- */

static bool only_complete;

void cow_args_complete(void)
{
	only_complete = true;
}

void cow_args_parse(const struct argp *argp, unsigned take, int argc, char **argv,
		    struct cow_args *args, void *input)
{
	struct argp_option options[sizeof(common) / sizeof(common[0]) + 1] = { 0 };
	struct argp own = *argp;
	struct argp_child children[] = { { &own, 0, NULL, 0 }, { 0 } };
	struct argp all = { .options = options,
			    .parser = parse_common,
			    .args_doc = argp->args_doc,
			    .doc = argp->doc,
			    .children = children };
	struct parse parse = { .args = args, .take = take, .input = input };
	struct cow_known known = { 0 };
	size_t nr = 0;
	for (size_t i = 0; i < sizeof(common) / sizeof(common[0]); i++)
		if (common[i].take & take)
			options[nr++] = common[i].option;
	forms = argp->args_doc;
	own.args_doc = own.doc = NULL;
	cow_known_add(&known, options);
	cow_known_gather(&known, argp);
	if (only_complete) {
		cow_complete(&known, argp->args_doc, args->values, argc - 1, argv + 1);
		exit(0);
	}
	empty_values = take & COW_ARGS_EMPTY_VALUE;
	if (take & COW_ARGS_OWN_STATUS_2)
		usage_status = 1;
	scan(&known, argc, argv);
	argp_err_exit_status = usage_status;
	listen_to_argp(argv[0]);
	if (argp_parse(&all, argc, argv, 0, NULL, &parse))
		exit(usage_status);
	leave_argp();
}

error_t cow_args_one_image(int key, char *arg, const struct argp_state *state, const char **image)
{
	if (key == ARGP_KEY_ARG && !state->arg_num) {
		*image = arg;
		return 0;
	}
	if (key != ARGP_KEY_END)
		return ARGP_ERR_UNKNOWN;
	if (!*image)
		argp_error(state, "IMAGE is missing");
	return 0;
}
