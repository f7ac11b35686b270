#!/usr/bin/env bash
# A burst's memory is given back; and memory is short: writers in a cgroup that must write back to the device before they get another page, then everybody on a machine
# that is nearly out of memory, the daemon included. It must come to an end, and no task may hang in the kernel.
# Taking the memory is the slow part on User-Mode Linux (a minute a GiB), so the machine is small.
# memory: 640M
# needs: mkswap swapon swapoff
. "$(dirname "$0")/lib.sh"
cgroup=/sys/fs/cgroup
[ -f $cgroup/cgroup.controllers ] || skip "no cgroup2"
grep -qw memory $cgroup/cgroup.controllers || skip "no memory controller"
limit=240 blocks=480
# An emulated CPU: less to write, and more time for it. What hangs there is found by the kernel, too.
! short || { limit=500 blocks=160; }
disk=${COW_DISKS:-}
disk=${disk%% *}
[ -n "$disk" ] || skip "no spare disk (images on tmpfs would be the memory that is short)"
echo +memory > $cgroup/cgroup.subtree_control 2>/dev/null || skip "the memory controller cannot be used"
[ ! -f /proc/sys/kernel/hung_task_timeout_secs ] || echo 20 > /proc/sys/kernel/hung_task_timeout_secs
hung() { dmesg | grep -cE "blocked for more than|blocked in I/O wait" || true; }
hung_before=$(hung)
group=$cgroup/cow-writers

mkfs.ext4 -q -F "$disk"
mount_on "$disk" host
"$cowblk" create host/disk.qcow2 1G
attach dev host/disk.qcow2

# A burst of the largest requests takes memory, which is given back when it is over.
rss_kib() { awk '$1 == "Rss:" { print $2 }' "/proc/$daemon/smaps_rollup"; }
rested() { [ "$(rss_kib)" -lt $((small + 2048)) ]; }
daemon=$("$cowblk" list --json | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
small=$(rss_kib)
[ "$small" -lt 24576 ] || fail "at rest the daemon has $small KiB"
# The daemon stands until they are all there, or it would do them one by one on a busy machine.
kill -STOP "$daemon"
fio --name=burst --filename="$dev" --direct=1 --ioengine=io_uring --iodepth=48 --rw=read --bs=1M --size=192M --output=fio.log >/dev/null &
burst=$!
waiting() { [ "$(awk '{ print $1 + $2 }' "/sys/block/${dev#/dev/}/inflight")" -ge 32 ]; }
wait_for waiting || fail "only $(cat "/sys/block/${dev#/dev/}/inflight") requests wait"
kill -CONT "$daemon"
wait $burst || fail "fio: $(head -3 fio.log)"
large=$(rss_kib)
[ "$large" -gt $((small + 24576)) ] || fail "no burst: from $small to $large KiB: the test proved nothing"
sleep 4
wait_for rested || fail "of $large KiB the daemon still has $(rss_kib), $small before the burst"
say "memory of the daemon: $small KiB, in a burst $large KiB, then $(rss_kib) KiB"

# What the kernel swaps to keeps all that it can ever need, from then on.
mkswap "$dev" >/dev/null
swapon "$dev"
kept() { large=$(rss_kib); [ "$large" -gt $((small + 49152)) ]; }
wait_for kept || fail "used for swap, the daemon has $large KiB, $small before"
swapoff "$dev"
say "memory of the daemon, with swap on the device: $large KiB"
detach "$dev"
attach dev host/disk.qcow2

mkfs.ext4 -q "$dev"
mount_on "$dev" mnt

killed() { awk '$1 == "oom_kill" { print $2 }' $group/memory.events; }

# write_in MIB: three writers, in a group of so much memory that buffered writes must wait for the device again and again: more than
# fits it many times, and fsyncs. A group that has no room for what the kernel keeps for the writers (their stacks, tables of a
# file's blocks) is no fault of the device: a larger one.
write_in()
{
	local mib=$1 status
	while :; do
		mkdir -p $group
		echo "${mib}M" > $group/memory.max
		status=0
		timeout -k 5 $limit "$COW_TOOLS/write_files" $group $blocks mnt/1 mnt/2 mnt/3 || status=$?
		# 137 is what timeout makes of a killed writer too.
		if [ "$(killed)" = 0 ]; then
			[ $status != 124 ] && [ $status != 137 ] || fail "the writers hang in $mib MiB: $(dmesg | tail -5)"
			break
		fi
		say "$mib MiB are too little for the writers themselves: $(killed) were killed"
		[ $mib -lt 64 ] || fail "the writers are killed in $mib MiB: $(dmesg | grep -i oom | tail -3)"
		echo 1 > $group/cgroup.kill # those whose parent was killed go on
		wait_for rmdir $group 2>/dev/null || fail "the writers' group does not end"
		mib=$((mib * 3 / 2))
	done
	[ $status = 0 ] || fail "a writer failed in $mib MiB: status $status"
	used_mib=$mib
}

# write_under MIB NAME
write_under()
{
	local start=$SECONDS pressed used_mib
	write_in "$1"
	pressed=$(awk '$1 == "max" { print $2 }' $group/memory.events)
	[ "$pressed" -gt 0 ] || fail "$2: the limit was never reached: the test proved nothing"
	for n in 1 2 3; do
		for part in 1 2 3; do
			[ "$(stat -c %s "mnt/$n.$part")" = $((blocks << 16)) ] || fail "$2: file $n.$part is short"
			[ -z "$(tr -d "\\$n" < "mnt/$n.$part" | head -c 1)" ] || fail "$2: file $n.$part is damaged"
		done
	done
	say "$2: $((9 * blocks / 16)) MiB in $((SECONDS - start)) s in a group of $used_mib MiB, whose limit was met $pressed times"
	rm -f mnt/[123].[123]
	rmdir $group
}

write_under 16 "writers"

# Now the rest of the machine too: all but some 100 MiB is taken by a file in tmpfs, which cannot be given back.
free_mib=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
mkdir hog
mount -t tmpfs -o size=100% cow-hog hog
mounts+=(hog)
head -c $((free_mib - 120))M /dev/zero > hog/hog || fail "the memory cannot be taken"
left=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
write_under 24 "writers, with $left MiB left on the machine"
umount hog
umount mnt
detach "$dev"
check_sound host/disk.qcow2
[ "$(hung)" = "$hung_before" ] || fail "the kernel reports hung tasks: $(dmesg | grep -A3 "blocked for" | head -8)"
umount host
rmdir $group 2>/dev/null || true
