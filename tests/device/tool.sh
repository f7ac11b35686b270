#!/usr/bin/env bash
# The commands on whole disks, where a device is the disk: read live, written over what it holds; a host that fills up; shared blocks.
# needs: mkfs.btrfs btrfs
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
