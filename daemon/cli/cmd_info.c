/* SPDX-License-Identifier: MIT */
/*
 * cowblk info: what an image says of itself, with the names of `qemu-img info --output=json`.
 *
 * The data is gathered once, as JSON; the text for people is printed from it. Strings come from the
 * image: JSON has them whole, in the text what is not printable is shown as '?'.
 */
#include "daemon/cli/commands.h"
#include "daemon/options/cmd.h"

#include <argp.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/options/args.h"
#include "daemon/options/named.h"
#include "daemon/control/show.h"
#include "engine/host/system.h"
#include "engine/life/info.h"
#include "engine/loop/loop_plain.h"

struct arguments {
	const char *image;
};

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
	struct arguments *a = state->input;
	return cow_args_one_image(key, arg, state, &a->image);
}

/* ---- JSON ---- */

static void put_bool(struct json_object *to, const char *key, bool value)
{
	json_object_object_add(to, key, json_object_new_boolean(value));
}

static void put_bitmaps(struct json_object *to, const struct cow_info *info)
{
	struct json_object *list = json_object_new_array();
	for (uint32_t i = 0; i < info->ext.nr_bitmaps; i++) {
		const struct cow_bitmap *b = &info->bitmaps[i];
		struct json_object *one = json_object_new_object(),
				   *flags = json_object_new_array();
		if (b->flags & COW_BITMAP_IN_USE)
			json_object_array_add(flags, json_object_new_string("in-use"));
		if (b->flags & COW_BITMAP_AUTO)
			json_object_array_add(flags, json_object_new_string("auto"));
		json_object_object_add(one, "flags", flags);
		cow_show_string(one, "name", b->name);
		cow_show_u64(one, "granularity", 1ull << b->granularity_bits);
		json_object_array_add(list, one);
	}
	json_object_object_add(to, "bitmaps", list);
}

static struct json_object *describe_slots(const struct cow_luks *luks)
{
	struct json_object *list = json_object_new_array();
	for (unsigned i = 0; i < LUKS1_SLOTS; i++) {
		const struct cow_luks_slot *slot = &luks->slots[i];
		struct json_object *one = json_object_new_object();
		put_bool(one, "active", slot->active);
		if (slot->active) {
			cow_show_u64(one, "iters", slot->iterations);
			cow_show_u64(one, "stripes", LUKS1_STRIPES);
		}
		cow_show_u64(one, "key-offset", slot->key_off);
		json_object_array_add(list, one);
	}
	return list;
}

/* "xts-plain64", "cbc-essiv:sha256": QEMU shows the parts. */
static void put_cipher_mode(struct json_object *to, const char *mode)
{
	char text[LUKS1_NAME_BYTES + 1], *iv, *hash = NULL;
	snprintf(text, sizeof(text), "%.*s", (int)LUKS1_NAME_BYTES, mode);
	iv = strchr(text, '-');
	if (iv)
		*iv++ = '\0';
	hash = iv ? strchr(iv, ':') : NULL;
	if (hash)
		*hash++ = '\0';
	cow_show_string(to, "cipher-mode", text);
	if (iv)
		cow_show_string(to, "ivgen-alg", iv);
	if (hash)
		cow_show_string(to, "ivgen-hash-alg", hash);
}

static void put_luks(struct json_object *to, const struct cow_luks *luks)
{
	char text[64];
	bool xts = luks->cipher.mode == COW_CRYPT_XTS;
	snprintf(text, sizeof(text), "%.*s-%" PRIu32, (int)LUKS1_NAME_BYTES, luks->cipher_name,
		 luks->cipher.key_bytes * 8 / (xts ? 2 : 1));
	cow_show_string(to, "cipher-alg", text);
	put_cipher_mode(to, luks->cipher_mode);
	snprintf(text, sizeof(text), "%.*s", (int)LUKS1_NAME_BYTES, luks->hash_name);
	cow_show_string(to, "hash-alg", text);
	snprintf(text, sizeof(text), "%.*s", (int)LUKS1_UUID_BYTES, luks->uuid);
	cow_show_string(to, "uuid", text);
	cow_show_u64(to, "payload-offset", luks->payload_off);
	cow_show_u64(to, "master-key-iters", luks->digest_iterations);
	json_object_object_add(to, "slots", describe_slots(luks));
}

static void put_encryption(struct json_object *to, const struct cow_info *info)
{
	if (info->header.crypt_method == QCOW2_CRYPT_NONE)
		return;
	struct json_object *encrypt = json_object_new_object();
	cow_show_string(encrypt, "format",
			info->header.crypt_method == QCOW2_CRYPT_AES ? "aes" : "luks");
	if (info->luks)
		put_luks(encrypt, info->luks);
	json_object_object_add(to, "encrypt", encrypt);
}

static struct json_object *specific_data(const struct cow_info *info)
{
	const struct cow_header *h = &info->header;
	struct json_object *data = json_object_new_object();
	cow_show_string(data, "compat", h->version == 2 ? "0.10" : "1.1");
	cow_show_string(data, "compression-type",
			h->compression_type == QCOW2_COMPRESSION_ZSTD ? "zstd" : "zlib");
	if (h->version >= 3)
		put_bool(data, "lazy-refcounts", h->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS);
	cow_show_u64(data, "refcount-bits", 1u << h->refcount_order);
	if (info->bitmaps)
		put_bitmaps(data, info);
	if (info->ext.has_data_file && (h->incompatible & QCOW2_INCOMPAT_DATA_FILE)) {
		cow_show_string(data, "data-file", info->ext.data_file);
		put_bool(data, "data-file-raw", h->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW);
	}
	put_encryption(data, info);
	if (h->version >= 3) {
		put_bool(data, "corrupt", h->incompatible & QCOW2_INCOMPAT_CORRUPT);
		put_bool(data, "extended-l2", h->incompatible & QCOW2_INCOMPAT_EXTL2);
	}
	return data;
}

static void put_backing(struct json_object *to, const char *image, const struct cow_info *info)
{
	const char *name = info->backing_name, *slash = strrchr(image, '/');
	if (!name[0])
		return;
	char *full = NULL;
	int dir_bytes = name[0] != '/' && slash ? (int)(slash - image) + 1 : 0;
	if (asprintf(&full, "%.*s%s", dir_bytes, image, name) < 0)
		abort();
	cow_show_string(to, "full-backing-filename", full);
	free(full);
	cow_show_string(to, "backing-filename", name);
	if (info->ext.has_backing_format)
		cow_show_string(to, "backing-filename-format", info->ext.backing_format);
}

static struct json_object *describe(const char *image, const struct cow_info *info)
{
	struct json_object *o = json_object_new_object(), *specific = json_object_new_object();
	cow_show_u64(o, "virtual-size", info->header.size_bytes);
	cow_show_string(o, "filename", image);
	cow_show_u64(o, "cluster-size", cow_cluster_bytes(&info->header));
	cow_show_string(o, "format", "qcow2");
	cow_show_u64(o, "actual-size", info->allocated_bytes);
	if (info->header.crypt_method != QCOW2_CRYPT_NONE)
		put_bool(o, "encrypted", true);
	put_backing(o, image, info);
	if (info->header.nr_snapshots)
		json_object_object_add(
			o, "snapshots",
			cow_show_snapshots(info->snapshots, info->header.nr_snapshots));
	cow_show_string(specific, "type", "qcow2");
	json_object_object_add(specific, "data", specific_data(info));
	json_object_object_add(o, "format-specific", specific);
	put_bool(o, "dirty-flag", info->header.incompatible & QCOW2_INCOMPAT_DIRTY);
	return o;
}

/* ---- text ---- */

static const char *get_string(struct json_object *o, const char *key)
{
	struct json_object *value;
	return json_object_object_get_ex(o, key, &value) ? json_object_get_string(value) : NULL;
}

static uint64_t get_u64(struct json_object *o, const char *key)
{
	struct json_object *value;
	return json_object_object_get_ex(o, key, &value) ? json_object_get_uint64(value) : 0;
}

static void print_optional(struct json_object *o, const char *key, const char *label)
{
	const char *value = get_string(o, key);
	char *clean = value ? cow_show_clean(value) : NULL;
	if (clean)
		printf("%s: %s\n", label, clean);
	free(clean);
}

/* As qemu-img shows it: what is inside is indented. */
static void print_value(const char *key, struct json_object *value, int depth)
{
	char idx[32];
	printf("%*s%s:", depth * 4, "", key);
	if (json_object_is_type(value, json_type_object)) {
		putchar('\n');
		json_object_object_foreach(value, name, inside)
			print_value(name, inside, depth + 1);
	} else if (json_object_is_type(value, json_type_array)) {
		putchar('\n');
		for (size_t i = 0; i < json_object_array_length(value); i++) {
			snprintf(idx, sizeof(idx), "[%zu]", i);
			print_value(idx, json_object_array_get_idx(value, i), depth + 1);
		}
	} else {
		char *clean = cow_show_clean(json_object_get_string(value));
		printf(" %s\n", clean);
		free(clean);
	}
}

static void print_specific(struct json_object *o)
{
	struct json_object *specific, *data;
	json_object_object_get_ex(o, "format-specific", &specific);
	json_object_object_get_ex(specific, "data", &data);
	json_object_object_foreach(data, key, value) print_value(key, value, 0);
}

static void print_text(struct json_object *o)
{
	char size[32], disk[32];
	cow_show_bytes(get_u64(o, "virtual-size"), size);
	cow_show_bytes(get_u64(o, "actual-size"), disk);
	char *name = cow_show_clean(get_string(o, "filename"));
	printf("image: %s\nfile format: qcow2\nvirtual size: %s (%" PRIu64
	       " bytes)\ndisk size: %s\n"
	       "cluster size: %" PRIu64 "\n",
	       name, size, get_u64(o, "virtual-size"), disk, get_u64(o, "cluster-size"));
	free(name);
	print_optional(o, "backing-filename", "backing file");
	print_optional(o, "full-backing-filename", "backing file, full path");
	print_optional(o, "backing-filename-format", "backing file format");
	print_specific(o);
	print_optional(o, "dirty-flag", "dirty");
	struct json_object *snapshots;
	if (!json_object_object_get_ex(o, "snapshots", &snapshots))
		return;
	puts("snapshots:");
	cow_show_snapshots_text(snapshots);
}

int cow_cmd_info(int argc, char **argv)
{
	static const struct argp argp = {
		.parser = parse_option,
		.args_doc = "IMAGE|DEVICE",
		.doc = "Show what IMAGE says of itself. Files that it refers to are not opened; "
		       "IMAGE may be in use.",
	};
	struct arguments a = { 0 };
	struct cow_error err = { 0 };
	struct cow_info info;
	struct cow_loop *loop;
	struct cow_args args = { 0 };
	cow_args_parse(&argp, COW_ARGS_OUTPUT | COW_ARGS_FORMAT | COW_ARGS_SHARE, argc, argv, &args,
		       &a);
	char *image = cow_named_path(a.image);
	if (!image)
		return 1;
	if (cow_loop_plain_new(&loop)) {
		free(image);
		return cow_cmd_fail("out of memory");
	}
	int ret = cow_info_load(cow_host_system(), loop, image, &info, &err);
	cow_loop_free(loop);
	if (ret) {
		cow_named_fail(image, ret, &err);
		free(image);
		return 1;
	}
	struct json_object *o = describe(image, &info);
	free(image);
	if (args.json)
		puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY |
							       JSON_C_TO_STRING_NOSLASHESCAPE));
	else
		print_text(o);
	json_object_put(o);
	cow_info_fini(&info);
	return 0;
}
