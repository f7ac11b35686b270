/* SPDX-License-Identifier: MIT */
/*
 * Files that are not qcow2: what they seem to be and what to do about it. For the message only:
 * nothing is opened by what is found here.
 */
#include "engine/format/format.h"

#include <string.h>

#define CONVERT ": convert it with `qemu-img convert -O qcow2`"
#define UNPACK ": unpack it first"

static const struct {
	const char *what, *advice, *magic;
	uint16_t off;
	uint8_t bytes;
} others[] = {
	{ "vmdk", CONVERT, "KDMV", 0, 4 },
	{ "vmdk", CONVERT, "COWD", 0, 4 },
	{ "vmdk", CONVERT, "# Disk DescriptorFile", 0, 21 },
	{ "vdi", CONVERT, "\x7f\x10\xda\xbe", 64, 4 },
	{ "vhd (vpc)", CONVERT, "conectix", 0, 8 },
	{ "vhdx", CONVERT, "vhdxfile", 0, 8 },
	{ "qed", CONVERT, "QED", 0, 4 },
	{ "parallels", CONVERT, "WithoutFreeSpace", 0, 16 },
	{ "parallels", CONVERT, "WithouFreSpacExt", 0, 16 },
	{ "a LUKS volume", ": open it with `cryptsetup`", "LUKS\xba\xbe", 0, 6 },
	{ "compressed by gzip", UNPACK, "\x1f\x8b", 0, 2 },
	{ "compressed by xz", UNPACK,
	  "\xfd"
	  "7zXZ",
	  0, 6 },
	{ "compressed by zstd", UNPACK, "\x28\xb5\x2f\xfd", 0, 4 },
	{ "compressed by bzip2", UNPACK, "BZh", 0, 3 },
	{ "a raw disk",
	  ": attach it with `losetup -P`, or convert it with `qemu-img convert -f raw -O qcow2`",
	  "\x55\xaa", 510, 2 },
};

int cow_header_refuse_other(const uint8_t *buf, size_t len, int code, struct cow_error *err)
{
	static const char not_ours[] = "magic at offset 0: not a qcow2 image";
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if (others[i].off + (size_t)others[i].bytes <= len &&
		    !memcmp(buf + others[i].off, others[i].magic, others[i].bytes))
			return cow_error_set(err, code, "%s, it looks like %s%s", not_ours,
					     others[i].what, others[i].advice);
	return cow_error_set(
		err, code,
		"%s: if it is a raw disk, `qemu-img convert -f raw -O qcow2` makes one of it",
		not_ours);
}
