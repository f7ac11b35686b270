#!/usr/bin/env bash
# The commands on whole disks, where a device is the disk: read live, written over what it holds; a host that fills up; one that
# cannot read or write a part; shared blocks.
# needs: mkfs.btrfs btrfs dmsetup dm-mod
. "$(dirname "$0")/lib.sh"
need mkfs.btrfs
disk=${COW_DISKS:-}
[ -b "$disk" ] || fail "no spare disk"

"$cowblk" create disk.qcow2 16M
attach dev disk.qcow2
head -c 2M /dev/urandom > data
head -c 5M /dev/zero | tr '\0' y | dd of="$dev" bs=1M oflag=direct conv=fsync status=none
dd if=data of="$dev" bs=1M seek=10 oflag=direct conv=fsync status=none

# From the device, and the image beside it, which says who has it.
must_fail 'attached as /dev/ublkb.*detach' "$cowblk" convert disk.qcow2 copy.qcow2
[ -z "$(find . -name '.cowblk-*')" ] || fail "a refused convert left a file"
"$cowblk" convert -q -f raw "$dev" copy.qcow2
check_clean copy.qcow2
"$cowblk" compare -f raw "$dev" copy.qcow2 >/dev/null || fail "the copy of a device differs"
qemu-img compare -f raw -F qcow2 "$dev" copy.qcow2 >/dev/null || fail "the copy of a device differs, says qemu-img"

# Onto the device: what it held before is gone, where the source has nothing too.
"$cowblk" create other.qcow2 16M
attach target other.qcow2
head -c 16M /dev/zero | tr '\0' z | dd of="$target" bs=1M iflag=fullblock oflag=direct conv=fsync status=none
"$cowblk" convert -q -O raw copy.qcow2 "$target"
cmp "$dev" "$target" || fail "convert onto a device that held something"
"$cowblk" create big.qcow2 17M
must_fail 'too small' "$cowblk" convert -O raw big.qcow2 "$target"
"$cowblk" convert -q -O qcow2 -c -o cluster_size=16k copy.qcow2 "$target"
qemu-img compare -f qcow2 -F qcow2 "$target" copy.qcow2 >/dev/null || fail "a qcow2 image on a device differs"
detach "$target"
# Onto one that is as large as measure says: no thread keeps room that another needs.
head -c 24M /dev/urandom > exact
truncate -s "$("$cowblk" measure -f raw exact | sed -n 's/required size: //p')" exact.img
exact=$(losetup -f --show exact.img)
"$cowblk" convert -q -m 4 -f raw exact "$exact" || fail "a device as large as measure says is too small"
qemu-img compare -f raw -F qcow2 exact "$exact" >/dev/null || fail "an image on a device without room to spare differs"
losetup -d "$exact"
detach "$dev"
check_clean other.qcow2

# A host that fills up: one line, and nothing stays.
mkdir small
mount -t tmpfs -o size=3M tmpfs small
mounts+=(small)
for options in "-O raw" "-O qcow2" "-O qcow2 -o preallocation=falloc"; do
	# shellcheck disable=SC2086
	must_fail 'No space left' "$cowblk" convert $options copy.qcow2 small/out
	[ -z "$(ls -A small)" ] || fail "convert $options on a full host left $(ls -A small)"
done
must_fail 'No space left' "$cowblk" convert copy.qcow2 copy.qcow2 small/out
[ -z "$(ls -A small)" ] || fail "two images on a full host left $(ls -A small)"
# The content has room, the bitmaps have none.
"$cowblk" create few.qcow2 8G
for i in $(seq 60); do "$cowblk" bitmap add few.qcow2 "b$i" --granularity 4k; done
attach few few.qcow2
dd if=data of="$few" bs=64k count=16 oflag=direct conv=fsync status=none
detach "$few"
must_fail 'out: .*No space left' "$cowblk" convert --bitmaps few.qcow2 small/out
[ -z "$(ls -A small)" ] || fail "bitmaps on a full host left $(ls -A small)"

# Sectors that cannot be read: all others are, and these are told. What cannot be written ends it.
need dmsetup
lame=/dev/mapper/cow-lame
printf '0 6000 linear %s 0\n6000 3 error\n6003 10381 linear %s 6003\n' "$disk" "$disk" | dmsetup create cow-lame
dd if=data of="$disk" bs=1M oflag=direct conv=fsync status=none
for _ in 1 2; do dd if=data of="$disk" bs=1M seek=$((_ * 2)) oflag=direct conv=fsync status=none; done
must_fail 'cannot read at offset' "$cowblk" convert -f raw "$lame" lame.qcow2
status=0
"$cowblk" convert --salvage -T none -f raw "$lame" lame.qcow2 >list 2>said || status=$?
[ $status = 3 ] || fail "salvage: status $status: $(cat said)"
[ "$(cat list)" = "lost: 3072000 1536" ] || fail "salvage: lost is '$(cat list)'"
check_clean lame.qcow2
head -c $((16384 * 512)) "$disk" >whole
dd if=/dev/zero of=whole bs=512 seek=6000 count=3 conv=notrunc status=none
qemu-img compare -f raw -F qcow2 whole lame.qcow2 >/dev/null || fail "salvage: other content"
# A thread may have met before that the device gives no space back, which is told once.
! "$cowblk" convert -O raw -t none lame.qcow2 "$lame" 2>said || fail "raw onto sectors that cannot be written: no failure"
grep -q 'cannot write' said || fail "raw onto sectors that cannot be written: '$(cat said)'"
head -c 5M whole >part
! "$cowblk" convert -t none -f raw part "$lame" 2>said || fail "qcow2 onto sectors that cannot be written: no failure"
grep -q 'cow-lame: .*Input/output error' said || fail "qcow2 onto sectors that cannot be written: '$(cat said)'"
must_fail 'magic|not a qcow2' "$cowblk" info "$lame"
dmsetup remove cow-lame

# Blocks are shared where the file system can.
mkfs.btrfs -q "$disk"
mount_on "$disk" shared
"$cowblk" convert -q -O raw copy.qcow2 shared/one
sync
used() { btrfs filesystem du -s --raw shared | awk 'END { print $2 }'; }
"$cowblk" convert -q -f raw -O raw shared/one shared/two
cmp shared/one shared/two || fail "a copy that shares blocks differs"
sync
say "two copies of 7 MiB: $(used) bytes of their own"
[ "$(used)" -lt $((2 << 20)) ] || fail "the copy takes room of its own"
