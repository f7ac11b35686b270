/* SPDX-License-Identifier: MIT */
/*
 * What an image may have opened, where somebody else owns its folder: names that lead out, links,
 * pipes, hard links, and names that are exchanged between the look and the opening.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/create/create.h"
#include "engine/host/path.h"
#include "engine/host/system.h"
#include "engine/life/image.h"
#include "engine/loop/loop.h"
#include "engine/loop/loop_plain.h"
#include "engine/request/queue.h"
#include "engine/request/kind.h"

#define DISK_BYTES (1u << 20)
#define STRANGER 12345

static char top[64];
static struct cow_loop *loop;

/* ---- files ---- */

static void must_run(const char *fmt, ...)
{
	char command[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	if (system(command))
		fail_msg("%s", command);
}

/* The test's folder: "in" is the image's and a stranger's, "out" is what it must not get at. */
static int setup(void **state)
{
	strcpy(top, "/tmp/cow-test-trust-XXXXXX");
	assert_non_null(mkdtemp(top));
	assert_int_equal(chdir(top), 0);
	must_run("chmod 755 . && mkdir in in/sub out && head -c %u /dev/zero | tr '\\0' S > "
		 "out/secret && "
		 "head -c %u /dev/zero | tr '\\0' B > in/base && cp in/base in/sub/base",
		 DISK_BYTES, DISK_BYTES);
	assert_int_equal(cow_loop_plain_new(&loop), 0);
	return 0;
}

static int teardown(void **state)
{
	cow_loop_free(loop);
	assert_int_equal(chdir("/"), 0);
	must_run("rm -rf %s", top);
	return 0;
}

static void make(const char *name, const struct cow_create_options *options)
{
	struct cow_create_options o = *options;
	struct cow_error err = { 0 };
	o.size_bytes = DISK_BYTES;
	o.has_size = o.overwrite = true;
	if (cow_create(cow_host_system(), loop, name, &o, &err))
		fail_msg("%s", err.text);
}

static void make_over(const char *name, const char *backing)
{
	make(name, &(struct cow_create_options){
			   .backing_file = backing, .backing_format = "raw", .unsafe = true });
}

/* An image that says that its data lie in `data`, which is left as it was. */
static void make_with_data(const char *name, const char *data)
{
	const struct cow_create_options o = { .data_file = "fresh-data-file" };
	size_t n = strlen("fresh-data-file");
	char text[4096], *at = NULL;
	make(name, &o);
	FILE *f = fopen(name, "r+");
	assert_int_equal(fread(text, 1, sizeof(text), f), sizeof(text));
	for (size_t i = 0; i + n < sizeof(text) && !at; i++)
		at = memcmp(text + i, "fresh-data-file", n) ? NULL : text + i;
	assert_non_null(at);
	assert_true(strlen(data) <= n);
	memset(at, 0, n);
	memcpy(at, data, strlen(data));
	at[-1] = (char)strlen(data); /* the extension's length, big-endian */
	rewind(f);
	assert_int_equal(fwrite(text, 1, sizeof(text), f), sizeof(text));
	assert_int_equal(fclose(f), 0);
}

/* ---- opening ---- */

static int open_in(struct cow_host *host, const char *name, const struct cow_open_options *options,
		   struct cow_image **image, struct cow_error *err)
{
	*err = (struct cow_error){ 0 };
	*image = NULL;
	return cow_image_open(host, loop, name, options, image, err);
}

/* The first byte of the disk; 0 on failure of the open, which must say why. */
static int first_byte(struct cow_host *host, const char *name,
		      const struct cow_open_options *options, struct cow_error *err)
{
	static uint8_t buf[512] __attribute__((aligned(4096)));
	struct cow_image *image;
	struct cow_queue *queue;
	if (open_in(host, name, options, &image, err)) {
		assert_true(err->code && err->text[0]);
		return 0;
	}
	assert_int_equal(cow_queue_new(image, loop, 1, &queue), 0);
	assert_int_equal(cow_queue_do(queue, COW_OP_READ, 0, 0, sizeof(buf), buf), 0);
	cow_queue_free(queue);
	assert_int_equal(cow_image_close(image, loop, err), 0);
	return buf[0];
}

static void reads(const char *name, const struct cow_open_options *options, int wanted)
{
	struct cow_error err;
	int got = first_byte(cow_host_system(), name, options, &err);
	if (got != wanted)
		fail_msg("%s: read '%c', not '%c': %s", name, got, wanted, err.text);
}

static void refused(const char *name, const struct cow_open_options *options, int code,
		    const char *text)
{
	struct cow_error err;
	if (first_byte(cow_host_system(), name, options, &err))
		fail_msg("%s: was opened", name);
	if (err.code != code || !strstr(err.text, text))
		fail_msg("%s: %d, '%s', not %d, '%s'", name, err.code, err.text, code, text);
}

static const struct cow_open_options reader = { .writable = false };
static const struct cow_open_options writer = { .writable = true };

/* ---- what a backing file may be ---- */

static void test_names(void **state)
{
	char absolute[128];
	const char *roots[] = { "out" };
	const struct cow_open_options allowed = { .backing_roots = roots, .nr_backing_roots = 1 };
	make_over("in/image", "base");
	reads("in/image", &reader, 'B');
	make_over("in/image", "sub/../sub/base");
	reads("in/image", &reader, 'B');
	snprintf(absolute, sizeof(absolute), "%s/in/sub/base", top);
	make_over("in/image", absolute);
	reads("in/image", &reader, 'B');

	make_over("in/image", "../out/secret");
	refused("in/image", &reader, -EPERM, "outside the allowed directories");
	reads("in/image", &allowed, 'S');
	make_over("in/image", "sub/../../out/secret");
	refused("in/image", &reader, -EPERM, "outside the allowed directories");
	make_over("in/image", "/proc/self/cwd/out/secret");
	refused("in/image", &allowed, -ELOOP, "/proc");
	make_over("in/image", "base/base");
	refused("in/image", &reader, -ENOTDIR, "Not a directory");
}

static void test_links(void **state)
{
	const char *roots[] = { "out" };
	const struct cow_open_options allowed = { .backing_roots = roots, .nr_backing_roots = 1 };
	must_run("ln -s sub/base in/good && ln -s %s/in/sub in/folder && ln -s loop in/loop && "
		 "ln -s ../out/secret in/bad && ln -s ../out in/elsewhere && "
		 "ln -s /proc/self/fd in/magic",
		 top);
	make_over("in/image", "good");
	reads("in/image", &reader, 'B');
	make_over("in/image", "folder/base");
	reads("in/image", &reader, 'B');
	make_over("in/image", "bad");
	refused("in/image", &reader, -EPERM, "outside the allowed directories");
	reads("in/image", &allowed, 'S');
	make_over("in/image", "elsewhere/secret");
	refused("in/image", &reader, -EPERM, "outside the allowed directories");
	make_over("in/image", "loop");
	refused("in/image", &reader, -ELOOP, "Too many levels");
	make_over("in/image", "magic/0");
	refused("in/image", &reader, -ELOOP, "Too many levels");
}

static void test_types(void **state)
{
	const struct cow_open_options dev = { .backing_roots = (const char *[]){ "/dev" },
					      .nr_backing_roots = 1 };
	must_run("mkfifo in/pipe");
	make_over("in/image", "pipe");
	refused("in/image", &reader, -EINVAL, "is a pipe");
	make_over("in/image", "sub");
	refused("in/image", &reader, -EISDIR, "is a directory");
	make_over("in/image", "/dev/zero");
	refused("in/image", &dev, -EINVAL, "is a character device");
	refused("in/pipe", &reader, -EINVAL, "is a pipe");
	refused("in", &reader, -EISDIR, "is a directory");
}

/* Not with fs.protected_hardlinks, which is not everywhere. */
static void test_hard_links(void **state)
{
	if (geteuid())
		skip();
	must_run("ln out/secret in/hard && ln out/secret in/again");
	make_over("in/image", "hard");
	must_run("chown %d in/image && chmod 600 out/secret", STRANGER);
	refused("in/image", &reader, -EPERM, "hard link to a file of user 0");
	must_run("chmod 644 out/secret");
	reads("in/image", &reader, 'S');
	must_run("chmod 600 out/secret && rm in/hard in/again && cp out/secret in/hard");
	reads("in/image", &reader, 'S');
}

static int attempt_in_slash(void)
{
	struct cow_error err;
	if (chroot(".") || chdir("/"))
		return 77;
	if (first_byte(cow_host_system(), "/image", &reader, &err) || err.code != -EPERM)
		return 1;
	return strstr(err.text, "in / has none") ? 0 : 2;
}

/* The root folder is nobody's own: everything lies below it. Here it is the test's folder. */
static void test_slash(void **state)
{
	int status;
	if (geteuid())
		skip();
	make_over("image", "in/base");
	pid_t child = fork();
	if (!child)
		_exit(attempt_in_slash());
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- the image itself ---- */

static void test_image_links(void **state)
{
	struct cow_file *file;
	struct cow_error err = { 0 };
	make("in/image", &(struct cow_create_options){ 0 });
	make("out/image", &(struct cow_create_options){ 0 });
	must_run("ln -s ../out/image in/link && ln -s nothing in/dangling");
	refused("in/dangling", &writer, -ENOENT, "is not there: give that name itself");
	reads("in/link", &writer, 0 + '\0');
	if (geteuid())
		skip();
	must_run("chown -h %d in/link", STRANGER);
	refused("in/link", &writer, -EPERM, "a symbolic link of user 12345");
	assert_int_equal(cow_host_system()->ops->open(cow_host_system(), "in/link", COW_OPEN_WRITE,
						      &file, &err),
			 -EPERM);
	must_run("chown %d out/image", STRANGER);
	struct cow_image *image;
	assert_int_equal(open_in(cow_host_system(), "in/link", &writer, &image, &err), 0);
	assert_int_equal(cow_image_close(image, loop, &err), 0);
}

/* A new image is not made where a stranger's link leads, unless that is the stranger's own folder. */
static void test_create_links(void **state)
{
	const struct cow_create_options o = { .size_bytes = DISK_BYTES, .has_size = true };
	struct cow_error err = { 0 };
	if (geteuid())
		skip();
	must_run("ln -s ../out in/away && chown -h %d in/away", STRANGER);
	assert_int_equal(cow_create(cow_host_system(), loop, "in/away/new", &o, &err), -EPERM);
	assert_int_not_equal(access("out/new", F_OK), 0);
	must_run("chown %d out", STRANGER);
	err = (struct cow_error){ 0 };
	assert_int_equal(cow_create(cow_host_system(), loop, "in/away/new", &o, &err), 0);
	must_run("rm out/new && ln -s nothing in/dangling");
	assert_int_equal(cow_create(cow_host_system(), loop, "in/dangling", &o, &err), -ENOENT);
	assert_int_not_equal(access("in/nothing", F_OK), 0);
}

static void test_modes(void **state)
{
	struct cow_create_options o = { .size_bytes = DISK_BYTES,
					.has_size = true,
					.data_file = "data" };
	struct cow_error err = { 0 };
	struct stat st;
	for (mode_t mask = 0; mask <= 0277; mask += 0277) {
		mode_t old = umask(mask);
		int ret = cow_create(cow_host_system(), loop, "in/new", &o, &err);
		umask(old);
		assert_int_equal(ret, 0);
		assert_int_equal(stat("in/new", &st), 0);
		assert_int_equal(st.st_mode & 07777, 0600 & ~mask);
		assert_int_equal(stat("in/data", &st), 0);
		assert_int_equal(st.st_mode & 07777, 0600 & ~mask);
		must_run("rm in/new in/data");
	}
	o.has_mode = true;
	o.mode = 0664;
	mode_t old = umask(077);
	assert_int_equal(cow_create(cow_host_system(), loop, "in/new", &o, &err), 0);
	umask(old);
	assert_int_equal(stat("in/new", &st), 0);
	assert_int_equal(st.st_mode & 07777, 0664);
	assert_int_equal(stat("in/data", &st), 0);
	assert_int_equal(st.st_mode & 07777, 0664);
}

/* ---- data files ---- */

static void test_data_files(void **state)
{
	const char *root = "in";
	const struct cow_open_options rooted = { .writable = true,
						 .data_roots = &root,
						 .nr_data_roots = 1 },
				      raw = { .writable = true,
					      .data_roots = &root,
					      .nr_data_roots = 1,
					      .data_is_raw = true },
				      backing = { .writable = true,
						  .backing_roots = &root,
						  .nr_backing_roots = 1 },
				      named = { .writable = true, .data_file = "in/base" },
				      named_wrong = { .writable = true, .data_file = "in/victim" };
	make("in/victim", &(struct cow_create_options){ 0 });
	must_run("cp in/victim before");

	make_with_data("in/image", "base");
	refused("in/image", &writer, -EPERM, "would be written to");
	refused("in/image", &backing, -EPERM, "would be written to");
	struct cow_error err;
	struct cow_image *image;
	assert_int_equal(open_in(cow_host_system(), "in/image", &named, &image, &err), 0);
	assert_int_equal(cow_image_close(image, loop, &err), 0);
	assert_int_equal(open_in(cow_host_system(), "in/image", &rooted, &image, &err), 0);
	assert_int_equal(cow_image_close(image, loop, &err), 0);
	assert_int_equal(open_in(cow_host_system(), "in/image", &reader, &image, &err), 0);
	assert_int_equal(cow_image_close(image, loop, &err), 0);

	make_with_data("in/image", "victim");
	refused("in/image", &writer, -EPERM, "would be written to");
	refused("in/image", &rooted, -EPERM, "begins as a qcow2 image");
	refused("in/image", &named_wrong, -EPERM, "begins as a qcow2 image");
	make_with_data("in/image", "../out/secret");
	refused("in/image", &rooted, -EPERM, "would be written to");
	make_with_data("in/image", "image");
	refused("in/image", &raw, -ELOOP, "refers to itself");
	must_run("cmp in/victim before");

	must_run("printf 'LUKS\\272\\276' > in/luks && truncate -s 1M in/luks");
	make_with_data("in/image", "luks");
	refused("in/image", &rooted, -EPERM, "begins as a LUKS volume");
	assert_int_equal(open_in(cow_host_system(), "in/image", &raw, &image, &err), 0);
	assert_int_equal(cow_image_close(image, loop, &err), 0);
}

static void test_data_file_owner(void **state)
{
	const char *root = "in";
	const struct cow_open_options rooted = { .writable = true,
						 .data_roots = &root,
						 .nr_data_roots = 1 };
	struct cow_error err = { 0 };
	struct cow_file *file;
	if (geteuid())
		skip();
	make_with_data("in/image", "base");
	must_run("chown %d in/base", STRANGER);
	refused("in/image", &rooted, -EPERM, "belongs to user 12345");
	must_run("chown %d in/image", STRANGER);
	reads("in/image", &rooted, 0);
	must_run("chown 0 in/base");
	reads("in/image", &rooted, 0);

	assert_int_equal(cow_host_system()->ops->open(cow_host_system(), "in/base", 0, &file, &err),
			 0);
	refused("in/image", &rooted, -EBUSY, "in use by");
	cow_host_system()->ops->close(file);
}

/* ---- exchanges between the look and the opening ---- */

static const char *swap_a, *swap_b;

static void exchange(const char *a, const char *b)
{
	assert_int_equal(syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE), 0);
}

/* The real host, whose files are exchanged the moment that somebody has found out where they lead. */
static int swapping_realpath(struct cow_host *host, const char *path, char **out)
{
	int ret = cow_host_system()->ops->realpath(cow_host_system(), path, out);
	if (swap_a && strstr(path, "base"))
		exchange(swap_a, swap_b);
	return ret;
}

static void swapped(const char *backing, const char *a, const char *b)
{
	struct cow_host_ops ops = *cow_host_system()->ops;
	struct cow_host host = { .ops = &ops };
	struct cow_error err;
	ops.realpath = swapping_realpath;
	make_over("in/image", backing);
	swap_a = a;
	swap_b = b;
	int got = first_byte(&host, "in/image", &reader, &err);
	swap_a = NULL;
	exchange(a, b);
	assert_int_equal(got, 0);
}

static void test_exchange(void **state)
{
	must_run("ln -s ../out/secret in/evil && mkdir in/evil-sub && rmdir in/evil-sub && "
		 "ln -s ../out in/evil-sub && cp out/secret out/base");
	swapped("base", "in/base", "in/evil");
	swapped("sub/base", "in/sub", "in/evil-sub");
}

static atomic_bool stop;

/* Everything has its own name again at the end. */
static void *exchange_on(void *arg)
{
	const char *const *pair = arg;
	while (!stop) {
		exchange(pair[0], pair[1]);
		exchange(pair[0], pair[1]);
	}
	return NULL;
}

/* What a root-only file holds is never read, whatever is renamed meanwhile: image, folder or base. */
static void race(const char *image, const char *a, const char *b)
{
	const char *pair[] = { a, b };
	struct cow_error err;
	pthread_t thread;
	unsigned leaked = 0;
	stop = false;
	assert_int_equal(pthread_create(&thread, NULL, exchange_on, pair), 0);
	for (unsigned i = 0; i < 100; i++)
		leaked += first_byte(cow_host_system(), image, &reader, &err) == 'S';
	stop = true;
	pthread_join(thread, NULL);
	assert_int_equal(leaked, 0);
	reads(image, &reader, 'B');
}

static void test_races(void **state)
{
	if (geteuid())
		skip();
	must_run("cp out/secret out/base && ln -s ../out/secret in/evil && ln -s ../out "
		 "in/evil-sub");
	make_over("in/image", "base");
	race("in/image", "in/base", "in/evil");
	make_over("in/image", "sub/base");
	race("in/image", "in/sub", "in/evil-sub");

	make_over("out/image", "secret");
	must_run("ln -s ../out/image in/evil-image && chown -h %d in/evil-image", STRANGER);
	make_over("in/image", "base");
	race("in/image", "in/image", "in/evil-image");
}

/* ---- kernels without openat2 ---- */

static void forbid_openat2(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat2, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(filter) / sizeof(filter[0]), filter };
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		_exit(77);
	if (syscall(SYS_openat2, 0, 0, 0, 0) != -1 || errno != ENOSYS)
		_exit(2);
}

static bool opens(int dir, const char *name, int wanted)
{
	int fd = cow_path_open(dir, name, O_RDONLY, 0);
	if (fd >= 0)
		close(fd);
	bool right = wanted ? fd == wanted : fd >= 0;
	if (!right)
		fprintf(stderr, "%s: %d, not %d\n", name, fd, wanted);
	return right;
}

static int without_openat2(void)
{
	forbid_openat2();
	int dir = open("in", O_PATH | O_DIRECTORY);
	bool right = opens(dir, "base", 0) && opens(dir, "sub/base", 0) && opens(dir, "", 0) &&
		     opens(dir, "../out/secret", -EXDEV) && opens(dir, "bad", -ELOOP) &&
		     opens(dir, "elsewhere/secret", -ENOTDIR) && opens(dir, "none", -ENOENT) &&
		     opens(dir, "base/x", -ENOTDIR);
	return right ? 0 : 1;
}

static void test_old_kernels(void **state)
{
	must_run("ln -s ../out/secret in/bad && ln -s ../out in/elsewhere");
	int dir = open("in", O_PATH | O_DIRECTORY), status;
	assert_true(opens(dir, "sub/base", 0) && opens(dir, "../out/secret", -EXDEV) &&
		    opens(dir, "bad", -ELOOP) && opens(dir, "elsewhere/secret", -ELOOP));
	close(dir);
	pid_t child = fork();
	if (!child)
		_exit(without_openat2());
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_names),	    TEST(test_links),	 TEST(test_types),
		TEST(test_hard_links),	    TEST(test_slash),	 TEST(test_image_links),
		TEST(test_create_links),    TEST(test_modes),	 TEST(test_data_files),
		TEST(test_data_file_owner), TEST(test_exchange), TEST(test_races),
		TEST(test_old_kernels),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
