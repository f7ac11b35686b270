#!/usr/bin/env bash
# Below the image: ext4 on a disk, where O_DIRECT and holes are real, and a bare block device that holds the image itself.
. "$(dirname "$0")/lib.sh"
disk=${COW_DISKS:-}
disk=${disk%% *}
[ -n "$disk" ] || skip "no spare disk"

mkfs.ext4 -q -F "$disk"
mount_on "$disk" host
"$cowblk" create host/disk.qcow2 1G
attach dev host/disk.qcow2
mkfs.ext4 -q "$dev"
mount_on "$dev" mnt
copy_tree mnt 30000
sums mnt > before
sync
full=$(used_kib host)
rm -rf mnt/*
sync
fstrim mnt
sync "$dev"
shrinks_below $((full * 2 / 3)) used_kib host || fail "df of the host shows $(used_kib host) KiB of $full KiB still used"
trimmed=$(used_kib host)
say "on ext4: df of the host $full KiB used, after rm and fstrim $trimmed KiB"
copy_tree mnt 30000
umount mnt
detach "$dev"
check_clean host/disk.qcow2
attach dev host/disk.qcow2
mount_on "$dev" mnt
sums mnt > after
cmp before after || fail "files changed on ext4"
umount mnt
detach "$dev"
umount host

qemu-img create -q -f qcow2 "$disk" 1G
attach dev "$disk"
mkfs.ext4 -q "$dev"
mount_on "$dev" mnt
copy_tree mnt 30000
umount mnt
detach "$dev"
check_clean "$disk"
attach dev "$disk"
mount_on "$dev" mnt
sums mnt > after
cmp before after || fail "files changed on a block device"
rm -rf mnt/*
fstrim mnt
umount mnt
detach "$dev"
check_clean "$disk"
say "image on a block device: files whole"
