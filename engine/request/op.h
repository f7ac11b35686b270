/* SPDX-License-Identifier: MIT */
/*
 * Guest requests and the queue that owns them. A request is an object made when the queue is made,
 * one per tag; it embeds all that it can need: its host I/Os, one claim, the state of a copy on
 * write. It finishes in one place (start.c: end), which gives back whatever it still holds.
 *
 * Steps by kind:
 *   READ          read.c:  map+submit until all is submitted -> drained
 *   WRITE         write.c: begin -> map (in place, or a fresh hole) -> [l2table.c: unshare or make the table] ->
 *                 [copy.c: copy on write] -> ... -> drained -> [FUA: writeback]
 *   DISCARD, WRITE_ZEROES   zero.c: as WRITE, whole clusters by changing the mapping
 *   FLUSH         flush.c: writeback
 */
#ifndef COW_OP_H
#define COW_OP_H

#include "engine/compress/deflate.h"
#include "engine/compress/inflate.h"
#include "engine/crypt/crypt.h"
#include "engine/image/state.h"
#include "engine/compress/inflated.h"
#include "engine/format/map.h"
#include "engine/request/pack.h"
#include "engine/request/kind.h"
#include "engine/image/source.h"
#include "engine/space/reserve.h"

#define COW_BOUNCE_BYTES (128u << 10)

/* A host I/O of an op. */
struct cow_piece {
	struct cow_io io;
	struct cow_op *op;
	bool busy;
	uint8_t *bounce;	 /* returned to the queue when the write is through */
	struct cow_crypt *crypt; /* to decrypt what was read with; NULL: in the clear */
	uint64_t crypt_off, crypt_bytes;
	uint8_t *crypt_buf;
};

/* Guest range -> buffer, through the chain. */
struct cow_reader {
	uint64_t pos, end; /* guest bytes */
	uint8_t *buf;	   /* where pos goes */
	struct cow_source source;
	/* a compressed cluster on its way, into this buffer of the queue's; NULL: none */
	uint8_t *packed;
	struct cow_inflating inflating;
};

/*
 * A copy on write under way: clusters [start, end) of the guest get new host clusters from host on.
 * Their bytes [fill_start, fill_end) are written: all of them, or with extended L2 entries the
 * touched subclusters.
 */
struct cow_copy {
	uint64_t start, end;	       /* guest bytes, cluster-aligned */
	uint64_t fill_start, fill_end; /* subcluster-aligned */
	uint64_t data_start, data_end; /* the request's own bytes in there */
	struct cow_hoff host;
	bool frees;	/* new clusters take the place of others */
	uint64_t quiet; /* requests of this epoch are waited for, and those before */
	/* host is a fresh allocation (else a cluster of ours that is filled in place) */
	bool allocated;
	bool holds_host; /* to be given back if the op fails */
	/* large clusters: what is in the bounce buffer; how far the data is written */
	uint64_t chunk, chunk_end;
};

/* A new L2 table under way. */
struct cow_new_table {
	uint64_t l1_idx;
	uint64_t old; /* L1 entry it replaces */
	struct cow_hoff host;
	bool holds_host, zero;
	uint64_t done; /* bytes copied */
	bool writing;
};

struct cow_op {
	struct cow_task task;
	struct cow_queue *queue;
	unsigned idx;
	bool active;

	/* the request */
	enum cow_op_kind kind;
	unsigned flags;
	uint64_t off, end; /* guest bytes */
	uint8_t *buf;
	/* what is to be at buf is in there, and not at buf; NULL: it is at buf */
	const struct cow_guest *guest;
	cow_op_done_fn *done;
	void *ctx;

	/* progress */
	uint64_t cursor;		 /* all before it is submitted or done */
	uint64_t limit;			 /* where the write steps stop, */
	const struct cow_step *at_limit; /* and where they go on then: set by who sets the limit */
	const struct cow_step *map;	 /* the step that a finished copy or table returns to */
	uint64_t epoch;
	bool in_epoch;
	/* DISCARD, WRITE_ZEROES with an external data file: the host cannot punch */
	bool punch_failed;
	bool no_punch;	     /* then by mapping or writing */
	bool explicit_zeros; /* WRITE_ZEROES: by writing, not by mapping */
	bool prepared;	     /* cow_core_prepare_write() was called */
	struct cow_claim claim;
	unsigned room; /* extents reserved in the quarantine */
	/*
	 * the host was full: the last freed extent that may help; those released when the op last
	 * began; and the op waits for more
	 */
	uint64_t freed_until, freed_seen;
	bool waits_for_freed;
	uint8_t *bounce;
	struct cow_reader reader;
	struct cow_copy copy;
	struct cow_new_table table;
	struct cow_packing packing;
	bool holds_packing; /* packing's references are to be given back if the op fails */
	struct cow_piece pieces[COW_OP_PIECES];
};

struct cow_queue {
	struct cow_image *image;
	struct cow_loop *loop;
	unsigned idx; /* in image->queues and the epochs */
	unsigned nr_ops;
	/* image->queues_lock: it is being freed, nothing new is started on its loop */
	bool leaving;
	atomic_uint running; /* ops admitted; written by the owner */
	struct cow_op *ops;  /* nr_ops, and one more for cow_queue_do() */
	struct cow_reserve reserve;
	/* bounce buffers */
	uint8_t *bounce_memory;
	uint8_t *bounces[COW_QUEUE_BOUNCES]; /* those that nobody uses */
	unsigned nr_bounces, all_bounces;
	struct cow_waitlist bounce_waiters;
	/* ciphers of the encrypted images of the chain, by their depth in it */
	struct cow_crypt *crypts[COW_MAX_BACKING_DEPTH];
	/* inflating: several clusters may be on their way from the host */
	struct cow_inflate *inflate;
	uint8_t *packed_memory;
	size_t packed_bytes; /* of each */
	uint8_t *packed[COW_QUEUE_PACKED];
	unsigned nr_packed, all_packed;
	size_t unpacked_bytes;
	uint8_t *unpacked; /* one cluster; changes places with those of image->inflated */
	struct cow_waitlist packed_waiters;
	/* compressing, with attach --compress */
	struct cow_packer packer;
	struct cow_waitlist packer_waiters;
};

static inline struct cow_op *cow_op_of(struct cow_task *task)
{
	return (struct cow_op *)task;
}

static inline struct cow_image *cow_op_image(const struct cow_op *op)
{
	return op->queue->image;
}

/* ---- what steps use ---- */

/* A free piece behind the first one, or NULL. */
struct cow_piece *cow_op_further_piece(struct cow_op *op);
/* A free piece, or NULL: then return cow_task_wait_io(). */
static inline struct cow_piece *cow_op_piece(struct cow_op *op)
{
	return op->pieces[0].busy ? cow_op_further_piece(op) : &op->pieces[0];
}
/* One host I/O of one buffer. */
void cow_op_submit_rw(struct cow_op *op, struct cow_piece *piece, enum cow_io_kind kind,
		      struct cow_file *file, uint64_t host_off, void *buf, uint64_t bytes);
/* A READ's or WRITE's; buf is in op->buf, and stands for the pages of op->guest. */
void cow_op_submit_data(struct cow_op *op, struct cow_piece *piece, struct cow_file *file,
			uint64_t host_off, void *buf, uint64_t bytes);
/* WRITE: the request's bytes are at op->buf from then on. Before anybody looks there. 0 or -errno. */
COW_MUST_CHECK int cow_op_fetch(struct cow_op *op);
/* READ: bytes at buf, in op->buf, are what the request is to read there. 0 or -errno. */
COW_MUST_CHECK int cow_op_store(struct cow_op *op, const uint8_t *buf, uint64_t bytes);
/* For I/Os prepared by hand: done function and submission. */
void cow_op_submit_piece(struct cow_op *op, struct cow_piece *piece);
void cow_op_piece_done(struct cow_io *io);

/* The bytes to be written at guest offset off: the request's, or zeros (at most a cluster). */
static inline uint8_t *cow_op_data(struct cow_op *op, uint64_t off)
{
	cow_assert(!op->guest || op->kind != COW_OP_WRITE);
	return op->kind == COW_OP_WRITE ? op->buf + (off - op->off) : op->queue->image->core.zeros;
}

/* The op's bounce buffer; false: parked. */
bool cow_op_get_bounce(struct cow_op *op);
void cow_op_put_bounce(struct cow_op *op);

/*
 * Room in the quarantine (op->room extents: `most`, or at least `least`), to be had before a claim
 * is taken and before mappings are looked at: COW_AGAIN: it is ours until cow_op_put_room() or the
 * op's end, and the op is in an epoch. Otherwise the op waits, outside of any epoch (else the
 * release, which waits for old epochs, would wait for it) and without claims (else others would
 * wait for it inside theirs).
 */
enum cow_next cow_op_room_to_free(struct cow_op *op, unsigned least, unsigned most);
/*
 * As many places as there are, `most` at most, for this step only; no claim is held. False: none;
 * put what is held and return cow_op_wait_for_many(), which waits out of any epoch.
 */
bool cow_op_room_for_many(struct cow_op *op, unsigned most);
enum cow_next cow_op_wait_for_many(struct cow_op *op);
/* Into an epoch, after such a wait: before a mapping is looked at. */
void cow_op_enter_epoch(struct cow_op *op);
void cow_op_leave_epoch(struct cow_op *op);
void cow_op_put_room(struct cow_op *op);

/* Does an unallocated cluster at off read as zeros, because no backing file reaches there? */
static inline bool cow_nothing_below(const struct cow_image *image, uint64_t off)
{
	return off >= image->backing_bytes;
}

/* Does a new cluster take the place of the one that the entry points to? */
static inline bool cow_entry_is_replaced(const struct cow_entry *e)
{
	return e->kind == COW_COMPRESSED || (e->has_host && !e->copied);
}

/*
 * First step of all that changes the image: the header tells that somebody writes. COW_AGAIN: go
 * on.
 */
enum cow_next cow_op_begin_write(struct cow_op *op);

#endif
