#!/usr/bin/env bash
# --read-only: nothing can be written and the image's bytes stay as they are; several readers may share an image.
. "$(dirname "$0")/lib.sh"

"$cowblk" create disk.qcow2 64M
attach dev disk.qcow2
mkfs.ext4 -q "$dev"
detach "$dev"
sha256sum disk.qcow2 > sum
chmod 400 disk.qcow2

attach dev disk.qcow2 --read-only
[ "$(blockdev --getro "$dev")" = 1 ] || fail "the kernel does not know that $dev is read-only"
! dd if=/dev/zero of="$dev" bs=4k count=1 oflag=direct status=none 2>/dev/null || fail "a write went through"
! blkdiscard "$dev" 2>/dev/null || fail "a discard went through"
mkdir mnt
mount -o ro "$dev" mnt
mounts+=(mnt)
[ -d mnt/lost+found ] || fail "not the file system that was written"
umount mnt
attach second disk.qcow2 --read-only
cmp "$dev" "$second" || fail "two readers of an image differ"
must_fail 'is attached|in use|lock' "$cowblk" attach disk.qcow2
detach "$second"
detach "$dev"
sha256sum -c --quiet sum || fail "a read-only image was written"
say "read-only: writes refused, bytes unchanged, two readers at once"
