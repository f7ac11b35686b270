#!/usr/bin/env bash
# Who has it: a mounted or opened device is not detached, an image in use is not attached, by us or by QEMU, in both directions.
. "$(dirname "$0")/lib.sh"

"$cowblk" create disk.qcow2 64M
attach dev disk.qcow2
mkfs.ext4 -q "$dev"
mount_on "$dev" mnt
must_fail "$dev.*(mounted|in use)" "$cowblk" detach "$dev"
echo still there > mnt/file
sync
umount mnt
must_fail 'is attached' "$cowblk" attach disk.qcow2
must_fail 'lock' qemu-io -c 'write 0 512' disk.qcow2
must_fail 'lock' qemu-img check disk.qcow2
qemu-img info -U disk.qcow2 >/dev/null || fail "qemu-img info -U cannot read an attached image"
"$cowblk" info disk.qcow2 >/dev/null || fail "info cannot read an attached image"
detach disk.qcow2
[ ! -b "$dev" ] || fail "detach by the image's path left $dev"

# QEMU has it now: its standard input stays open until we say so.
mkfifo hold
qemu-io disk.qcow2 < hold >/dev/null 2>&1 &
holder=$!
exec 3> hold
# Whoever tried to open it to see whether it is locked could be in qemu-io's way.
is_locked() { grep -q ":$(stat -c %i disk.qcow2) " /proc/locks; }
wait_for is_locked || fail "qemu-io did not open the image"
sleep 1 # it opens it more than once
is_locked || fail "qemu-io did not keep the image"
must_fail 'in use|lock' "$cowblk" attach disk.qcow2
exec 3>&-
wait $holder || true
attach dev disk.qcow2
mount_on "$dev" mnt
grep -q 'still there' mnt/file || fail "a file is gone"
umount mnt
detach "$dev"
check_clean disk.qcow2
say "mounted: not detached; in use by us or QEMU: not attached; locks hold both ways"
