#!/usr/bin/env bash
# resize of an attached disk: file systems and partitions on it follow while they are in use, requests go on, the image is sound.
# needs: fio resize2fs xfs_growfs btrfs blkid python3
. "$(dirname "$0")/lib.sh"
need fio
need python3

grow() { "$cowblk" resize "$@" 2>said || fail "resize $*: $(cat said)"; }

"$cowblk" create disk.qcow2 256M
attach dev disk.qcow2
if ! "$cowblk" resize "$dev" 512M 2>said; then
	# Before Linux 6.16: said so, and nothing has changed.
	short && grep -q 'this kernel cannot change the size' said || fail "resize: $(cat said)"
	is_size $((256 << 20)) disk.qcow2
	detach "$dev"
	check_clean disk.qcow2
	say "this kernel cannot: said so"
	exit 0
fi
is_size $((512 << 20)) disk.qcow2
grow disk.qcow2 +512M
grow "$dev" 1G
is_size $((1 << 30)) disk.qcow2
must_fail 'use --shrink if that is meant' "$cowblk" resize disk.qcow2 512M
must_fail 'use --shrink' "$cowblk" resize "$dev" -1M
must_fail 'multiple of 512' "$cowblk" resize "$dev" +1
must_fail 'too large|63' "$cowblk" resize "$dev" 7E
"$cowblk" bitmap add disk.qcow2 b
must_fail 'dirty bitmaps' "$cowblk" resize "$dev" +1M
is_size $((1 << 30)) disk.qcow2
detach "$dev"
attach dev disk.qcow2 --read-only
must_fail 'not writable' "$cowblk" resize "$dev" +1M
must_fail "attached read-only as $dev: detach it first" "$cowblk" resize disk.qcow2 +1M
detach "$dev"
check_clean disk.qcow2

# A block of the device is the least; the kernel's device does not end inside one.
rm -f disk.qcow2
"$cowblk" create disk.qcow2 64M
attach dev disk.qcow2 --block-size 4096
must_fail 'multiple of 4096' "$cowblk" resize "$dev" +512
grow "$dev" +4k
is_size $(((64 << 20) + 4096)) disk.qcow2
detach "$dev"

# A disk of 0 bytes, as QEMU makes it, has no L1 table.
rm -f disk.qcow2
qemu-img create -q -f qcow2 disk.qcow2 0
attach dev disk.qcow2
grow "$dev" 64M
is_size $((64 << 20)) disk.qcow2
head -c 1M /dev/urandom >random
dd if=random of="$dev" bs=1M seek=63 oflag=direct status=none
cmp -n $((1 << 20)) -i $((63 << 20)):0 "$dev" random || fail "a disk that had 0 bytes does not keep what is written"

# Two at once: the second one waits until the kernel knows of the first, and the kernel's size is the image's.
python3 - "${dev#/dev/ublkb}" 2>said <<'PYTHON' &
import fcntl, os, sys, time
with open("/run/cowblk/lock", "r+") as lock:
    fcntl.lockf(lock, fcntl.LOCK_EX, 1, int(sys.argv[1]))
    open("locked", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.01)
PYTHON
holder=$!
wait_for test -e locked || fail "no lock: $(cat said)"
"$cowblk" resize "$dev" 80M 2>said &
waiter=$!
wait_for grep -q 'waiting for another resize' said || fail "not a word of another resize: $(cat said)"
is_size $((64 << 20)) disk.qcow2
touch go
wait $holder $waiter || fail "the second resize: $(cat said)"
is_size $((80 << 20)) disk.qcow2
for i in $(seq 81 3 99); do
	pids=()
	for size in "$i" $((i + 1)) $((i + 2)); do
		"$cowblk" resize "$dev" "${size}M" 2>/dev/null &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do wait "$pid" || true; done # smaller: refused
	is_size $(((i + 2) << 20)) disk.qcow2
done
detach "$dev"
check_clean disk.qcow2
say "blocks of 4 KiB, from 0 bytes, several at once"

# Mounted file systems; a snapshot keeps its size; L1 moves several times: one entry for 2 MiB of 4 KiB clusters.
for fs in ext4 xfs btrfs; do
	rm -f disk.qcow2
	"$cowblk" create -o cluster_size=4k disk.qcow2 400M
	attach dev disk.qcow2
	mkfs.$fs -q "$dev" >/dev/null 2>&1
	mount_on "$dev" mnt
	head -c 8M /dev/urandom >mnt/old
	cp mnt/old old
	sync -f mnt
	"$cowblk" snapshot create disk.qcow2 small >/dev/null
	fio --name=beside --directory=mnt --rw=randwrite --bs=4k --size=6m --verify=crc32c --do_verify=1 --verify_fatal=1 --time_based=0 \
		--loops=2 --ioengine=psync --output=fio.log >/dev/null 2>&1 &
	writer=$!
	for size in 600M 601M 1100M 2200M; do
		grow "$dev" $size
		case $fs in
		ext4) resize2fs "$dev" >said 2>&1 ;;
		xfs) xfs_growfs mnt >said 2>&1 ;;
		btrfs) btrfs filesystem resize max mnt >said 2>&1 ;;
		esac || fail "$fs does not grow to $size: $(cat said)"
	done
	wait $writer || fail "fio beside it on $fs: $(grep -iE 'verify|err' fio.log | head -3)"
	is_size $((2200 << 20)) disk.qcow2
	[ "$(df -k --output=size mnt | tail -1)" -gt $((2000 << 10)) ] || fail "$fs has only $(df -k --output=size mnt | tail -1) KiB"
	fallocate -l 1700M mnt/large || fail "$fs is full"
	dd if=/dev/zero of=mnt/large bs=1M count=8 seek=1692 conv=notrunc,fsync status=none || fail "$fs: cannot write behind its old end"
	cmp mnt/old old || fail "$fs: a file changed"
	umount mnt
	"$cowblk" snapshot list disk.qcow2 | grep -q small || fail "the snapshot is gone"
	detach "$dev"
	check_clean disk.qcow2
	attach dev disk.qcow2 --read-only --snapshot small
	[ "$(bytes_of "$dev")" = $((400 << 20)) ] || fail "the snapshot has $(bytes_of "$dev") bytes"
	detach "$dev"
	"$cowblk" snapshot delete disk.qcow2 small
	check_clean disk.qcow2
	say "$fs grew from 400 to 2200 MiB, mounted and written to"
done

# A partition, an overlay, an encrypted one; what was cut off of the last cluster does not come back.
rm -f disk.qcow2
printf 'a passphrase' >key
"$cowblk" create -o encrypt.format=luks,encrypt.iter-time=10 --key-file key secret.qcow2 64M
attach dev secret.qcow2 --key-file key
grow "$dev" 96M
head -c 1M /dev/urandom >random
dd if=random of="$dev" bs=1M seek=95 oflag=direct status=none
cmp -n $((1 << 20)) -i $((95 << 20)):0 "$dev" random || fail "an encrypted disk does not keep what lies behind its old end"
detach "$dev"
"$cowblk" check secret.qcow2 >/dev/null 2>&1 || fail "cowblk check secret.qcow2: status $?"
"$cowblk" create base.qcow2 8M
"$cowblk" create -b base.qcow2 -F qcow2 top.qcow2
attach dev top.qcow2
dd if=/dev/zero bs=64k count=128 status=none | tr '\0' x | dd of="$dev" bs=64k iflag=fullblock oflag=direct status=none
detach "$dev"
"$cowblk" resize -q --shrink top.qcow2 $(((4 << 20) + 512))
attach dev top.qcow2
must_fail 'longer than the disk' "$cowblk" resize "$dev" 16M
detach "$dev"
"$cowblk" create alone.qcow2 8M
attach dev alone.qcow2
dd if=/dev/zero bs=64k count=128 status=none | tr '\0' x | dd of="$dev" bs=64k iflag=fullblock oflag=direct status=none
detach "$dev"
"$cowblk" resize -q --shrink alone.qcow2 $(((4 << 20) + 512))
attach dev alone.qcow2
grow "$dev" 16M
head -c $(((4 << 20) + 512)) /dev/zero | tr '\0' x >expected
truncate -s 16M expected
cmp "$dev" expected || fail "what was cut off came back"
detach "$dev"
check_clean alone.qcow2
qemu-img compare -q -f qcow2 -F raw alone.qcow2 expected || fail "QEMU reads something else"
say "refused where it cannot; encrypted; nothing cut off came back"
