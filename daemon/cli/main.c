/* SPDX-License-Identifier: MIT */
/* The program: a table of subcommands and nothing else. */
#include "daemon/options/args.h"
#include "daemon/cli/commands.h"
#include "daemon/options/cmd.h"
#include "daemon/options/complete.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define STATUS_NOT_COMPARED 2

struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *argv0;
	const char *summary;
};

static const struct command commands[] = {
	{ "create", cow_cmd_create, "cowblk create", "make a new qcow2 image" },
	{ "attach", cow_cmd_attach, "cowblk attach", "attach an image as a block device" },
	{ "list", cow_cmd_list, "cowblk list", "list attached images" },
	{ "detach", cow_cmd_detach, "cowblk detach",
	  "detach a device, flushing and closing its image" },
	{ "info", cow_cmd_info, "cowblk info", "show what an image says of itself" },
	{ "check", cow_cmd_check, "cowblk check",
	  "check an image for corruption and leaks, or repair it" },
	{ "compare", cow_cmd_compare, "cowblk compare", "compare what two images hold" },
	{ "convert", cow_cmd_convert, "cowblk convert", "copy an image's disk into a new image" },
	{ "commit", cow_cmd_commit, "cowblk commit",
	  "write an image's content into its backing file" },
	{ "rebase", cow_cmd_rebase, "cowblk rebase",
	  "give an image another backing file, or none" },
	{ "map", cow_cmd_map, "cowblk map", "show where an image's content lies" },
	{ "measure", cow_cmd_measure, "cowblk measure", "say how large an image would become" },
	{ "amend", cow_cmd_amend, "cowblk amend",
	  "change an image's format: version, refcounts, backing file, passphrases" },
	{ "resize", cow_cmd_resize, "cowblk resize", "give an image's disk another size" },
	{ "compact", cow_cmd_compact, "cowblk compact",
	  "give an image's free space back, in place" },
	{ "snapshot", cow_cmd_snapshot, "cowblk snapshot",
	  "create, apply, delete or list an image's internal snapshots" },
	{ "bitmap", cow_cmd_bitmap, "cowblk bitmap",
	  "list, change or dump an image's persistent dirty bitmaps" },
};

#define NR_COMMANDS (sizeof(commands) / sizeof(commands[0]))

/* As other tools call the same. */
static const struct {
	const char *theirs, *ours;
} others[] = {
	{ "connect", "attach" },    { "mount", "attach" },     { "open", "attach" },
	{ "disconnect", "detach" }, { "umount", "detach" },    { "close", "detach" },
	{ "ls", "list" },	    { "status", "list" },      { "show", "info" },
	{ "repair", "check" },	    { "fsck", "check" },       { "copy", "convert" },
	{ "grow", "resize" },	    { "sparsify", "compact" },
};

static const char *command_name(const void *ctx, size_t i)
{
	(void)ctx;
	return i < NR_COMMANDS ? commands[i].name : NULL;
}

static const char *meant(const char *word)
{
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if (!strcmp(others[i].theirs, word))
			return others[i].ours;
	return cow_args_nearest(word, command_name, NULL);
}

static void print_help(FILE *out)
{
	fputs("Usage: cowblk COMMAND [OPTION...] [ARGUMENT...]\n"
	      "Attach qcow2 images as Linux block devices.\n\nCommands:\n",
	      out);
	for (size_t i = 0; i < NR_COMMANDS; i++)
		fprintf(out, "  %-8s %s\n", commands[i].name, commands[i].summary);
	fputs("\nOptions:\n"
	      "  --help     show this text; `cowblk COMMAND --help` shows the command's options,\n"
	      "             `man cowblk-COMMAND` says more of them\n"
	      "  --version  show the version\n",
	      out);
}

static const struct command *find_command(const char *name)
{
	for (size_t i = 0; i < NR_COMMANDS; i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
}

/* For the shells: see complete.h. The last word is the one at the cursor. */
static int complete(int nr, char **words)
{
	for (size_t i = 0; i < NR_COMMANDS && nr == 1; i++)
		cow_complete_offer(words[0], commands[i].name, commands[i].summary);
	if (nr == 1 && words[0][0] == '-') {
		cow_complete_offer(words[0], "--help", "list the commands");
		cow_complete_offer(words[0], "--version", "show the version");
	}
	const struct command *command = nr > 1 ? find_command(words[0]) : NULL;
	if (!command) {
		puts("none 0");
		return 0;
	}
	cow_args_complete();
	return command->run(nr, words);
}

/* An image opened under the number of a stream that was closed would get that stream's text. */
static void fill_standard_streams(void)
{
	int fd;
	while ((fd = open("/dev/null", O_RDONLY)) >= 0 && fd <= STDERR_FILENO)
		;
	if (fd >= 0)
		close(fd);
}

int main(int argc, char **argv)
{
	fill_standard_streams();
	/* A file that may not become longer is an error like a full host: it must end nobody. */
	signal(SIGXFSZ, SIG_IGN);
	if (argc < 2) {
		print_help(stderr);
		return COW_EXIT_USAGE;
	}
	const char *word = argv[1];
	if (!strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help")) {
		print_help(stdout);
		return 0;
	}
	if (!strcmp(word, "--version") || !strcmp(word, "-V")) {
		puts("cowblk " COW_VERSION);
		return 0;
	}
	if (!strcmp(word, "complete"))
		return complete(argc - 2, argv + 2);
	const struct command *command = find_command(word);
	if (!command) {
		const char *nearest = meant(word);
		cow_cmd_fail("%s: no such command%s%s: see `cowblk --help`", word,
			     nearest ? ": did you mean " : "", nearest ? nearest : "");
		return COW_EXIT_USAGE;
	}
	char *name = strdup(command->argv0);
	if (!name)
		return cow_cmd_fail("out of memory");
	argv[1] = name;
	int status = command->run(argc - 1, argv + 1);
	bool failed = fflush(stdout) || ferror(stdout);
	if (failed)
		status = cow_cmd_fail("standard output: cannot write");
	/* Of that one's statuses 1 says that they differ. */
	return failed && command->run == cow_cmd_compare ? STATUS_NOT_COMPARED : status;
}
