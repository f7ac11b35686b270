/* SPDX-License-Identifier: MIT */
/*
 * Asking on the terminal. Echo is off while it is typed, and comes back whatever happens: keys that
 * make signals are read as characters, and signals from elsewhere only end the reading.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "daemon/options/secret_prompt.h"
#include "engine/crypt/secret.h"

static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
#define NR_SIGNALS (sizeof(signals) / sizeof(signals[0]))

static volatile sig_atomic_t caught;

static void note_signal(int signal)
{
	caught = signal;
}

struct terminal {
	int fd;
	struct termios before;
	struct sigaction actions[NR_SIGNALS];
};

static int open_terminal(struct terminal *t)
{
	struct sigaction action = { .sa_handler = note_signal }; /* no SA_RESTART: the read ends */
	t->fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
	if (t->fd < 0 || tcgetattr(t->fd, &t->before)) {
		if (t->fd >= 0)
			close(t->fd);
		return -ENXIO;
	}
	caught = 0;
	for (size_t i = 0; i < NR_SIGNALS; i++)
		sigaction(signals[i], &action, &t->actions[i]);
	struct termios quiet = t->before;
	quiet.c_lflag &= ~(tcflag_t)(ECHO | ECHONL | ICANON | ISIG);
	quiet.c_iflag |= ICRNL;
	quiet.c_cc[VMIN] = 1;
	quiet.c_cc[VTIME] = 0;
	tcsetattr(t->fd, TCSAFLUSH, &quiet);
	return 0;
}

/* A signal that came meanwhile takes its usual effect now. */
static void close_terminal(struct terminal *t)
{
	tcsetattr(t->fd, TCSAFLUSH, &t->before);
	for (size_t i = 0; i < NR_SIGNALS; i++)
		sigaction(signals[i], &t->actions[i], NULL);
	close(t->fd);
	if (caught)
		raise(caught);
}

static void write_text(int fd, const char *text)
{
	if (write(fd, text, strlen(text)) < 0)
		return; /* then it is asked without words */
}

/* Whole UTF-8 characters. */
static void erase_last(struct cow_secret *secret)
{
	while (secret->bytes && (secret->data[secret->bytes - 1] & 0xc0) == 0x80)
		secret->data[--secret->bytes] = 0;
	if (secret->bytes)
		secret->data[--secret->bytes] = 0;
}

/* 0: goes on; 1: the line is done; -ECANCELED, -EFBIG. */
static int take(const struct termios *keys, unsigned char c, struct cow_secret *secret)
{
	if (c == '\n' || c == '\r')
		return 1;
	if (c == keys->c_cc[VINTR] || c == keys->c_cc[VQUIT])
		return -ECANCELED;
	if (c == keys->c_cc[VEOF])
		return secret->bytes ? 1 : -ECANCELED;
	if (c == keys->c_cc[VERASE] || c == '\b' || c == 0x7f) {
		erase_last(secret);
	} else if (c == keys->c_cc[VKILL]) {
		explicit_bzero(secret->data, secret->bytes);
		secret->bytes = 0;
	} else if (secret->bytes == sizeof(secret->data)) {
		return -EFBIG;
	} else {
		secret->data[secret->bytes++] = c;
	}
	return 0;
}

static int read_line(const struct terminal *t, struct cow_secret *secret)
{
	unsigned char c;
	int ret = 0;
	secret->bytes = 0;
	while (!ret) {
		ssize_t n = read(t->fd, &c, 1);
		ret = n == 1 ? take(&t->before, c, secret) : -ECANCELED;
	}
	explicit_bzero(&c, 1);
	write_text(t->fd, "\n");
	return ret < 0 ? ret : 0;
}

static int ask(const struct terminal *t, const char *words, const char *what,
	       struct cow_secret *secret)
{
	write_text(t->fd, words);
	write_text(t->fd, what);
	write_text(t->fd, ": ");
	return read_line(t, secret);
}

static int ask_again(const struct terminal *t, const char *what, const struct cow_secret *secret)
{
	struct cow_secret *again = cow_secret_new();
	int ret = again ? ask(t, "Once more the passphrase of ", what, again) : -ENOMEM;
	if (!ret &&
	    (again->bytes != secret->bytes || memcmp(again->data, secret->data, secret->bytes)))
		ret = -EINVAL;
	cow_secret_free(again);
	return ret;
}

int cow_secret_prompt(const char *what, enum cow_prompt times, struct cow_secret *secret,
		      struct cow_error *err)
{
	struct terminal t;
	int ret = open_terminal(&t);
	if (ret)
		return cow_error_set(err, ret,
				     "passphrase: there is no terminal to ask on: use --key-file");
	ret = ask(&t, "Passphrase of ", what, secret);
	if (!ret && times == COW_PROMPT_TWICE)
		ret = ask_again(&t, what, secret);
	close_terminal(&t);
	if (ret == -EINVAL)
		return cow_error_set(err, ret, "passphrase: the two are not the same");
	return ret ? cow_error_set(err, ret, "passphrase: %s",
				   ret == -ECANCELED ? "not given" : strerror(-ret))
		   : 0;
}
