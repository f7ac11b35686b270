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
# A disk of 4096-byte sectors: its GPT lies where the kernel looks for it, ext4 and XFS take its sectors, and less than a sector is refused
# before it is a request.
refuses_parts()
{
	must_fail 'Invalid argument' dd if="$dev" of=/dev/null bs=512 count=1 iflag=direct status=none
	must_fail 'Invalid argument' dd if=/dev/zero of="$dev" bs=4096 count=1 seek=512 oflag=direct,seek_bytes conv=notrunc status=none
	must_fail 'Invalid argument|not aligned' blkdiscard -f -o 512 -l 4096 "$dev"
}
writes_sectors()
{
	fio --name=sectors --size=2M --bsrange=4k-64k --blockalign=4k --rw=randrw --direct=1 --ioengine=io_uring --iodepth=8 --verify=crc32c \
		"$@" --output=fio.log >/dev/null || fail "fio: $(tail -3 fio.log)"
}
part_sum() { dd if="$1" bs=1M skip=1 count=16 status=none | sha256sum; }
"$cowblk" create big.qcow2 400M
attach dev big.qcow2 --block-size 4096
printf 'label: gpt\nsize=16MiB\nsize=320MiB\n' | sfdisk -q "$dev" || fail "sfdisk on sectors of 4096 bytes"
wait_for test -b "${dev}p2" || fail "no partitions on sectors of 4096 bytes"
mkfs.ext4 -q "${dev}p1"
mkfs.xfs -q -s size=4096 "${dev}p2"
mount_on "${dev}p1" mnt
mount_on "${dev}p2" mnt2
head -c 1000000 /dev/urandom >mnt/early
sum=$(sha256sum <mnt/early)
"$cowblk" snapshot create --freeze "$dev" early >/dev/null 2>said || fail "snapshot: $(cat said)"
refuses_parts
head -c 1000000 /dev/urandom >mnt/late
writes_sectors --directory=mnt2
fstrim mnt
umount mnt mnt2
part=$(part_sum "$dev")
detach "$dev"
check_clean big.qcow2
qemu-img convert -O raw big.qcow2 raw
[ "$(part_sum raw)" = "$part" ] || fail "QEMU reads another disk"
rm raw

attach dev big.qcow2
grep -q 'attach with --block-size 4096' attach.log || fail "no hint at the GPT: $(cat attach.log)"
[ ! -b "${dev}p1" ] || fail "partitions of 512-byte sectors"
[ "$(part_sum "$dev")" = "$part" ] || fail "the disk reads otherwise in sectors of 512 bytes"
detach "$dev"
attach dev big.qcow2 --block-size 4096 --read-only --snapshot early
mount -o ro,noload "${dev}p1" mnt
[ "$(sha256sum <mnt/early)" = "$sum" ] && [ ! -e mnt/late ] || fail "the snapshot is not what was frozen"
umount mnt
detach "$dev"

# Sectors that are larger than the clusters.
"$cowblk" create small.qcow2 4M -o cluster_size=512
attach dev small.qcow2 --block-size 4096
refuses_parts
writes_sectors --filename="$dev"
blkdiscard -f -o 4096 -l 1044480 "$dev"
detach "$dev"
check_clean small.qcow2
say "sectors of 4096 bytes: partitions, ext4, XFS, snapshot, less than one refused, hint at the wrong size"
say "partitions appear with attach, keep the device busy, and go with it"
