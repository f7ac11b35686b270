/* SPDX-License-Identifier: MIT */
#include "daemon/holders/fsfreeze.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/holders/fsowner.h"

/* What the owner may take beyond its limit to say so. */
#define GRACE_MS 15000
#define WORD_AFTER_MS 2000

static void drop(struct cow_fsfreeze *f)
{
	if (f->trying >= 0)
		close(f->trying);
	f->trying = -1;
}

static void keep(struct cow_fsfreeze *f)
{
	if (f->trying < 0 || f->nr == COW_FSFREEZE_MAX) {
		drop(f);
		return;
	}
	f->fds[f->nr++] = f->trying;
	f->trying = -1;
}

static void forget(struct cow_fsfreeze *f)
{
	drop(f);
	while (f->nr)
		close(f->fds[--f->nr]);
}

/* The next message but notes; a word when that takes long. */
static int hear(struct cow_fsfreeze *f, unsigned limit_ms, const char *at, char *text)
{
	int fd;
	for (unsigned waited = 0;;) {
		unsigned ms = waited + WORD_AFTER_MS > limit_ms ? limit_ms - waited : WORD_AFTER_MS;
		int ret = cow_child_receive(f->owner.fd, (int)ms, text, &fd);
		if (ret == -ETIMEDOUT && !waited)
			f->say(at);
		if (ret == -ETIMEDOUT && (waited += ms) < limit_ms)
			continue;
		if (ret)
			return ret;
		if (text[0] == 'f')
			f->trying = fd;
		else if (text[0] == 'z')
			keep(f);
		else
			drop(f);
		if (text[0] == 'n' || text[0] == 'z')
			f->say(text + 1);
		else if (text[0] != 'f')
			return 0;
	}
}

/*
 * The owner was killed: what it had frozen is thawed from here, by a process, since that may never
 * return.
 */
static void thaw_for_owner(struct cow_fsfreeze *f)
{
	struct cow_child child;
	char text[COW_CHILD_TEXT_BYTES];
	keep(f);
	if (!f->nr || cow_child_start(&child, "cowblk-thaw", cow_fsowner_thaw_run, NULL))
		return;
	for (unsigned i = 0; i < f->nr; i++)
		COW_IGNORE(cow_child_send(child.fd, "f", f->fds[i]));
	COW_IGNORE(cow_child_send(child.fd, "T", -1));
	COW_IGNORE(cow_child_receive(child.fd, GRACE_MS, text, NULL));
	cow_child_leave(&child);
}

static int owner_failed(struct cow_fsfreeze *f, int ret, const char *text, struct cow_error *err)
{
	if (!ret && text[0] == 'E') {
		ret = cow_error_set(err, -ENOENT, "no file system on it is mounted");
	} else if (!ret && text[0] == 'e') {
		ret = cow_error_set(err, -EIO, "%s", text + 1);
	} else if (!ret && text[0] == 'x') {
		ret = cow_error_set(err, -ETIMEDOUT,
				    "the file systems were thawed after %u s, before it was done",
				    f->limit_ms / 1000);
	} else if (ret == -ETIMEDOUT) {
		cow_error_set(err, ret,
			      "a file system does not answer: given up; process %d thaws what is "
			      "frozen as soon as it can",
			      f->owner.pid);
	} else {
		thaw_for_owner(f);
		ret = ret ? ret : -EIO;
		cow_error_set(err, ret, "the process that freezes has died");
	}
	cow_fsfreeze_leave(f);
	return ret;
}

int cow_fsfreeze_prepare(struct cow_fsfreeze *f, const char *disk, unsigned sync_ms,
			 unsigned limit_ms, pid_t server, void (*say)(const char *text),
			 struct cow_error *err)
{
	struct cow_fsowner config = { .disk = disk, .limit_ms = limit_ms, .server = server };
	char text[COW_CHILD_TEXT_BYTES];
	*f = (struct cow_fsfreeze){ .limit_ms = limit_ms, .trying = -1, .say = say };
	int ret = cow_child_start(&f->owner, "cowblk-freeze", cow_fsowner_run, &config);
	if (ret)
		return cow_error_set(err, ret, "fork: %s", strerror(-ret));
	ret = hear(f, sync_ms, "writing the file systems on it back", text);
	return !ret && text[0] == 'd' ? 0 : owner_failed(f, ret, text, err);
}

int cow_fsfreeze_freeze(struct cow_fsfreeze *f, struct cow_error *err)
{
	char text[COW_CHILD_TEXT_BYTES] = "";
	int ret = cow_child_send(f->owner.fd, "F", -1);
	if (!ret)
		ret = hear(f, f->limit_ms + GRACE_MS, "freezing", text);
	return !ret && text[0] == 'd' ? 0 : owner_failed(f, ret, text, err);
}

int cow_fsfreeze_thaw(struct cow_fsfreeze *f, struct cow_error *err)
{
	char text[COW_CHILD_TEXT_BYTES] = "";
	COW_IGNORE(cow_child_send(f->owner.fd, "T", -1));
	int ret = hear(f, GRACE_MS, "thawing", text);
	if (ret || text[0] != 'd')
		return owner_failed(f, ret, text, err);
	cow_fsfreeze_leave(f);
	return 0;
}

void cow_fsfreeze_leave(struct cow_fsfreeze *f)
{
	forget(f);
	cow_child_leave(&f->owner);
}
