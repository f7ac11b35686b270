/* SPDX-License-Identifier: MIT */
/* Where the daemon's words go: log lines, and the news that it is ready or has failed. */
#ifndef COW_REPORT_H
#define COW_REPORT_H

#include <stdint.h>

/*
 * Log lines to standard error (with journald's level prefix when that is what standard error is).
 * Before threads start. COWBLK_DEBUG in the environment: debug lines too.
 */
void cow_report_init(void);

/*
 * For a daemon that is ready and lets go of the terminal: standard streams become /dev/null and the
 * device's log file
 * (record.h), log lines go to syslog as well.
 */
enum cow_report_log { COW_REPORT_LOG_BEGINS, COW_REPORT_LOG_GOES_ON };
void cow_report_leave_terminal(uint32_t id, enum cow_report_log log);

/*
 * Tell systemd, if that is who started us: "READY=1", "STOPPING=1", ... The first word before the
 * daemon is confined, one thread at a time.
 */
void cow_report_systemd(const char *state);

#endif
