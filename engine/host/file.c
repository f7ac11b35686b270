/* SPDX-License-Identifier: MIT */
/*
 * How long a host file must be, and whether it still is. Behind its end a file reads as zeros,
 * which is right for a cluster that was allocated and never written, and wrong for data that
 * somebody else's truncate(1) took away. The difference is what we know: the length at open, what
 * we wrote, what we extended. A file below that has been cut; it stays so when a write of ours
 * makes it long again, which hides where: from then on zeros are not believed at all.
 */
#include "engine/host/file.h"

#include "engine/base/log.h"

void cow_file_grown(struct cow_file *file, uint64_t bytes)
{
	uint64_t known = atomic_load_explicit(&file->size_bytes, memory_order_relaxed);
	while (bytes > known && !atomic_compare_exchange_weak(&file->size_bytes, &known, bytes))
		;
}

static bool ask_length(struct cow_file *file, uint64_t *bytes)
{
	return file->host && file->host->ops->length && file->host->ops->length(file, bytes);
}

/*
 * The lowest end that was seen stays; 0 means whole, and of the very first byte nothing is known
 * before it was read.
 */
void cow_file_note_cut(struct cow_file *file, uint64_t bytes)
{
	uint64_t length;
	if (ask_length(file, &length) && length < bytes)
		bytes = length;
	uint64_t now = 0, first = bytes ? bytes : 1;
	bool told = !atomic_compare_exchange_strong(&file->lost_from, &now, first);
	while (told && first < now && !atomic_compare_exchange_weak(&file->lost_from, &now, first))
		;
	if (!told)
		cow_log(COW_LOG_ERR,
			"%s: the file is shorter than it was: somebody else has cut it at offset "
			"%llu",
			file->path ? file->path : "?", (unsigned long long)bytes);
}

bool cow_file_is_whole(struct cow_file *file)
{
	uint64_t known = atomic_load(&file->size_bytes), bytes;
	if (!file->unlocked && !cow_file_is_cut(file) && ask_length(file, &bytes) && bytes < known)
		cow_file_note_cut(file, bytes);
	return !cow_file_is_cut(file);
}
