/* SPDX-License-Identifier: MIT */
/*
 * Files that are not qcow2: what they seem to be and what to do about it. For the message only:
 * nothing is opened by what is found here.
 */
#include "engine/format/other.h"

#include <stdbool.h>
#include <string.h>

#define CONVERT ": convert it with `qemu-img convert -O qcow2`"
#define UNPACK ": unpack it first"

static const struct {
	const char *what, *advice, *magic; /* advice: for a file in place of a qcow2 image */
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

static bool begins_with(const uint8_t *buf, size_t len, const char *magic, size_t off, size_t bytes)
{
	return off + bytes <= len && !memcmp(buf + off, magic, bytes);
}

int cow_format_refuse_other(const uint8_t *buf, size_t len, int code, struct cow_error *err)
{
	static const char not_ours[] = "magic at offset 0: not a qcow2 image";
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if (begins_with(buf, len, others[i].magic, others[i].off, others[i].bytes))
			return cow_error_set(err, code, "%s, it looks like %s%s", not_ours,
					     others[i].what, others[i].advice);
	return cow_error_set(
		err, code,
		"%s: if it is a raw disk, `qemu-img convert -f raw -O qcow2` makes one of it",
		not_ours);
}

/*
 * Containers only: a raw disk has a boot sector, and a packed file may be what somebody keeps on a
 * disk.
 */
const char *cow_format_recognise(const uint8_t *buf, size_t len)
{
	static const struct {
		const char *what, *magic;
		uint16_t off;
		uint8_t bytes;
	} images[] = {
		{ "a qcow image", "QFI\xfb", 0, 4 },
		{ "a qed image", "QED\0", 0, 4 },
		{ "a vmdk image", "KDMV", 0, 4 },
		{ "a vmdk image", "COWD", 0, 4 },
		{ "a vmdk image", "# Disk DescriptorFile", 0, 21 },
		{ "a vdi image", "\x7f\x10\xda\xbe", 64, 4 },
		{ "a vhd (vpc) image", "conectix", 0, 8 },
		{ "a vhdx image", "vhdxfile", 0, 8 },
		{ "a parallels image", "WithoutFreeSpace", 0, 16 },
		{ "a parallels image", "WithouFreSpacExt", 0, 16 },
		{ "a bochs image", "Bochs Virtual HD Image", 0, 22 },
		{ "a LUKS volume", "LUKS\xba\xbe", 0, 6 },
	};
	if (begins_with(buf, len, "QFI\xfb\0\0\0\2", 0, 8) ||
	    begins_with(buf, len, "QFI\xfb\0\0\0\3", 0, 8))
		return "a qcow2 image";
	for (size_t i = 0; i < sizeof(images) / sizeof(images[0]); i++)
		if (begins_with(buf, len, images[i].magic, images[i].off, images[i].bytes))
			return images[i].what;
	return NULL;
}
