/* SPDX-License-Identifier: MIT */
/* See create_options.h. */
#include "daemon/options/create_options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/options/cmd.h"
#include "daemon/options/values.h"
#include "engine/format/format.h"

const struct cow_value_doc cow_create_options_docs[] = {
	{ "size", "a size, like 20G" },
	{ "cluster_size", "512|1K|2K|4K|8K|16K|32K|64K|128K|256K|512K|1M|2M (default 64K)" },
	{ "refcount_bits", "1|2|4|8|16|32|64 (default 16)" },
	{ "compat", "0.10|1.1 (version 2, or 3, the default)" },
	{ "lazy_refcounts", "on|off (default off)" },
	{ "extended_l2", "on|off (default off)" },
	{ "compression_type", "zlib|zstd (default zlib)" },
	{ "preallocation", "off|metadata|falloc|full (default off)" },
	{ "backing_file", "a file, relative to the new image's directory" },
	{ "backing_fmt", "qcow2|raw" },
	{ "data_file", "a file, relative to the new image's directory" },
	{ "data_file_raw", "on|off (default off)" },
	{ "encrypt.format", "luks" },
	{ "encrypt.cipher-alg", "aes-256|aes-128 (default aes-256)" },
	{ "encrypt.cipher-mode", "xts|cbc (default xts)" },
	{ "encrypt.ivgen-alg", "plain64|plain|essiv (default plain64)" },
	{ "encrypt.ivgen-hash-alg", "sha256" },
	{ "encrypt.hash-alg", "a digest, like sha256 (default)" },
	{ "encrypt.iter-time", "milliseconds, 1 to 60000 (default 1000)" },
	{ 0 },
};

static bool parse_u32(const char *value, uint32_t *out)
{
	unsigned long long bytes;
	if (cow_cmd_parse_size(value, &bytes) || bytes == 0 || bytes > UINT32_MAX)
		return false;
	*out = (uint32_t)bytes;
	return true;
}

static bool parse_cluster_size(struct cow_create_options *o, const char *value)
{
	return parse_u32(value, &o->cluster_bytes);
}

static bool parse_refcount_bits(struct cow_create_options *o, const char *value)
{
	return parse_u32(value, &o->refcount_bits);
}

static bool parse_compat(struct cow_create_options *o, const char *value)
{
	return cow_value_compat(value, &o->version);
}

static bool parse_lazy_refcounts(struct cow_create_options *o, const char *value)
{
	return cow_value_switch(value, &o->lazy_refcounts);
}

static bool parse_extended_l2(struct cow_create_options *o, const char *value)
{
	return cow_value_switch(value, &o->extended_l2);
}

static bool parse_compression_type(struct cow_create_options *o, const char *value)
{
	o->compression_type =
		!strcmp(value, "zstd") ? QCOW2_COMPRESSION_ZSTD : QCOW2_COMPRESSION_ZLIB;
	return o->compression_type == QCOW2_COMPRESSION_ZSTD || !strcmp(value, "zlib");
}

static bool parse_data_file(struct cow_create_options *o, const char *value)
{
	o->data_file = value;
	return true;
}

static bool parse_data_file_raw(struct cow_create_options *o, const char *value)
{
	return cow_value_switch(value, &o->data_file_raw);
}

bool cow_create_option_size(struct cow_create_options *o, const char *value)
{
	unsigned long long bytes;
	if (cow_cmd_parse_size(value, &bytes))
		return false;
	o->size_bytes = bytes;
	o->has_size = true;
	return true;
}

static bool parse_backing_file(struct cow_create_options *o, const char *value)
{
	o->backing_file = value;
	return true;
}

static bool parse_backing_fmt(struct cow_create_options *o, const char *value)
{
	o->backing_format = value;
	return true;
}

static bool parse_preallocation(struct cow_create_options *o, const char *value)
{
	return cow_value_preallocation(value, &o->preallocation);
}

static const struct {
	const char *name;
	bool (*parse)(struct cow_create_options *o, const char *value);
} values[] = {
	{ "cluster_size", parse_cluster_size },
	{ "refcount_bits", parse_refcount_bits },
	{ "compat", parse_compat },
	{ "lazy_refcounts", parse_lazy_refcounts },
	{ "preallocation", parse_preallocation },
	{ "extended_l2", parse_extended_l2 },
	{ "compression_type", parse_compression_type },
	{ "data_file", parse_data_file },
	{ "data_file_raw", parse_data_file_raw },
	{ "size", cow_create_option_size },
	{ "backing_file", parse_backing_file },
	{ "backing_fmt", parse_backing_fmt },
};

static void parse_encryption(struct cow_encrypt_options *encrypt, const char *word,
			     const char *value, struct argp_state *state)
{
	bool known;
	if (cow_encrypt_option_parse(encrypt, word + strlen("encrypt."), value, &known))
		return;
	if (known)
		cow_values_invalid(cow_create_options_docs, word, value, state);
	cow_values_unknown(cow_create_options_docs, word, state);
}

static void parse_value(struct cow_create_options *o, struct cow_encrypt_options *encrypt,
			const char *name, const char *value, struct argp_state *state)
{
	if (!strncmp(name, "encrypt.", strlen("encrypt."))) {
		parse_encryption(encrypt, name, value, state);
		return;
	}
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		if (strcmp(values[i].name, name))
			continue;
		if (!values[i].parse(o, value))
			cow_values_invalid(cow_create_options_docs, name, value, state);
		return;
	}
	cow_values_unknown(cow_create_options_docs, name, state);
}

void cow_create_options_parse(struct cow_create_options *o, struct cow_encrypt_options *encrypt,
			      char *list, struct argp_state *state)
{
	char *name, *value;
	while ((name = cow_values_next(&list, &value)) != NULL) {
		if (cow_values_is_help(name, value)) {
			cow_values_help(cow_create_options_docs);
			exit(0);
		}
		if (!value)
			argp_error(state, "-o %s: must be NAME=VALUE", name);
		else
			parse_value(o, encrypt, name, value, state);
	}
}
