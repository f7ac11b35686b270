/* SPDX-License-Identifier: MIT */
/*
 * qcow2 header, extensions and snapshot table: pure decode, encode and verify. No I/O, no policy,
 * no state. Rules: FORMAT.md sections 1 and 2; specification: QEMU docs/interop/qcow2.
 *
 * Verifiers say which rule failed and where: text "RULE at offset N: ..." in err, code -EINVAL, or
 * -ENOTSUP for what is valid but unknown (an incompatible bit: named from the image's feature name
 * table where it has one).
 */
#ifndef COW_FORMAT_H
#define COW_FORMAT_H

#include "engine/format/extension.h"
#include "engine/format/header.h"
#include "engine/format/other.h"
#include "engine/format/refcount_entry.h"
#include "engine/format/snapshot_table.h"

#endif
