/* SPDX-License-Identifier: MIT */
/* Weak stand-ins for subcommands that are not written yet; each goes when its cmd_NAME.c is there. */
#include "daemon/cmd.h"

#define STUB(name)                                                   \
	__attribute__((weak)) int cow_cmd_##name(int argc, char **argv) \
	{                                                            \
		return cow_cmd_fail("%s: not built in", argv[0]);    \
	}

STUB(check)
STUB(create)
STUB(info)
