/* SPDX-License-Identifier: MIT */
/*
 * See sandbox.h. In this order: landlock: by hand, its header may be older than the kernel;
 * capabilities; the user; the root; all.
 */
#include "daemon/device/sandbox.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "daemon/device/harden.h"
#include "daemon/device/seccomp.h"
#include "engine/base/log.h"

#define USER "cowblk"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* ---- landlock: by hand, its header may be older than the kernel ---- */

struct ruleset {
	uint64_t fs, net, scoped;
};

#define CREATE_RULESET_VERSION 1u
#define NET_TCP 0x3u
#define SCOPE_ABSTRACT_SOCKET 0x1u

/* By ABI version: how many rights of files there are, and how much of the struct is known. */
static int make_ruleset(void)
{
	static const uint8_t rights[] = { 0, 13, 14, 15, 15, 16 };
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, CREATE_RULESET_VERSION);
	if (abi < 1)
		return -1;
	size_t known = sizeof(rights) - 1;
	unsigned nr = rights[(size_t)abi < known ? (size_t)abi : known];
	const struct ruleset ruleset = {
		.fs = (1ull << nr) - 1,
		.net = NET_TCP,
		.scoped = SCOPE_ABSTRACT_SOCKET,
	};
	size_t bytes = abi >= 6 ? 24 : abi >= 4 ? 16 : 8;
	return (int)syscall(SYS_landlock_create_ruleset, &ruleset, bytes, 0);
}

static int restrict_files(const struct cow_sandbox *sandbox)
{
	if (sandbox->ruleset_fd < 0)
		return -EOPNOTSUPP;
	return syscall(SYS_landlock_restrict_self, sandbox->ruleset_fd, 0) ? -errno : 0;
}

/* ---- capabilities ---- */

/* Memory is locked under a limit unless CAP_IPC_LOCK or no limit stands above it. */
static uint64_t needed_capabilities(void)
{
	struct rlimit limit;
	bool unlimited = !getrlimit(RLIMIT_MEMLOCK, &limit) && limit.rlim_cur == RLIM_INFINITY;
	return unlimited ? 0 : 1ull << CAP_IPC_LOCK;
}

/* ---- the user ---- */

/* From the file itself: services that know of users may need the very disk that is being attached. */
static void find_user(struct cow_sandbox *sandbox)
{
	FILE *f = fopen("/etc/passwd", "re");
	struct passwd *user;
	while (f && (user = fgetpwent(f)))
		if (!strcmp(user->pw_name, USER) && user->pw_uid && user->pw_gid) {
			sandbox->has_user = true;
			sandbox->uid = user->pw_uid;
			sandbox->gid = user->pw_gid;
			break;
		}
	if (f)
		fclose(f);
	if (!sandbox->has_user)
		strcpy(sandbox->kept, "/etc/passwd has no user " USER);
}

/* By system call, since the C library's functions are for all threads. Core dumps stay as they were. */
int cow_sandbox_become_user(const struct cow_sandbox *sandbox)
{
	if (!sandbox->has_user)
		return -ENOENT;
	if (needed_capabilities())
		return -EPERM; /* another user would lose it */
	int dumpable = prctl(PR_GET_DUMPABLE);
	if (syscall(SYS_setgroups, 0, NULL) ||
	    syscall(SYS_setresgid, sandbox->gid, sandbox->gid, sandbox->gid) ||
	    syscall(SYS_setresuid, sandbox->uid, sandbox->uid, sandbox->uid))
		return -errno;
	if (dumpable == 1)
		prctl(PR_SET_DUMPABLE, 1);
	return 0;
}

/* ---- the root ---- */

static int empty_root(const char *run_dir)
{
	char path[128];
	snprintf(path, sizeof(path), "%s/empty-XXXXXX", run_dir);
	if (!mkdtemp(path))
		return -errno;
	int ret = chdir(path) ? -errno : 0;
	/* Gone before it is used: nothing can be made in it any more. */
	if (rmdir(path) && !ret)
		ret = -errno;
	if (!ret && (chroot(".") || chdir("/")))
		ret = -errno;
	return ret;
}

/* ---- all ---- */

void cow_sandbox_prepare(struct cow_sandbox *sandbox)
{
	*sandbox = (struct cow_sandbox){ .ruleset_fd = -1 };
	if (SANITIZED)
		return;
	sandbox->ruleset_fd = make_ruleset();
	find_user(sandbox);
	/* More threads of the kernel's for a ring than a user may have. */
	if (sandbox->has_user)
		setrlimit(RLIMIT_NPROC, &(struct rlimit){ RLIM_INFINITY, RLIM_INFINITY });
}

void cow_sandbox_enter_thread(const struct cow_sandbox *sandbox)
{
	if (SANITIZED)
		return;
	/* What landlock asks for, where CAP_SYS_ADMIN has gone with the user. */
	int ret = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? -errno : 0;
	int user = sandbox->has_user ? cow_sandbox_become_user(sandbox) : 0;
	int files = sandbox->ruleset_fd >= 0 ? restrict_files(sandbox) : 0;
	int caps = cow_harden_keep_capabilities(needed_capabilities());
	ret = ret ? ret : user ? user : files ? files : caps;
	if (ret)
		cow_log(COW_LOG_WARNING, "a thread keeps privileges: %s", strerror(-ret));
}

static void note(struct cow_sandbox *sandbox, const char *what, int ret)
{
	if (ret) {
		cow_log(COW_LOG_INFO, "not given up: %s: %s", what, strerror(-ret));
		return;
	}
	size_t len = strlen(sandbox->text);
	snprintf(sandbox->text + len, sizeof(sandbox->text) - len, "%s%s", len ? ", " : "", what);
}

void cow_sandbox_enter(struct cow_sandbox *sandbox, const char *run_dir)
{
	if (SANITIZED)
		return;
	tzset(); /* the log's: the time zone is a file */
	note(sandbox, "root", empty_root(run_dir));
	if (sandbox->has_user)
		note(sandbox, "user", cow_sandbox_become_user(sandbox));
	else
		cow_log(COW_LOG_INFO, "not given up: user: %s", sandbox->kept);
	note(sandbox, "files", restrict_files(sandbox));
	if (sandbox->ruleset_fd >= 0)
		close(sandbox->ruleset_fd);
	note(sandbox, "capabilities", cow_harden_keep_capabilities(needed_capabilities()));
	note(sandbox, "system calls", cow_seccomp_enter());
	cow_log(COW_LOG_DEBUG, "given up: %s", sandbox->text);
}
