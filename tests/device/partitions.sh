#!/usr/bin/env bash
# A partition table in the image shows as partitions of the device, unless that is not wanted.
. "$(dirname "$0")/lib.sh"
need sfdisk

"$cowblk" create disk.qcow2 64M
attach dev disk.qcow2
printf 'label: gpt\nsize=16MiB\nsize=32MiB\n' | sfdisk -q "$dev"
detach "$dev"
check_clean disk.qcow2

attach dev disk.qcow2
[ -b "${dev}p1" ] && [ -b "${dev}p2" ] || fail "no partitions at once after attach: $(ls "$dev"*)"
mkfs.ext4 -q "${dev}p2"
mount_on "${dev}p2" mnt
echo hello > mnt/file
must_fail 'mounted|in use' "$cowblk" detach "$dev"
umount mnt
detach "$dev"
[ ! -b "${dev}p1" ] || fail "a partition outlives its device"

attach dev disk.qcow2 --no-partition-scan
[ ! -b "${dev}p1" ] || fail "partitions in spite of --no-partition-scan"
detach "$dev"
check_clean disk.qcow2
say "partitions appear with attach, keep the device busy, and go with it"
