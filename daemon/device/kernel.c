/* SPDX-License-Identifier: MIT */
/* See kernel.h and docs/KERNELS.md, which has the table for people. */
#include "daemon/device/kernel.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/utsname.h>

#include "daemon/device/ctrl.h"
#include "engine/base/log.h"
#include "engine/base/number.h"

#define VERSION(major, minor, patch) ((uint64_t)(major) << 40 | (uint64_t)(minor) << 20 | (patch))
/* Before it the kernel loses requests, or hangs, when a device with recovery is torn down. */
#define RECOVERY VERSION(7, 1, 0)

struct bug {
	uint64_t from, before;
	const char *flavours[3]; /* of a distribution, and of it alone; none: everybody's */
	const char *text;
};

#define CANCELING "the kernel may crash when a daemon is killed (CVE-2025-22068)"
#define QUEUES "the kernel crashes when a ublk device is added (Ubuntu's 6.17 for clouds)"

static const struct bug bugs[] = {
	{ VERSION(6, 7, 0), VERSION(6, 12, 23), { NULL }, CANCELING },
	{ VERSION(6, 13, 0), VERSION(6, 13, 11), { NULL }, CANCELING },
	{ VERSION(6, 14, 0), VERSION(6, 14, 2), { NULL }, CANCELING },
	{ VERSION(6, 17, 0), VERSION(6, 17, 1), { "-aws", "-azure", NULL }, QUEUES },
};

/* The number that text begins with; *text: behind it and a dot. */
static uint64_t take_number(const char **text)
{
	char digits[6] = "";
	uint64_t v = 0;
	size_t n = strspn(*text, "0123456789");
	if (n < sizeof(digits))
		memcpy(digits, *text, n);
	if (!cow_number_parse(digits, UINT32_MAX, &v))
		return 0;
	*text += n + ((*text)[n] == '.');
	return v;
}

/* *rest: what the distribution calls it. */
static uint64_t parse(const char *release, const char **rest)
{
	uint64_t major = take_number(&release), minor = take_number(&release);
	uint64_t version = VERSION(major, minor, take_number(&release));
	*rest = release;
	return version;
}

static bool has_flavour(const struct bug *bug, const char *rest)
{
	if (!bug->flavours[0])
		return true;
	for (size_t i = 0; i < sizeof(bug->flavours) / sizeof(bug->flavours[0]); i++)
		if (bug->flavours[i] && strstr(rest, bug->flavours[i]))
			return true;
	return false;
}

/*
 * "6.8.0-52-generic" has the fixes that its distribution took into it, whatever its number says: of such a
 * kernel only what is said of it by name is true.
 */
static bool is_stable_number(const char *release)
{
	const char *rest;
	uint64_t patch = parse(release, &rest) & 0xfffff;
	return patch || *rest != '-';
}

const char *cow_kernel_find_bug(const char *release)
{
	const char *rest;
	uint64_t version = parse(release, &rest);
	for (size_t i = 0; i < sizeof(bugs) / sizeof(bugs[0]); i++)
		if (version >= bugs[i].from && version < bugs[i].before &&
		    has_flavour(&bugs[i], rest) &&
		    (bugs[i].flavours[0] || is_stable_number(release)))
			return bugs[i].text;
	return NULL;
}

bool cow_kernel_recovers(const char *release)
{
	const char *rest;
	return parse(release, &rest) >= RECOVERY;
}

void cow_kernel_warn(void)
{
	struct utsname u;
	const char *text = uname(&u) ? NULL : cow_kernel_find_bug(u.release);
	if (text)
		cow_log(COW_LOG_WARNING, "Linux %s: %s: use another kernel", u.release, text);
}

int cow_kernel_find_recovery(struct cow_error *err)
{
	const uint64_t wanted = UB_F_USER_RECOVERY | UB_F_USER_RECOVERY_REISSUE;
	struct cow_ctrl ctrl;
	struct utsname u;
	if (uname(&u) || !cow_kernel_recovers(u.release))
		return cow_error_set(err, -EOPNOTSUPP,
				     "the recovery of this kernel's ublk is not to be trusted: "
				     "Linux 7.1 or newer");
	int ret = cow_ctrl_open(&ctrl, err);
	if (ret)
		return ret;
	if ((ctrl.features & wanted) != wanted)
		ret = cow_error_set(err, -EOPNOTSUPP, "this kernel's ublk has no recovery");
	cow_ctrl_close(&ctrl);
	return ret;
}
