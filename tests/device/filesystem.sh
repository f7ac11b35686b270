#!/usr/bin/env bash
# filesystem.sh ext4|xfs|btrfs: a real tree survives detaching, and what is deleted is given back to the host by fstrim.
. "$(dirname "$0")/lib.sh"
type=$1
need "mkfs.$type"
case $type in
ext4) make="mkfs.ext4 -q -F -E nodiscard" ;;
xfs) make="mkfs.xfs -q -f -K" ;;
btrfs) make="mkfs.btrfs -q -f -K" ;;
esac
limit_kib=60000
! short || limit_kib=40000

"$cowblk" create disk.qcow2 4G
attach dev disk.qcow2
$make "$dev" >mkfs.log 2>&1 || fail "mkfs.$type: $(tail -3 mkfs.log)"
mount_on "$dev" mnt
copy_tree mnt $limit_kib
sums mnt > before
sync
umount mnt
detach "$dev"
check_clean disk.qcow2

attach dev disk.qcow2
mount_on "$dev" mnt
sums mnt > after
cmp before after || fail "files changed over detach and attach"
full=$(disk_kib disk.qcow2)
rm -rf mnt/*
sync
fstrim mnt
sync "$dev"
shrank=yes
shrinks_below $((full / 2)) disk_kib disk.qcow2 || shrank=no
trimmed=$(disk_kib disk.qcow2)
say "$type: $(wc -l < before) files, host file $full KiB, after rm and fstrim $trimmed KiB"
[ $shrank = yes ] || fail "the host file did not shrink by half"
copy_tree mnt 40000
sums mnt > before
umount mnt
case $type in
ext4) e2fsck -fn "$dev" >/dev/null 2>&1 || fail "e2fsck finds errors" ;;
xfs) xfs_repair -n "$dev" >/dev/null 2>&1 || fail "xfs_repair finds errors" ;;
btrfs) btrfs check -q "$dev" >/dev/null 2>&1 || fail "btrfs check finds errors" ;;
esac
detach "$dev"
check_clean disk.qcow2

attach dev disk.qcow2 --read-only
mkdir -p mnt
case $type in
xfs) mount -o ro,norecovery "$dev" mnt ;;
*) mount -o ro "$dev" mnt ;;
esac
mounts+=(mnt)
sums mnt > after
umount mnt
cmp before after || fail "files written over trimmed space changed"
detach "$dev"
