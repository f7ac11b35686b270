#!/usr/bin/env bash
# The host is full: the guest hears ENOSPC (BLK_STS_NOSPC) and not EIO, reads and writes in place go on, the log says it once, the
# image is good, and it works again without a new attach once there is room.
. "$(dirname "$0")/lib.sh"
limit=60
mkdir host
mount -t tmpfs -o size=40M cow-host host
mounts+=(host)
"$cowblk" create host/disk.qcow2 1G
attach dev host/disk.qcow2
log=/run/cowblk/${dev#/dev/}.log
head -c 16M /dev/urandom > data

write_data() { timeout -k 5 $limit dd if=data of="$dev" bs=64K seek="$1" oflag=direct conv=fsync status=none; }
same_data() { timeout -k 5 $limit dd if="$dev" bs=64K skip="$1" count=256 iflag=direct status=none | cmp - data; }

write_data 0
for round in 1 2 3; do
	status=0
	said=$(timeout -k 5 $limit dd if=/dev/urandom of="$dev" bs=64K seek=$((round * 1000)) count=900 oflag=direct status=none 2>&1) || status=$?
	[ $status != 124 ] && [ $status != 137 ] || fail "round $round: a write to a full host hangs"
	[ $status != 0 ] || fail "round $round: 56 MiB went into a file system of 40"
	grep -q "No space left on device" <<<"$said" || fail "round $round: the guest hears '$said', not ENOSPC"
done
same_data 0 || fail "data from before is damaged or cannot be read"
write_data 0 || fail "what is allocated cannot be written in place on a full host"
same_data 0 || fail "what was written in place is damaged"
[ "$(grep -c "No space left" "$log")" = 1 ] || fail "the log does not say it once: $(cat "$log")"
! grep -q "no more writing" "$log" || fail "a full host stops all writing for good: $(cat "$log")"
said=$(cat "$log")

# What the guest gives back is room for its next write, though it is still on its way through the engine.
blkdiscard -o $((1000 * 65536)) -l $((900 * 65536)) "$dev"
write_data 7000 || fail "no room right after a discard"
for round in 1 2 3 4; do
	blkdiscard -o $(((7000 + (round - 1) * 256) * 65536)) -l $((256 * 65536)) "$dev"
	write_data $((7000 + round * 256)) || fail "round $round: no room right after a discard"
done
same_data 8024 || fail "what was written after a discard is damaged"

mount -o remount,size=200M host
write_data 5000 || fail "there is room again, and writes still fail"
same_data 5000 || fail "what was written afterwards is damaged"
same_data 0 || fail "data from before is damaged"
timeout -k 5 $limit "$cowblk" detach "$dev" || fail "detach after a full host"
check_sound host/disk.qcow2
say "room made while attached: works on; the log: $said"

# Detached while full: nothing is lost, whatever detach may say.
attach dev host/disk.qcow2
mount -o remount,size="$(($(disk_kib host/disk.qcow2) + 4096))k" host
! timeout -k 5 $limit dd if=/dev/zero of="$dev" bs=64K seek=9000 count=900 oflag=direct conv=fsync status=none 2>/dev/null || fail "not full"
timeout -k 5 $limit "$cowblk" detach "$dev" || fail "detach on a full host"
check_sound host/disk.qcow2
attach dev --read-only host/disk.qcow2
same_data 5000 && same_data 0 || fail "data is damaged after a detach on a full host"
detach "$dev"
say "detached while full: data whole"

# What the kernel could not write back is lost, and no second try brings it back: detach says so, and takes the device away. It is not a
# word worth where all that is written is thrown away.
full_host() { mount -o remount,size="$(($(disk_kib host) + 4096))k" host; }
buffered() { dd if=/dev/urandom of="$dev" bs=64K seek=10000 count=100 status=none 2>/dev/null || true; }
attach dev host/disk.qcow2
full_host
buffered
must_fail "^cowblk: .*$dev: detached, but writes had failed \(.*\): what was not written again since is lost$" \
	timeout -k 5 $limit "$cowblk" detach "$dev"
[ ! -b "$dev" ] || fail "detach left $dev, with nothing to wait for"
check_sound host/disk.qcow2
attach dev --read-only host/disk.qcow2
same_data 5000 && same_data 0 || fail "data is damaged after a failed write"
detach "$dev"
mount -o remount,size=200M host
cp host/disk.qcow2 disk.qcow2
full_host
TMPDIR=$PWD/host attach dev --temporary disk.qcow2
buffered
said=$(timeout -k 5 $limit "$cowblk" detach "$dev" 2>&1) && [ -z "$said" ] || fail "a temporary device whose writes failed: '$said'"
[ ! -b "$dev" ] || fail "detach left $dev, which is temporary"
say "writes that failed: said once, and the device goes"

# A dirty bitmap for which there is no room is lost; detach says so, or it is not lost.
attach dev host/disk.qcow2
mount -o remount,size="$(($(disk_kib host/disk.qcow2) + 8192))k" host
"$cowblk" bitmap add "$dev" b0 || fail "bitmap add"
! timeout -k 5 $limit dd if=/dev/urandom of="$dev" bs=64K seek=12000 count=900 oflag=direct status=none 2>/dev/null || fail "not full"
status=0
said=$(timeout -k 5 $limit "$cowblk" detach "$dev" 2>&1) || status=$?
wanted=enabled
if [ $status != 0 ]; then
	wanted=inconsistent
	grep -q "the disk is whole, but its dirty bitmaps are inconsistent" <<<"$said" || fail "detach said '$said'"
fi
"$cowblk" bitmap list host/disk.qcow2 | grep -q "$wanted" || fail "detach: status $status: $("$cowblk" bitmap list host/disk.qcow2)"
[ ! -b "$dev" ] || fail "$dev is still there"
check_sound host/disk.qcow2
say "a bitmap on a full host: $wanted, and detach said '$said'"
