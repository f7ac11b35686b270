/* SPDX-License-Identifier: MIT */
#include "engine/request/data.h"

#include "engine/base/math.h"

/* LUKS numbers sectors by their place on the host, legacy AES by the guest's. */
static uint64_t crypt_off(const struct cow_image *image, uint64_t host_off, uint64_t guest_off)
{
	return cow_crypt_key_uses_guest_offset(image->key) ? guest_off : host_off;
}

const char *cow_data_misplaced(struct cow_image *image, uint64_t host_off, uint64_t bytes)
{
	if (image->core.g.data_file)
		return NULL;
	if (cow_overlap(&image->meta, host_off, bytes))
		return "a data cluster lies in metadata";
	if (host_off + bytes >
	    cow_round_up(atomic_load(&image->core.file->size_bytes), image->core.g.cluster_bytes))
		return "a data cluster lies past the end of the file";
	return NULL;
}

void cow_data_read(struct cow_op *op, struct cow_piece *piece, struct cow_image *image,
		   uint64_t host_off, uint64_t guest_off, void *buf, uint64_t bytes)
{
	if (image->key) {
		piece->crypt = op->queue->crypts[image->depth];
		piece->crypt_off = crypt_off(image, host_off, guest_off);
		piece->crypt_buf = buf;
		piece->crypt_bytes = bytes;
	} else if (op->guest && op->kind == COW_OP_READ) {
		cow_op_submit_data(op, piece, image->core.data, host_off, buf, bytes);
		return;
	}
	cow_op_submit_rw(op, piece, COW_IO_READ, image->core.data, host_off, buf, bytes);
}

static void *encrypted(struct cow_op *op, uint64_t host_off, uint64_t guest_off, void *buf,
		       uint64_t bytes)
{
	struct cow_image *image = cow_op_image(op);
	cow_assert(op->bounce && bytes <= COW_BOUNCE_BYTES);
	int ret = cow_crypt_encrypt(op->queue->crypts[image->depth],
				    crypt_off(image, host_off, guest_off), buf, op->bounce, bytes);
	if (ret)
		cow_task_fail(&op->task, ret);
	return ret ? NULL : op->bounce;
}

/* What is to be written instead of buf; NULL: the op has failed. */
static inline void *to_write(struct cow_op *op, uint64_t host_off, uint64_t guest_off, void *buf,
			     uint64_t bytes)
{
	return cow_op_image(op)->key ? encrypted(op, host_off, guest_off, buf, bytes) : buf;
}

void cow_data_write(struct cow_op *op, struct cow_piece *piece, uint64_t host_off,
		    uint64_t guest_off, void *buf, uint64_t bytes)
{
	buf = to_write(op, host_off, guest_off, buf, bytes);
	if (buf)
		cow_op_submit_rw(op, piece, COW_IO_WRITE, cow_op_image(op)->core.data, host_off,
				 buf, bytes);
}

void cow_data_write_on(struct cow_op *op, struct cow_piece *piece, uint64_t host_off,
		       uint64_t guest_off, void *buf, uint64_t bytes)
{
	buf = to_write(op, host_off, guest_off, buf, bytes);
	if (!buf)
		return;
	if (buf == op->bounce) {
		piece->bounce = op->bounce;
		op->bounce = NULL;
	}
	cow_op_submit_rw(op, piece, COW_IO_WRITE, cow_op_image(op)->core.data, host_off, buf,
			 bytes);
}
