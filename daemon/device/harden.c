/* SPDX-License-Identifier: MIT */
#include "daemon/device/harden.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/base/log.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

/* As journald and other services that others depend on. */
#define OOM_SCORE "-900"

static void warn(const char *what)
{
	cow_log(COW_LOG_WARNING, "%s: %s", what, strerror(errno));
}

static void spare_from_oom(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, OOM_SCORE, strlen(OOM_SCORE)) < 0)
		warn("oom_score_adj");
	if (fd >= 0)
		close(fd);
}

void cow_harden_memory(void)
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
	if (setrlimit(RLIMIT_MEMLOCK, &unlimited))
		warn("RLIMIT_MEMLOCK");
	/* The caller's limit on its own files would be a full host to the device. */
	if (setrlimit(RLIMIT_FSIZE, &unlimited))
		warn("RLIMIT_FSIZE");
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT))
		warn("mlockall");
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0))
		warn("PR_SET_IO_FLUSHER");
	spare_from_oom();
}

int cow_harden_keep_capabilities(uint64_t keep)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_capget, &header, data))
		return -errno;
	for (unsigned i = 0; i < 2; i++) {
		uint32_t some = (uint32_t)(keep >> 32 * i);
		data[i].effective &= some;
		data[i].permitted &= some;
		data[i].inheritable = 0;
	}
	return syscall(SYS_capset, &header, data) ? -errno : 0;
}

void cow_harden_drop_privileges(void)
{
	const uint64_t keep = 1ull << CAP_SYS_ADMIN | 1ull << CAP_IPC_LOCK | 1ull << CAP_SETUID |
			      1ull << CAP_SETGID | 1ull << CAP_SYS_CHROOT;
	int ret = cow_harden_keep_capabilities(keep);
	if (ret)
		cow_log(COW_LOG_WARNING, "capabilities: %s", strerror(-ret));
}

void cow_harden_close_inherited(void)
{
	if (syscall(SYS_close_range, STDERR_FILENO + 1, ~0u, 0))
		warn("close_range");
}

#define FILES 4096u

void cow_harden_allow_files(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= FILES)
		return;
	struct rlimit wanted = { .rlim_cur = FILES,
				 .rlim_max = limit.rlim_max < FILES ? FILES : limit.rlim_max };
	if (!setrlimit(RLIMIT_NOFILE, &wanted))
		return;
	limit.rlim_cur = limit.rlim_max < FILES ? limit.rlim_max : FILES;
	setrlimit(RLIMIT_NOFILE, &limit);
}
