/* SPDX-License-Identifier: MIT */
/*
 * What a daemon tells its supervisor (supervise.h) once its device is live: the files of the image's
 * chain, in the order of cow_image_each_file(), then the device. Over a SOCK_SEQPACKET, a message each.
 */
#ifndef COW_HANDOVER_H
#define COW_HANDOVER_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "daemon/device/device.h"
#include "engine/base/result.h"

enum cow_news_kind { COW_NEWS_FILE, COW_NEWS_LIVE };

struct cow_news {
	enum cow_news_kind kind;
	uint32_t id;	     /* LIVE */
	uint64_t cookie;     /* LIVE */
	char path[PATH_MAX]; /* FILE; a descriptor comes with it */
};

/* LIVE and with a record. 0 or -errno. */
COW_MUST_CHECK int cow_handover_send(int fd, const struct cow_device *dev);

/* Waits. *fd: -1, or the caller's from then on. False: the daemon is gone. */
bool cow_handover_receive(int socket, struct cow_news *news, int *fd);

#endif
