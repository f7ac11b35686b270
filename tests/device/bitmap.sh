#!/usr/bin/env bash
# Dirty bitmaps of an attached device: incremental backups of a disk in use, as the man page has it, and every command under load.
. "$(dirname "$0")/lib.sh"
need qemu-img

# Copies from a device what a bitmap says is dirty: copy_dirty EXTENTS FROM TO.
copy_dirty()
{
	local offset length
	while read -r offset length; do
		dd if="$2" of="$3" bs=1M iflag=skip_bytes,count_bytes oflag=seek_bytes skip="$offset" seek="$offset" count="$length" \
			conv=notrunc status=none || fail "copying $length bytes at $offset"
	done <"$1"
}

sum_of() { awk '{ sum += $2 } END { print sum + 0 }' "$1"; }

"$cowblk" create disk.qcow2 64M
attach dev disk.qcow2
mkfs.ext4 -q "$dev"
mount_on "$dev" mnt
copy_tree mnt 8000
must_fail 'no bitmap' "$cowblk" bitmap dump "$dev" monday

# Full backup: a bitmap first, then a snapshot, then a copy of that. What is written in between is copied twice, nothing never.
"$cowblk" bitmap add disk.qcow2 monday || fail "bitmap add"
"$cowblk" snapshot create --freeze disk.qcow2 full >/dev/null || fail "snapshot create"
attach full disk.qcow2 --read-only --snapshot full
dd if="$full" of=backup bs=1M status=none
detach "$full"
[ "$("$cowblk" bitmap list --json "$dev" | grep -c enabled)" = 1 ] || fail "the bitmap is not enabled: $("$cowblk" bitmap list "$dev")"
qemu-img info -U --output=json disk.qcow2 | grep -q in-use || fail "QEMU would believe a bitmap that is in use"

mkdir mnt/new
dd if=/dev/urandom of=mnt/new/file bs=1M count=3 status=none
rm -rf "$(find mnt -mindepth 1 -maxdepth 1 -type d ! -name new ! -name lost+found | head -n 1)"
sync -f mnt

# Incremental: the next bitmap, a snapshot, then what the last bitmap says.
"$cowblk" bitmap add "$dev" tuesday || fail "bitmap add"
"$cowblk" snapshot create --freeze disk.qcow2 next >/dev/null || fail "snapshot create"
"$cowblk" bitmap disable disk.qcow2 monday || fail "bitmap disable"
echo "not in the backup" >mnt/new/later
fstrim mnt
sync -f mnt
"$cowblk" bitmap dump disk.qcow2 monday >extents || fail "bitmap dump"
attach next disk.qcow2 --read-only --snapshot next
copy_dirty extents "$next" backup
cmp "$next" backup || fail "the incremental backup is not the disk of that time"
detach "$next"
copied=$(sum_of extents)
[ "$copied" -ge $((3 << 20)) ] && [ "$copied" -lt $((20 << 20)) ] || fail "$copied bytes are dirty"
"$cowblk" bitmap remove "$dev" monday || fail "bitmap remove"
"$cowblk" snapshot delete disk.qcow2 full || fail "snapshot delete"
"$cowblk" bitmap dump "$dev" tuesday >extents || fail "bitmap dump"
[ -s extents ] || fail "tuesday has not seen the last write"
umount mnt
detach "$dev"
check_clean disk.qcow2
"$cowblk" bitmap dump disk.qcow2 tuesday >closed || fail "bitmap dump of the closed image"
qemu-img convert -f qcow2 -O raw disk.qcow2 now
copy_dirty closed now backup
cmp now backup || fail "the second incremental backup is not the disk"
say "full backup, then $((copied >> 10)) KiB and $(($(sum_of closed) >> 10)) KiB of 64 MiB, of a mounted file system"

# Every command while fio writes; what stays enabled all the time has seen all of it.
"$cowblk" snapshot delete disk.qcow2 next
qemu-img convert -f qcow2 -O raw disk.qcow2 old
"$cowblk" bitmap clear disk.qcow2 tuesday || fail "bitmap clear"
attach dev disk.qcow2
fio --name=load --filename="$dev" --rw=randwrite --bs=4k --iodepth=16 --ioengine=io_uring --direct=1 --io_size=1g --time_based --runtime=4 \
	--offset=16m --size=16m >fio.log 2>&1 &
load=$!
for round in 1 2 3; do
	"$cowblk" bitmap add "$dev" "b$round" --granularity "$((4 << round))k" || fail "add under load"
	"$cowblk" bitmap merge "$dev" "b$round" tuesday || fail "merge under load"
	"$cowblk" bitmap clear "$dev" "b$round" || fail "clear under load"
	"$cowblk" bitmap disable "$dev" "b$round" || fail "disable under load"
	"$cowblk" bitmap dump "$dev" "b$round" >/dev/null || fail "dump under load"
	"$cowblk" bitmap enable "$dev" "b$round" || fail "enable under load"
done
must_fail 'already' "$cowblk" bitmap add "$dev" b1
must_fail 'no bitmap' "$cowblk" bitmap remove "$dev" b9
wait $load || fail "fio: $(tail -n 5 fio.log)"
"$cowblk" bitmap dump --json "$dev" tuesday >live.json || fail "dump --json"
"$cowblk" bitmap remove "$dev" b2 || fail "remove"
detach "$dev"
check_clean disk.qcow2
"$cowblk" bitmap dump --json disk.qcow2 tuesday >closed.json
cmp live.json closed.json || fail "detached, the bitmap says something else"
"$cowblk" bitmap dump disk.qcow2 tuesday >extents
qemu-img convert -f qcow2 -O raw disk.qcow2 now
copy_dirty extents now old
cmp now old || fail "something was written that the bitmap has not seen"
[ "$("$cowblk" bitmap list disk.qcow2 | grep -c enabled)" = 3 ] || fail "not three bitmaps: $("$cowblk" bitmap list disk.qcow2)"
say "commands under load: nothing written was missed"

# A daemon that dies: nobody believes what was recording.
attach dev disk.qcow2 --no-recovery
"$cowblk" bitmap disable "$dev" b1
dd if=/dev/zero of="$dev" bs=64k count=4 oflag=direct status=none
kill -9 "$("$cowblk" list --json | tr -d ' ",' | awk -F: '$1 == "pid" { print $2 }')"
wait_for "$cowblk" detach --force "$dev" 2>/dev/null || fail "the dead daemon's device stays"
[ "$("$cowblk" bitmap list disk.qcow2 | grep -c inconsistent)" = 2 ] || fail "believed after a crash: $("$cowblk" bitmap list disk.qcow2)"
must_fail 'inconsistent' "$cowblk" bitmap dump disk.qcow2 tuesday
"$cowblk" bitmap dump disk.qcow2 b1 >/dev/null || fail "a disabled bitmap is gone with the crash"
"$cowblk" bitmap remove disk.qcow2 tuesday || fail "an inconsistent bitmap cannot be removed"
check_sound disk.qcow2
say "a dead daemon leaves inconsistent bitmaps, disabled ones are whole"
