#!/usr/bin/env bash
# resize --shrink of an attached disk: the host gets back what lay behind the new end, and nothing that is in use or partitioned is cut.
# needs: fio resize2fs python3
. "$(dirname "$0")/lib.sh"
need fio
need python3

shrink() { "$cowblk" resize --shrink "$@" 2>said || fail "resize --shrink $*: $(cat said)"; }
kib() { du -k "$1" | cut -f 1; }

"$cowblk" create disk.qcow2 128M
attach dev disk.qcow2
if ! "$cowblk" resize "$dev" 256M 2>said; then
	grep -q 'this kernel cannot change the size' said || fail "resize: $(cat said)"
	must_fail 'this kernel cannot change the size' "$cowblk" resize --shrink "$dev" 64M
	detach "$dev"
	say "this kernel cannot: said so"
	exit 0
fi

# What lay behind the end is given back while requests go on, and is zeros when the disk grows again.
head -c 64M /dev/urandom >random
for at in 0 64 128 192; do dd if=random of="$dev" bs=1M seek=$at oflag=direct status=none; done
"$cowblk" snapshot create disk.qcow2 whole >/dev/null
"$cowblk" snapshot delete disk.qcow2 whole
full=$(kib disk.qcow2)
fio --name=beside --filename="$dev" --size=100M --rw=randwrite --bs=4k --iodepth=8 --ioengine=io_uring --verify=crc32c --do_verify=1 \
	--verify_fatal=1 --io_size=40M --output=fio.log >/dev/null 2>&1 &
writer=$!
must_fail 'use --shrink if that is meant' "$cowblk" resize "$dev" 128M
must_fail 'multiple of 512' "$cowblk" resize --shrink "$dev" $(((128 << 20) + 1))
must_fail 'not 0' "$cowblk" resize --shrink "$dev" 0
is_size $((256 << 20)) disk.qcow2
shrink "$dev" 200M
shrink disk.qcow2 -72M
is_size $((128 << 20)) disk.qcow2
wait $writer || fail "fio beside it: $(grep -iE 'verify|err' fio.log | head -3)"
[ "$(kib disk.qcow2)" -lt $((full - (110 << 10))) ] || fail "the host has $(kib disk.qcow2) KiB of $full still"
dd if="$dev" of=/dev/null bs=1M skip=127 iflag=direct status=none || fail "its end cannot be read"
grow() { "$cowblk" resize "$@" 2>said || fail "resize $*: $(cat said)"; }
grow "$dev" 256M
cmp -n $((128 << 20)) -i $((128 << 20)):0 "$dev" /dev/zero || fail "what was cut off came back"
shrink "$dev" $(((64 << 20) + 512))
is_size $(((64 << 20) + 512)) disk.qcow2
detach "$dev"
check_clean disk.qcow2
say "gave back $((full - $(kib disk.qcow2))) KiB beside fio"

# Mounted as a whole: refused, and nothing has changed. Smaller after its file system: the file system is sound.
rm -f disk.qcow2
"$cowblk" create -o cluster_size=4k disk.qcow2 400M
attach dev disk.qcow2
mkfs.ext4 -q "$dev"
mount_on "$dev" mnt
head -c 8M /dev/urandom >old
cp old mnt/old
must_fail 'is in use as a whole.*mounted on' "$cowblk" resize --shrink "$dev" 300M
is_size $((400 << 20)) disk.qcow2
"$cowblk" snapshot create disk.qcow2 large >/dev/null
umount mnt
e2fsck -fp "$dev" >/dev/null || fail "e2fsck before"
resize2fs "$dev" 200M >said 2>&1 || fail "resize2fs: $(cat said)"
shrink "$dev" 200M
e2fsck -fn "$dev" >said 2>&1 || fail "the file system is broken: $(cat said)"
mount_on "$dev" mnt
cmp mnt/old old || fail "a file changed"
dd if=/dev/zero of=mnt/more bs=1M count=20 conv=fsync status=none
umount mnt
detach "$dev"
check_clean disk.qcow2
attach dev disk.qcow2 --read-only --snapshot large
[ "$(bytes_of "$dev")" = $((400 << 20)) ] || fail "the snapshot has $(bytes_of "$dev") bytes"
detach "$dev"
say "under ext4, with a snapshot of the larger disk"

# Partitions: one that ends behind the new end is in the way, one in use before it is not.
rm -f disk.qcow2
"$cowblk" create disk.qcow2 64M
attach dev disk.qcow2
python3 - "$dev" <<'PYTHON'
import struct, sys
with open(sys.argv[1], "r+b") as disk:
    mbr = bytearray(512)
    for i, (start, length) in enumerate(((2048, 40960), (45056, 40960))):
        mbr[446 + 16 * i:462 + 16 * i] = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0x83, b"\xff\xff\xff", start, length)
    mbr[510:] = b"\x55\xaa"
    disk.write(mbr)
PYTHON
blockdev --rereadpt "$dev"
wait_for test -b "${dev}p2" || fail "no partitions"
mkfs.ext4 -q "${dev}p1"
mount_on "${dev}p1" mnt
cp old mnt/old
must_fail "p2 ends at $(((45056 + 40960) * 512)) bytes, behind the new end" "$cowblk" resize --shrink "$dev" 40M
is_size $((64 << 20)) disk.qcow2
shrink "$dev" 44M
must_fail "p2 ends at" "$cowblk" resize --shrink "$dev" 30M
"$cowblk" resize --shrink "$dev" $(((45056 + 40960) * 512)) || fail "just at the end of the last partition"
cmp mnt/old old || fail "a file changed"
umount mnt
exec 7<"$dev"
shrink "$dev" $(((45056 + 40960) * 512))
exec 7<&-
detach "$dev"
check_clean disk.qcow2
say "partitions are not cut"

# Refused by the daemon: the kernel's device is as it was.
rm -f disk.qcow2
"$cowblk" create disk.qcow2 64M
"$cowblk" bitmap add disk.qcow2 b
attach dev disk.qcow2
must_fail 'dirty bitmaps' "$cowblk" resize --shrink "$dev" 32M
is_size $((64 << 20)) disk.qcow2
detach "$dev"
check_clean disk.qcow2
say "refused by the daemon: nothing has changed"
