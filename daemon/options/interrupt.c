/* SPDX-License-Identifier: MIT */
#include "daemon/options/interrupt.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "daemon/control/show.h"

#define SHOW_EVERY_MS 200u
#define ONE_SIGNAL_MS 500u

static atomic_bool cancelled;
static atomic_int caught;
static atomic_uint_least64_t caught_ms;
static atomic_bool asked; /* SIGUSR1 */

static struct {
	bool always, shown;
	uint64_t began_ms, last_ms;
} progress;

static uint64_t now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/*
 * One more, some time later, means at once. timeout(1), a shell's job control and systemd send the same
 * one twice, to the process and to its group: that is one.
 */
static void on_signal(int sig)
{
	uint64_t now = now_ms();
	if (!atomic_load(&caught)) {
		atomic_store(&caught_ms, now);
		atomic_store(&caught, sig);
		atomic_store(&cancelled, true);
	} else if (now - atomic_load(&caught_ms) >= ONE_SIGNAL_MS) {
		signal(sig, SIG_DFL);
		raise(sig);
	}
}

static void on_ask(int sig)
{
	(void)sig;
	atomic_store(&asked, true);
}

static void catch (int sig, void (*handler)(int), int flags)
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = flags }, before;
	/* What whoever started us wants to be ignored (nohup) stays so. */
	if (sigaction(sig, NULL, &before) || before.sa_handler == SIG_IGN)
		return;
	sigaction(sig, &action, NULL);
}

const atomic_bool *cow_interrupt_catch(void)
{
	catch (SIGINT, on_signal, SA_RESTART);
	catch (SIGTERM, on_signal, SA_RESTART);
	catch (SIGHUP, on_signal, SA_RESTART);
	catch (SIGUSR1, on_ask, SA_RESTART);
	return &cancelled;
}

int cow_interrupt_end(int status)
{
	int sig = atomic_load(&caught);
	if (!sig)
		return status;
	fflush(stdout);
	signal(sig, SIG_DFL);
	raise(sig);
	return 128 + sig;
}

/* ---- progress ---- */

static void print(uint64_t done, uint64_t all, uint64_t passed_ms, const char *end)
{
	char rate[32];
	double part = all ? (double)done / (double)all : 1;
	uint64_t left = part > 0 ? (uint64_t)((double)passed_ms * (1 - part) / part / 1000) : 0;
	cow_show_bytes(passed_ms ? (uint64_t)((double)done * 1000 / (double)passed_ms) : 0, rate);
	fprintf(stderr, "%5.1f %%, %s/s, %" PRIu64 ":%02" PRIu64 " left   %s", part * 100, rate,
		left / 60, left % 60, end);
	fflush(stderr);
}

static void show(void *ctx, uint64_t done, uint64_t all)
{
	(void)ctx;
	uint64_t now = now_ms();
	if (atomic_exchange(&asked, false))
		print(done, all, now - progress.began_ms, "\n");
	if (!progress.always || (now - progress.last_ms < SHOW_EVERY_MS && done != all))
		return;
	progress.last_ms = now;
	progress.shown = true;
	print(done, all, now - progress.began_ms, "\r");
}

struct cow_progress cow_interrupt_progress(bool force, bool quiet)
{
	progress.always = !quiet && (force || isatty(STDERR_FILENO));
	progress.began_ms = progress.last_ms = now_ms();
	progress.shown = false;
	return (struct cow_progress){ .show = show };
}

void cow_interrupt_finish(void)
{
	if (progress.shown)
		fprintf(stderr, "%50s\r", "");
	progress.shown = false;
}
