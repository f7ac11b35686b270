/* SPDX-License-Identifier: MIT */
/*
 * A process with exactly what is left to a daemon whose device is live tries to get hold of something
 * new, once behind all walls and once behind each that can stand alone; then what a daemon does must
 * still be possible. As root: as another user only some of the walls can be put up.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <malloc.h>
#include <poll.h>
#include <stdatomic.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/device/harden.h"
#include "daemon/device/sandbox.h"
#include "engine/loop/loop_uring.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

static char dir[64];
static pid_t parent;

/*
 * ---- what must not work: each returns what its system call did, and does no harm where it is let
 * through ----
 */

static long try_open(void)
{
	return open("/etc/passwd", O_RDONLY);
}

static long try_openat_beside(void)
{
	return openat(AT_FDCWD, "..", O_RDONLY | O_DIRECTORY);
}

static long try_openat2(void)
{
	struct open_how how = { .flags = O_PATH };
	return syscall(SYS_openat2, AT_FDCWD, "/", &how, sizeof(how));
}

static long try_create(void)
{
	return open("new", O_RDWR | O_CREAT, 0600);
}

static long try_mkdir(void)
{
	return mkdir("new", 0700);
}

static long try_unlink(void)
{
	return unlink("/nowhere/cow-test");
}

static long try_internet(void)
{
	return socket(AF_INET, SOCK_STREAM, 0);
}

static long try_unix(void)
{
	return socket(AF_UNIX, SOCK_STREAM, 0);
}

static long try_exec(void)
{
	char *none[] = { NULL };
	return execve("/bin/true", none, none);
}

static long try_fork(void)
{
	pid_t pid = fork();
	if (!pid)
		_exit(0);
	return pid;
}

static long try_ptrace(void)
{
	return ptrace(PTRACE_PEEKDATA, parent, NULL, NULL);
}

static long try_memory_of_another(void)
{
	char c;
	struct iovec here = { &c, 1 }, there = { &parent, 1 };
	return syscall(SYS_process_vm_readv, parent, &here, 1, &there, 1, 0);
}

static long try_kill(void)
{
	return kill(parent, 0);
}

static long try_pidfd(void)
{
	return syscall(SYS_pidfd_open, parent, 0);
}

static long try_tgkill(void)
{
	return syscall(SYS_tgkill, parent, parent, 0);
}

static long try_mount(void)
{
	return mount("none", "/nowhere/cow-test", "tmpfs", 0, NULL);
}

static long try_unshare(void)
{
	return unshare(CLONE_NEWUSER);
}

static long try_setuid(void)
{
	return syscall(SYS_setresuid, 1, 1, 1);
}

static long try_bpf(void)
{
	return syscall(SYS_bpf, 0, NULL, 0);
}

static long try_perf(void)
{
	return syscall(SYS_perf_event_open, NULL, 0, -1, -1, 0);
}

static long try_ring(void)
{
	struct io_uring_params p = { 0 };
	return syscall(SYS_io_uring_setup, 4, &p);
}

static long try_code(void)
{
	return (long)mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static long try_by_handle(void)
{
	return syscall(SYS_open_by_handle_at, AT_FDCWD, dir, O_RDONLY);
}

static long try_keyring(void)
{
	return syscall(SYS_keyctl, 0, -3, 1);
}

static long try_reboot(void)
{
	return syscall(SYS_reboot, 0, 0, 0, NULL);
}

static long try_memfd(void)
{
	return syscall(SYS_memfd_create, "x", 0);
}

static long try_limit(void)
{
	return setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
}

static long try_terminal(void)
{
	return ioctl(STDERR_FILENO, TIOCSTI, "x");
}

static long try_send_to_path(void)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX, .sun_path = "/dev/log" };
	return sendto(STDIN_FILENO, "x", 1, 0, (struct sockaddr *)&to, sizeof(to));
}

static const struct {
	const char *name;
	long (*run)(void);
} forbidden[] = {
	{ "open", try_open },
	{ "open beside", try_openat_beside },
	{ "openat2", try_openat2 },
	{ "create", try_create },
	{ "mkdir", try_mkdir },
	{ "unlink", try_unlink },
	{ "internet", try_internet },
	{ "unix socket", try_unix },
	{ "execve", try_exec },
	{ "fork", try_fork },
	{ "ptrace", try_ptrace },
	{ "process_vm_readv", try_memory_of_another },
	{ "kill", try_kill },
	{ "pidfd_open", try_pidfd },
	{ "tgkill", try_tgkill },
	{ "mount", try_mount },
	{ "unshare", try_unshare },
	{ "setresuid", try_setuid },
	{ "bpf", try_bpf },
	{ "perf_event_open", try_perf },
	{ "io_uring_setup", try_ring },
	{ "executable memory", try_code },
	{ "open_by_handle_at", try_by_handle },
	{ "keyctl", try_keyring },
	{ "reboot", try_reboot },
	{ "memfd_create", try_memfd },
	{ "setrlimit", try_limit },
	{ "TIOCSTI", try_terminal },
	{ "sendto a path", try_send_to_path },
};

static int try_forbidden(void)
{
	int nr = 0;
	for (size_t i = 0; i < sizeof(forbidden) / sizeof(forbidden[0]); i++) {
		errno = 0;
		if (forbidden[i].run() < 0 && (errno == EPERM || errno == ENOSYS))
			continue;
		fprintf(stderr, "%s: let through (%s)\n", forbidden[i].name, strerror(errno));
		nr++;
	}
	return nr;
}

/* ---- what must go on working ---- */

struct given {
	int file, pair[2], event;
	struct cow_loop *loop;
	struct cow_sandbox sandbox;
	pthread_t early;
};

static void *in_thread(void *arg)
{
	void *big = malloc(64 << 20); /* an arena of its own, then mmap */
	memset(big, 1, 64 << 20);
	free(big);
	malloc_trim(0);
	*(bool *)arg = open("/etc/passwd", O_RDONLY) < 0 && errno == EPERM;
	return NULL;
}

static bool thread_works(void)
{
	bool refused = false;
	pthread_t thread;
	if (pthread_create(&thread, NULL, in_thread, &refused))
		return false;
	pthread_setname_np(thread, "late");
	pthread_join(thread, NULL);
	return refused;
}

static bool file_works(int fd)
{
	char buf[512] = "text";
	struct statx stx;
	struct stat st;
	struct flock lock = { .l_type = F_RDLCK, .l_len = 1 };
	struct iovec iov = { buf, sizeof(buf) };
	return pwrite(fd, buf, 512, 0) == 512 && pread(fd, buf, 512, 0) == 512 &&
	       pwritev(fd, &iov, 1, 512) == 512 && preadv(fd, &iov, 1, 512) == 512 && !fsync(fd) &&
	       !fdatasync(fd) && !ftruncate(fd, 1 << 20) && !fstat(fd, &st) &&
	       !statx(fd, "", AT_EMPTY_PATH, STATX_SIZE, &stx) && fcntl(fd, F_GETFL) >= 0 &&
	       !fcntl(fd, F_OFD_SETLK, &lock) && !posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) &&
	       (!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) ||
		errno == EOPNOTSUPP) &&
	       lseek(fd, 0, SEEK_DATA) >= -1 && errno != EPERM;
}

static bool memory_works(void)
{
	size_t bytes = 1 << 20;
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED || (mlock(p, 4096) && errno == EPERM) || munlock(p, 4096))
		return false;
	p = mremap(p, bytes, 2 * bytes, MREMAP_MAYMOVE);
	return p != MAP_FAILED && !madvise(p, bytes, MADV_DONTNEED) &&
	       !madvise(p, bytes, MADV_DONTDUMP) && !mprotect(p, 4096, PROT_READ) &&
	       !munmap(p, 2 * bytes);
}

static bool time_works(void)
{
	struct timespec ts, nap = { .tv_nsec = 1000 };
	struct timeval tv;
	struct tm tm;
	time_t now = time(NULL);
	char random[16];
	return !clock_gettime(CLOCK_MONOTONIC, &ts) && !gettimeofday(&tv, NULL) &&
	       localtime_r(&now, &tm) && !nanosleep(&nap, NULL) &&
	       getrandom(random, sizeof(random), 0) == sizeof(random) && !sched_yield() &&
	       sysconf(_SC_NPROCESSORS_ONLN) > 0;
}

static bool messages_work(const struct given *given)
{
	uint64_t one = 1;
	char c;
	struct pollfd p = { .fd = given->pair[1], .events = POLLIN };
	syslog(LOG_DEBUG, "cowblk's unit test of its sandbox");
	return send(given->pair[0], "x", 1, MSG_NOSIGNAL) == 1 && poll(&p, 1, 1000) == 1 &&
	       recv(given->pair[1], &c, 1, MSG_PEEK) == 1 && recv(given->pair[1], &c, 1, 0) == 1 &&
	       write(given->event, &one, sizeof(one)) == sizeof(one) &&
	       read(given->event, &one, sizeof(one)) == sizeof(one);
}

static void nop_done(struct cow_completion *completion, int res, unsigned flags)
{
	*(bool *)(completion + 1) = true;
}

static bool ring_works(const struct given *given)
{
	struct {
		struct cow_completion completion;
		bool done;
	} nop = { .completion.fn = nop_done };
	if (!given->loop)
		return true;
	io_uring_prep_nop(cow_uring_sqe(given->loop, &nop.completion));
	return !cow_loop_run_until(given->loop, &nop.done);
}

/* The number of the first that does not, or 0. */
static int try_allowed(const struct given *given)
{
	if (!thread_works())
		return 1;
	if (!file_works(given->file))
		return 2;
	if (!memory_works())
		return 3;
	if (!time_works())
		return 4;
	if (!messages_work(given))
		return 5;
	return ring_works(given) ? 0 : 6;
}

/* ---- the confined process ---- */

static void give(struct given *given)
{
	char path[96];
	snprintf(path, sizeof(path), "%s/file", dir);
	given->file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(given->file >= 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, given->pair), 0);
	given->event = eventfd(0, 0);
	openlog("cowblk-test", LOG_NDELAY, LOG_DAEMON);
	if (cow_loop_uring_new(8, &given->loop))
		given->loop = NULL;
	else
		cow_loop_enter(given->loop);
	assert_true(ring_works(given)); /* enables it */
}

static atomic_bool early_entered, entered;

/* Like a queue's: there before the end, and held to it all the same. */
static void *early_main(void *arg)
{
	const struct given *given = arg;
	cow_sandbox_enter_thread(&given->sandbox);
	atomic_store(&early_entered, true);
	while (!atomic_load(&entered))
		usleep(1000);
	return (void *)(intptr_t)try_forbidden();
}

static int confined(struct given *given)
{
	void *early;
	give(given);
	cow_sandbox_prepare(&given->sandbox);
	if (pthread_create(&given->early, NULL, early_main, given))
		return 101;
	while (!atomic_load(&early_entered))
		usleep(1000);
	cow_sandbox_enter(&given->sandbox, dir);
	if (!strstr(given->sandbox.text, "system calls"))
		return 104;
	atomic_store(&entered, true);
	pthread_join(given->early, &early);
	if (early)
		return 102;
	if (try_forbidden())
		return 103;
	return try_allowed(given);
}

static int status_of(int (*run)(struct given *given))
{
	struct given given = { 0 };
	int status;
	fflush(NULL);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(run(&given));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void test_nothing_new(void **state)
{
	if (SANITIZED || prctl(PR_GET_SECCOMP) < 0)
		skip(); /* a kernel without filters: not all is promised */
	assert_int_equal(status_of(confined), 0);
}

/* ---- abort() ends it as it ends others ---- */

static int aborts(struct given *given)
{
	setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
	cow_sandbox_prepare(&given->sandbox);
	cow_sandbox_enter(&given->sandbox, dir);
	abort();
}

static void test_abort(void **state)
{
	if (SANITIZED)
		skip();
	assert_int_equal(status_of(aborts), -SIGABRT);
}

/* ---- without seccomp: files behind landlock, capabilities and the root ---- */

static int without_seccomp(struct given *given)
{
	cow_sandbox_prepare(&given->sandbox);
	if (given->sandbox.ruleset_fd < 0)
		return 2;
	if (cow_harden_keep_capabilities(0))
		return 1;
	cow_sandbox_enter_thread(&given->sandbox);
	return open("/etc/passwd", O_RDONLY) >= 0 || errno != EACCES ||
	       open("/", O_DIRECTORY) >= 0 || mkdir("/tmp/cow-test-sandbox-new", 0700) == 0 ||
	       errno != EACCES || try_exec() >= 0 || errno != EACCES;
}

static void test_landlock_alone(void **state)
{
	/* Its version; what a kernel answers that does not have it: ENOSYS, or EOPNOTSUPP if off. */
	if (SANITIZED || syscall(SYS_landlock_create_ruleset, NULL, 0, 1) < 1)
		skip();
	assert_int_equal(status_of(without_seccomp), 0);
}

static int empty_root(struct given *given)
{
	given->sandbox = (struct cow_sandbox){ .ruleset_fd = -1 };
	cow_sandbox_enter(&given->sandbox, dir);
	if (!strstr(given->sandbox.text, "root"))
		return 1;
	/* Not opened, which fails anyway: whether the path leads anywhere. */
	struct stat st;
	return !stat("/etc", &st) || errno != ENOENT || !stat("../../etc", &st) ? 2 : 0;
}

static void test_empty_root(void **state)
{
	if (SANITIZED || geteuid())
		skip();
	assert_int_equal(status_of(empty_root), 0);
}

static int setup(void **state)
{
	strcpy(dir, "/tmp/cow-test-sandbox-XXXXXX");
	parent = getpid();
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	char path[96];
	snprintf(path, sizeof(path), "%s/file", dir);
	unlink(path);
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nothing_new),
		cmocka_unit_test(test_abort),
		cmocka_unit_test(test_landlock_alone),
		cmocka_unit_test(test_empty_root),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
