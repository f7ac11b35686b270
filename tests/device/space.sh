#!/usr/bin/env bash
# Space goes back: discards punch holes, zeros written are freed when asked, and neither happens when it was not asked for.
. "$(dirname "$0")/lib.sh"
need blkdiscard

"$cowblk" create disk.qcow2 256M
attach dev disk.qcow2
head -c 32M /dev/urandom > data
dd if=data of="$dev" bs=1M oflag=direct conv=fsync status=none
full=$(disk_kib disk.qcow2)
blkdiscard -o 8M -l 16M "$dev"
sync "$dev"
shrinks_below $((full - (15 << 10))) disk_kib disk.qcow2 || fail "a discard gave back too little"
half=$(disk_kib disk.qcow2)
say "32 MiB written: $full KiB; 16 MiB of them discarded: $half KiB"
dd if=/dev/zero of=data bs=1M seek=8 count=16 conv=notrunc status=none
cmp -n $((32 << 20)) "$dev" data || fail "discarded space does not read as zeros"
blkdiscard "$dev"
sync "$dev"
shrinks_below 2048 disk_kib disk.qcow2 || fail "everything discarded, and $(disk_kib disk.qcow2) KiB are left"
cmp -n $((32 << 20)) "$dev" /dev/zero || fail "discarded space does not read as zeros"
detach "$dev"
check_clean disk.qcow2

attach dev disk.qcow2 --detect-zeroes=unmap
dd if=data of="$dev" bs=1M oflag=direct conv=fsync status=none
full=$(disk_kib disk.qcow2)
dd if=/dev/zero of="$dev" bs=1M count=32 oflag=direct conv=fsync status=none
shrinks_below 2048 disk_kib disk.qcow2 || fail "zeros written were not freed"
zeroed=$(disk_kib disk.qcow2)
say "--detect-zeroes=unmap: $full KiB, after dd if=/dev/zero $zeroed KiB"
detach "$dev"
check_clean disk.qcow2

attach dev disk.qcow2 --no-discard
[ "$(cat "/sys/block/${dev#/dev/}/queue/discard_max_bytes")" = 0 ] || fail "discard is offered in spite of --no-discard"
dd if=data of="$dev" bs=1M oflag=direct conv=fsync status=none
! blkdiscard "$dev" 2>/dev/null || fail "a discard went through in spite of --no-discard"
cmp -n $((32 << 20)) "$dev" data || fail "data is gone in spite of --no-discard"
detach "$dev"
check_clean disk.qcow2
