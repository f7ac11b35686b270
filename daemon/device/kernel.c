/* SPDX-License-Identifier: MIT */
#include "daemon/device/kernel.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/utsname.h>

#include "daemon/device/ctrl.h"
#include "engine/base/number.h"

/* Before 7.1 the kernel loses requests, or hangs, when a device with recovery is torn down. */
#define KERNEL_MAJOR 7
#define KERNEL_MINOR 1

/* The number that text begins with; *text: behind it and a dot. */
static uint64_t take_number(const char **text)
{
	char digits[8] = "";
	uint64_t v = 0;
	size_t n = strspn(*text, "0123456789");
	if (n < sizeof(digits))
		memcpy(digits, *text, n);
	if (!cow_number_parse(digits, UINT32_MAX, &v))
		return 0;
	*text += n + ((*text)[n] == '.');
	return v;
}

static bool is_too_old(void)
{
	struct utsname u;
	if (uname(&u))
		return true;
	const char *text = u.release;
	uint64_t major = take_number(&text), minor = take_number(&text);
	return major < KERNEL_MAJOR || (major == KERNEL_MAJOR && minor < KERNEL_MINOR);
}

int cow_kernel_find_recovery(struct cow_error *err)
{
	const uint64_t wanted = UB_F_USER_RECOVERY | UB_F_USER_RECOVERY_REISSUE;
	struct cow_ctrl ctrl;
	if (is_too_old())
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
