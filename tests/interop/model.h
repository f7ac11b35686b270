/* SPDX-License-Identifier: MIT */
/*
 * What a disk may contain while many requests run at once: per 512-byte sector, every value that a
 * correct disk could return. Overlap of any kind is allowed.
 *
 * A write W is out of the question for a read R when a later write replaced it for certain: some W'
 * began after W had ended, and ended before R began. What remains is a candidate. A sector that no
 * write touches while it is read must be one candidate whole; else each 8-byte word must be some
 * candidate's (the host may tear a racing read). On an encrypted disk it is the ciphertext that
 * tears: the cipher block where two versions meet, and with CBC the next one, are nobody's then.
 *
 * After a crash the same rule holds with "before R began" replaced by "before the last completed
 * FLUSH began", and a FUA write counts as flushed when it ends.
 *
 * Time is a counter of begins and ends. One lock guards all. Everything lives in shared memory, so
 * that the model outlives a child process that is killed on purpose.
 */
#ifndef COW_TEST_MODEL_H
#define COW_TEST_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct model;

#define MODEL_INIT 0 /* the shadow file's content at start */
#define MODEL_ZERO 1
#define MODEL_FIRST_VERSION 2
#define MODEL_VERSION_BITS 36
#define MODEL_MAX_READERS 4096

/* initial: size_bytes of mapped memory. crash: remember what is not flushed yet. */
struct model *model_new(uint64_t size_bytes, const uint8_t *initial, bool crash);

/* The disk is encrypted: see above. To be called before anything runs. */
void model_set_encrypted(struct model *m);

/* A write of `version` begins: its time, the key for model_write_end(). */
uint64_t model_write_begin(struct model *m, uint64_t offset, uint64_t length, uint64_t version);
void model_write_end(struct model *m, uint64_t offset, uint64_t length, uint64_t begin, bool fua);

/*
 * A discard: [head, tail) becomes zero, what is left of [offset, end) may. Ended by
 * model_write_end() as a whole.
 */
uint64_t model_discard_begin(struct model *m, uint64_t offset, uint64_t head, uint64_t tail,
			     uint64_t end);

/* reader: 0 <= reader < MODEL_MAX_READERS, not reading now. */
void model_read_begin(struct model *m, unsigned reader);
/*
 * Sectors that hold none of their candidates; each of the first few is printed to standard error.
 */
uint64_t model_read_end(struct model *m, unsigned reader, uint64_t offset, uint64_t length,
			const void *buf);

uint64_t model_flush_begin(struct model *m);
void model_flush_end(struct model *m, uint64_t begin);

/* While `crashed`, reads are judged by what was flushed. To be called once nothing runs. */
void model_crashed(struct model *m, bool crashed);

/*
 * For the process that is about to be killed: nobody is inside the model, and nobody enters again.
 */
void model_lock_forever(struct model *m);
/* In the survivor. */
void model_unlock_after_kill(struct model *m);

/* Was any sector of this range ever written? */
bool model_touched(struct model *m, uint64_t offset, uint64_t length);

/* The bytes of `version` at offset. */
void model_fill(uint64_t version, uint64_t offset, uint64_t length, void *buf);

#endif
