#!/usr/bin/env bash
# log_writes CLUSTER: what reaches the disk under the image is logged (dm-log-writes) while a file system on the device is at work.
# Then each state that a crash could have left is made again: the image has no errors, and in a sample of them the file system
# inside has none and every file that was fsynced before is whole.
# needs: dmsetup python3 dm-log-writes
. "$(dirname "$0")/lib.sh"
cluster=${1:-64K} sample=${COW_LOG_SAMPLE:-11} files=24 trim=7 qemu=1 mib=2048
# An emulated CPU takes its time to start qemu-img: fewer files, trimmed as often, and QEMU looks at every third state.
! short || files=16 trim=4 qemu=3
files=${COW_LOG_FILES:-$files}
here=$(dirname "$0")
need dmsetup
need python3
disk=${COW_DISKS:-}
disk=${disk%% *}
[ -n "$disk" ] || skip "no spare disk"
dmsetup targets | grep -q log-writes || skip "the kernel has no dm-log-writes"

# Writes files of random length; each one's number goes into the log once it and its folder are durable. Every third stays.
writer()
{
	local n
	for n in $(seq "$1" "$2"); do
		head -c $((RANDOM * 8 + 1)) /dev/urandom > "mnt/$n"
		sync "mnt/$n" mnt
		sha256sum "mnt/$n" >> durable
		dmsetup message cow-logged 0 mark "$n"
		[ $((n % 3)) != 0 ] || rm -f "mnt/$((n - 1))" "mnt/$((n - 2))"
		[ $((n % trim)) != 0 ] || fstrim mnt
	done
}

# The file system on the copy, as after a power cut: its journal is replayed, then it has no errors, and what was durable is there.
inspect()
{
	local mark=$1 where=$2 n name sum status=0
	cp --sparse=always prefix.qcow2 copy.qcow2
	attach inner copy.qcow2
	e2fsck -E journal_only -p "$inner" >fsck.log 2>&1 || status=$?
	[ $status -le 1 ] || fail "$where: the journal cannot be replayed: $(tail -2 fsck.log)"
	e2fsck -fn "$inner" >fsck.log 2>&1 || fail "$where: the file system has errors: $(tail -3 fsck.log)"
	mount_on "$inner" look
	while read -r sum name; do
		n=${name#mnt/}
		[ "$n" -le "$mark" ] || break
		if [ ! -f "look/$n" ]; then
			[ "$n" != "$mark" ] && [ $((n % 3)) != 0 ] || fail "$where: file $n was fsynced and is gone"
			continue
		fi
		[ "$(sha256sum < "look/$n" | cut -d ' ' -f 1)" = "$sum" ] || fail "$where: file $n was fsynced and is damaged"
		verified=$((verified + 1))
	done < durable
	umount look
	detach "$inner"
	check_sound copy.qcow2
}

map cow-image "0 $((192 * mib)) linear $disk 0"
map cow-log "0 $((1500 * mib)) linear $disk $((192 * mib))"
qemu-img create -q -f qcow2 -o "cluster_size=$cluster" /dev/mapper/cow-image 64M
dd if=/dev/mapper/cow-image of=prefix.qcow2 bs=1M conv=sparse status=none
map cow-logged "0 $((192 * mib)) log-writes /dev/mapper/cow-image /dev/mapper/cow-log"
attach dev /dev/mapper/cow-logged
mkfs.ext4 -q "$dev"
mount_on "$dev" mnt
writer 1 $((files / 2))
# From here on clusters are shared: everything is copied before it is written.
"$cowblk" snapshot create "$dev" between >/dev/null 2>&1 || fail "snapshot create"
writer $((files / 2 + 1)) $((files * 3 / 4))
"$cowblk" snapshot delete "$dev" between >/dev/null 2>&1 || fail "snapshot delete"
writer $((files * 3 / 4 + 1)) "$files"
umount mnt
detach "$dev"
dmsetup remove cow-logged
check_clean /dev/mapper/cow-image

states=0 inspected=0 verified=0 torn=0
coproc replay { exec python3 "$here/log_replay.py" /dev/mapper/cow-log prefix.qcow2 4711; }
while read -r number kind mark <&"${replay[0]}"; do
	[ "$kind" != end ] || break
	if [ "$kind" = mark ]; then
		chosen=$((mark % 4))
	else
		states=$((states + 1))
		chosen=$((states % sample))
		[ "$kind" != torn ] || torn=$((torn + 1))
		sound_by prefix.qcow2 "$cowblk" check
		[ $((states % qemu)) != 0 ] || sound_by prefix.qcow2 qemu-img check
	fi
	if [ "$mark" != none ] && [ $chosen = 0 ]; then
		inspect "$mark" "entry $number ($kind)"
		inspected=$((inspected + 1))
	fi
	echo go >&"${replay[1]}"
done
[ "${kind:-}" = end ] && [ "$mark" = "$files" ] || fail "the log was not replayed to its end: it ends at '${number:-} ${mark:-}'"
cmp prefix.qcow2 /dev/mapper/cow-image || fail "the replayed log is not what is on the disk"
[ $torn -gt $((files * 5 / 6)) ] && [ $inspected -gt 5 ] || fail "$states states, $torn torn, $inspected inspected: the test proved nothing"
say "$cluster clusters: $number writes, $states states ($torn torn) sound, $inspected file systems without errors, $verified fsynced files whole"
