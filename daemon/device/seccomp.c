/* SPDX-License-Identifier: MIT */
/* See seccomp.h. */
#include "daemon/device/seccomp.h"

#include <errno.h>
#include <linux/fs.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif

#define CALL(name) SCMP_SYS(name)

/* Whatever their arguments. */
static const int calls[] = {
	/* files that are open */
	CALL(read),
	CALL(write),
	CALL(pread64),
	CALL(pwrite64),
	CALL(readv),
	CALL(writev),
	CALL(preadv),
	CALL(pwritev),
	CALL(preadv2),
	CALL(pwritev2),
	CALL(fsync),
	CALL(fdatasync),
	CALL(sync),
	CALL(sync_file_range),
	CALL(fallocate),
	CALL(ftruncate),
	CALL(fadvise64),
	CALL(lseek),
	CALL(fstat),
	CALL(newfstatat),
	CALL(statx),
	CALL(fcntl),
	CALL(close),
	CALL(close_range),
	CALL(io_uring_enter),
	CALL(eventfd2),
	CALL(timerfd_create),
	CALL(timerfd_settime),
	CALL(signalfd4),
	/* clients */
	CALL(accept),
	CALL(accept4),
	CALL(recvfrom),
	CALL(recvmsg),
	CALL(sendmsg),
	CALL(shutdown),
	CALL(getsockopt),
	CALL(setsockopt),
	CALL(getsockname),
	CALL(getpeername),
	CALL(poll),
	CALL(ppoll),
	CALL(epoll_create1),
	CALL(epoll_ctl),
	CALL(epoll_wait),
	CALL(epoll_pwait),
	/* memory */
	CALL(brk),
	CALL(munmap),
	CALL(mremap),
	CALL(madvise),
	CALL(mlock),
	CALL(mlock2),
	CALL(munlock),
	CALL(mincore),
	CALL(membarrier),
	/* threads and signals */
	CALL(futex),
	CALL(set_robust_list),
	CALL(rseq),
	CALL(sched_yield),
	CALL(sched_getaffinity),
	CALL(sched_setaffinity),
	CALL(getcpu),
	CALL(exit),
	CALL(exit_group),
	CALL(rt_sigaction),
	CALL(rt_sigprocmask),
	CALL(rt_sigreturn),
	CALL(rt_sigpending),
	CALL(rt_sigtimedwait),
	CALL(sigaltstack),
	CALL(restart_syscall),
	/* time, numbers, who am I */
	CALL(clock_gettime),
	CALL(clock_getres),
	CALL(clock_nanosleep),
	CALL(nanosleep),
	CALL(gettimeofday),
	CALL(time),
	CALL(getrandom),
	CALL(getpid),
	CALL(gettid),
	CALL(getuid),
	CALL(geteuid),
	CALL(getgid),
	CALL(getegid),
	CALL(getrusage),
	CALL(sysinfo),
	CALL(uname),
};

/* One argument must be as said. */
static const struct {
	int call;
	struct scmp_arg_cmp arg;
} bounded[] = {
	/* No new code. */
	{ CALL(mmap), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0) },
	{ CALL(mprotect), SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0) },
	/* Threads, not processes. */
	{ CALL(clone), SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD) },
	/* On a connection, not to an address. */
	{ CALL(sendto), SCMP_A4(SCMP_CMP_EQ, 0) },
	/* Limits are asked, not set. */
	{ CALL(prlimit64), SCMP_A2(SCMP_CMP_EQ, 0) },
	{ CALL(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_NAME) },
	{ CALL(prctl), SCMP_A0(SCMP_CMP_EQ, PR_SET_VMA) },
	{ CALL(prctl), SCMP_A0(SCMP_CMP_EQ, PR_GET_DUMPABLE) },
	{ CALL(ioctl), SCMP_A1(SCMP_CMP_EQ, BLKGETSIZE64) },
	{ CALL(ioctl), SCMP_A1(SCMP_CMP_EQ, BLKSSZGET) },
	{ CALL(ioctl), SCMP_A1(SCMP_CMP_EQ, FIONREAD) },
};

static int add_rules(scmp_filter_ctx filter)
{
	int ret = 0;
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]) && !ret; i++)
		/* Negative: another architecture's. */
		ret = calls[i] < 0 ? 0 : seccomp_rule_add(filter, SCMP_ACT_ALLOW, calls[i], 0);
	for (size_t i = 0; i < sizeof(bounded) / sizeof(bounded[0]) && !ret; i++)
		ret = seccomp_rule_add(filter, SCMP_ACT_ALLOW, bounded[i].call, 1, bounded[i].arg);
	/* abort() and raise(): to ourselves. */
	if (!ret)
		ret = seccomp_rule_add(filter, SCMP_ACT_ALLOW, CALL(tgkill), 1,
				       SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));
	/* Its flags are out of a filter's sight: libraries go on with clone(). */
	if (!ret)
		ret = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), CALL(clone3), 0);
	return ret;
}

int cow_seccomp_enter(void)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	if (!filter)
		return -ENOMEM;
	int ret = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_ERRNO(ENOSYS));
	if (!ret)
		ret = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
	if (!ret)
		ret = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	/* Kernels before 4.14 cannot log. */
	seccomp_attr_set(filter, SCMP_FLTATR_CTL_LOG, 1);
	if (!ret)
		ret = add_rules(filter);
	if (!ret)
		ret = seccomp_load(filter);
	seccomp_release(filter);
	return ret;
}
