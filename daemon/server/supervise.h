/* SPDX-License-Identifier: MIT */
/*
 * A device that outlives its daemon. The supervisor is a small process that opens no image and hears no
 * client: it starts the daemon as its child, keeps what the next one needs, waits, and starts that
 * when the daemon was killed. The kernel keeps the device and its requests meanwhile
 * (UB_F_USER_RECOVERY_REISSUE).
 *
 * Kept between two daemons: the image's metadata (a memfd, engine/meta/outlive.h); every file of its
 * chain by descriptor, with the locks, so that nobody comes in between and names may lead elsewhere
 * by then; passphrases, in locked memory of this process, which is root's and dumps no core.
 *
 * Who attached hears of the device from the supervisor, once that has all it needs to keep it. A daemon
 * that is killed before has promised nothing: its device goes, found by the cookie that the supervisor
 * chose, whatever had become of it. A daemon that ends by itself, whatever its status, is not replaced. One that is killed again and again is given up: the device goes, its
 * requests fail.
 */
#ifndef COW_SUPERVISE_H
#define COW_SUPERVISE_H

#include "daemon/server/server.h"
#include "engine/base/result.h"

/*
 * As cow_server_run(), in children of this process, which is not to have threads. Does not return
 * before the last one has ended; announces as the first daemon does.
 */
COW_MUST_CHECK int cow_supervise_run(const struct cow_server_config *config);

#endif
