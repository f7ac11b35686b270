/* SPDX-License-Identifier: MIT */
/* Locks against ourselves and against QEMU, both ways round. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/host/lock.h"
#include "engine/host/system.h"
#include "engine/loop/loop.h"

static char dir[64], image[96];

static bool have_qemu(void)
{
	return system("command -v qemu-img >/dev/null && command -v qemu-io >/dev/null") == 0;
}

static int setup(void **state)
{
	strcpy(dir, "/tmp/cow-test-lock-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(image, sizeof(image), "%s/image", dir);
	char cmd[256];
	if (have_qemu())
		snprintf(cmd, sizeof(cmd), "qemu-img create -q -f qcow2 %s 1M", image);
	else
		snprintf(cmd, sizeof(cmd), "truncate -s 1M %s", image);
	assert_int_equal(system(cmd), 0);
	return 0;
}

static int teardown(void **state)
{
	unlink(image);
	rmdir(dir);
	return 0;
}

static int open_image(unsigned flags, struct cow_file **file, struct cow_error *err)
{
	*err = (struct cow_error){ 0 };
	return cow_host_system()->ops->open(cow_host_system(), image, flags, file, err);
}

static void close_image(struct cow_file *file)
{
	file->host->ops->close(file);
}

static void test_own(void **state)
{
	struct cow_file *writer, *reader, *other;
	struct cow_error err;
	assert_int_equal(open_image(COW_OPEN_WRITE, &writer, &err), 0);
	assert_int_equal(open_image(COW_OPEN_WRITE, &other, &err), -EBUSY);
	assert_int_equal(open_image(0, &other, &err), -EBUSY);
	char expect[256];
	snprintf(expect, sizeof(expect),
		 "%s: image is in use by this command itself: it cannot be written and be read, or "
		 "written twice",
		 image);
	assert_string_equal(err.text, expect);
	assert_int_equal(open_image(COW_OPEN_NO_LOCK, &other, &err), 0);
	close_image(other);
	close_image(writer);

	assert_int_equal(open_image(0, &reader, &err), 0);
	assert_int_equal(open_image(0, &other, &err), 0); /* a shared base */
	assert_int_equal(open_image(COW_OPEN_WRITE, &writer, &err), -EBUSY);
	close_image(other);
	close_image(reader);
	assert_int_equal(open_image(COW_OPEN_WRITE, &writer, &err), 0); /* all locks are gone */
	close_image(writer);
}

/* ---- who it is ---- */

static int lock_byte(int fd, int command, int byte)
{
	struct flock fl = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
	return fcntl(fd, command, &fl);
}

/* A process that has the image open and a byte locked (-1: none), until it is killed. */
static pid_t start_holder(int command, int byte)
{
	int ready[2];
	char c;
	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		int fd = open(image, O_RDWR);
		if (fd >= 0 && (byte < 0 || !lock_byte(fd, command, byte)))
			(void)!write(ready[1], "+", 1);
		pause();
		_exit(0);
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

/* Who goes on with a file after its close lets nobody come in between. */
static void test_kept(void **state)
{
	struct cow_file *file, *next, *other;
	struct cow_error err;
	assert_int_equal(open_image(COW_OPEN_WRITE, &file, &err), 0);
	assert_int_equal(cow_host_system()->ops->keep(file, &next, &err), 0);
	close_image(file);
	assert_int_equal(open_image(COW_OPEN_WRITE, &other, &err), -EBUSY);
	close_image(next);
	assert_int_equal(open_image(COW_OPEN_WRITE, &other, &err), 0);
	close_image(other);
}

static void end_holder(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void expect_holder(const char *who)
{
	struct cow_file *file;
	struct cow_error err;
	char expect[256];
	assert_int_equal(open_image(COW_OPEN_WRITE, &file, &err), -EBUSY);
	snprintf(expect, sizeof(expect), "%s: image is in use by %s: stop that first", image, who);
	assert_string_equal(err.text, expect);
}

/* Among others who have it open, or have locked what does not matter: before it and behind it. */
static void test_holder_is_named(void **state)
{
	static const int commands[] = { F_OFD_SETLK, F_SETLK };
	for (size_t i = 0; i < 2; i++) {
		char who[64];
		pid_t idle = start_holder(F_OFD_SETLK, -1), other = start_holder(F_OFD_SETLK, 500);
		pid_t holder = start_holder(commands[i], 201);
		pid_t after = start_holder(F_OFD_SETLK, 300);
		snprintf(who, sizeof(who), "%d test_lock", (int)holder);
		expect_holder(who);
		end_holder(idle);
		end_holder(other);
		end_holder(holder);
		end_holder(after);
	}
}

/* Who has it open has nothing to do with it: the lock's file is on its way through a socket. */
static void test_unseen_holder(void **state)
{
	pid_t idle = start_holder(F_OFD_SETLK, -1);
	int fds[2], fd = open(image, O_RDWR);
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control = { .head = { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
	char byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control.room) };
	assert_int_equal(lock_byte(fd, F_OFD_SETLK, 201), 0);
	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	assert_int_equal(sendmsg(fds[0], &msg, 0), 1);
	close(fd);
	expect_holder("a process that cannot be seen from here");
	close(fds[0]);
	close(fds[1]);
	end_holder(idle);
}

/* ---- two that come at once ---- */

#define ROUNDS 20

struct rival {
	pthread_barrier_t *start, *end;
	bool won[ROUNDS];
};

static void *rival_main(void *arg)
{
	struct rival *r = arg;
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct cow_file *file;
		struct cow_error err;
		pthread_barrier_wait(r->start);
		r->won[i] = open_image(COW_OPEN_WRITE, &file, &err) == 0;
		pthread_barrier_wait(r->end); /* until then the winner holds it */
		if (r->won[i])
			close_image(file);
		pthread_barrier_wait(r->end);
	}
	return NULL;
}

static void test_one_of_two_wins(void **state)
{
	pthread_barrier_t start, end;
	pthread_t threads[2];
	struct rival rivals[2];
	pthread_barrier_init(&start, NULL, 2);
	pthread_barrier_init(&end, NULL, 2);
	for (unsigned i = 0; i < 2; i++) {
		rivals[i] = (struct rival){ .start = &start, .end = &end };
		pthread_create(&threads[i], NULL, rival_main, &rivals[i]);
	}
	for (unsigned i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	for (unsigned i = 0; i < ROUNDS; i++)
		assert_int_equal(rivals[0].won[i] + rivals[1].won[i], 1);
	pthread_barrier_destroy(&start);
	pthread_barrier_destroy(&end);
}

static void *leave_soon(void *arg)
{
	usleep(2000);
	close_image(arg);
	return NULL;
}

/* What the loser of such a race looks like to the other, whatever the scheduler does. */
static void test_brief_holder(void **state)
{
	struct cow_file *brief, *file;
	struct cow_error err;
	pthread_t thread;
	assert_int_equal(open_image(COW_OPEN_WRITE, &brief, &err), 0);
	pthread_create(&thread, NULL, leave_soon, brief);
	int ret = open_image(COW_OPEN_WRITE, &file, &err);
	pthread_join(thread, NULL);
	assert_int_equal(ret, 0);
	close_image(file);
}

/* Exit status of a command with the image's path put in; output into text. */
static int run(const char *fmt, char *text, size_t size)
{
	char cmd[512];
	snprintf(cmd, sizeof(cmd), fmt, image);
	FILE *p = popen(cmd, "r");
	assert_non_null(p);
	size_t n = fread(text, 1, size - 1, p);
	text[n] = '\0';
	int status = pclose(p);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_qemu_refuses_ours(void **state)
{
	if (!have_qemu())
		skip();
	struct cow_file *file;
	struct cow_error err;
	char text[1024];
	assert_int_equal(run("qemu-img check -q %s 2>&1", text, sizeof(text)), 0);
	assert_int_equal(open_image(COW_OPEN_WRITE, &file, &err), 0);
	assert_int_not_equal(run("qemu-img check -q %s 2>&1", text, sizeof(text)), 0);
	assert_non_null(strstr(text, "lock"));
	assert_int_not_equal(run("qemu-io -f qcow2 -c 'write 0 64k' %s 2>&1", text, sizeof(text)),
			     0);
	assert_non_null(strstr(text, "lock"));
	assert_int_not_equal(run("qemu-io -r -f qcow2 -c 'read 0 64k' %s 2>&1", text, sizeof(text)),
			     0);
	assert_int_equal(run("qemu-img info -U %s 2>&1", text, sizeof(text)), 0);
	close_image(file);

	/* Only read by us: QEMU may read as well, but not write. */
	assert_int_equal(open_image(0, &file, &err), 0);
	assert_int_equal(run("qemu-img check -q %s 2>&1", text, sizeof(text)), 0);
	assert_int_equal(run("qemu-io -r -f qcow2 -c 'read 0 64k' %s 2>&1", text, sizeof(text)), 0);
	assert_int_not_equal(run("qemu-io -f qcow2 -c 'write 0 64k' %s 2>&1", text, sizeof(text)),
			     0);
	assert_non_null(strstr(text, "lock"));
	close_image(file);
}

/* qemu-io holding the image until its standard input ends. */
struct qemu {
	pid_t pid;
	int in;
};

static struct qemu qemu_hold(bool read_only)
{
	int in[2], out[2];
	struct qemu q;
	char c;
	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	q.pid = fork();
	assert_true(q.pid >= 0);
	if (!q.pid) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		execlp("qemu-io", "qemu-io", "-f", "qcow2", read_only ? "-r" : "-n", image,
		       (char *)NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	q.in = in[1];
	assert_int_equal(write(q.in, "length\n", 7), 7);
	assert_int_equal(read(out[0], &c, 1), 1); /* it answers: it has the image open */
	close(out[0]);
	return q;
}

static void qemu_release(struct qemu q)
{
	close(q.in);
	waitpid(q.pid, NULL, 0);
}

static void test_we_refuse_qemus(void **state)
{
	if (!have_qemu())
		skip();
	struct cow_file *file;
	struct cow_error err;
	struct qemu q = qemu_hold(false);
	int as_reader = open_image(0, &file, &err);
	int as_writer = open_image(COW_OPEN_WRITE, &file, &err);
	char expect[64];
	snprintf(expect, sizeof(expect), "in use by %d qemu-io", q.pid);
	qemu_release(q);
	assert_int_equal(as_reader, -EBUSY);
	assert_int_equal(as_writer, -EBUSY);
	assert_non_null(strstr(err.text, expect));

	q = qemu_hold(true);
	as_writer = open_image(COW_OPEN_WRITE, &file, &err);
	as_reader = open_image(0, &file, &err);
	qemu_release(q);
	assert_int_equal(as_writer, -EBUSY);
	assert_int_equal(as_reader, 0);
	close_image(file);
	assert_int_equal(open_image(COW_OPEN_WRITE, &file, &err), 0);
	close_image(file);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_own, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kept, setup, teardown),
		cmocka_unit_test_setup_teardown(test_holder_is_named, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unseen_holder, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_of_two_wins, setup, teardown),
		cmocka_unit_test_setup_teardown(test_brief_holder, setup, teardown),
		cmocka_unit_test_setup_teardown(test_qemu_refuses_ours, setup, teardown),
		cmocka_unit_test_setup_teardown(test_we_refuse_qemus, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
