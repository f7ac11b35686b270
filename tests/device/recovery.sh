#!/usr/bin/env bash
# A device outlives its daemon: kill -9 under fio verify with trims, and beneath a mounted ext4 that is written to. Nobody sees an error, and
# what was acknowledged is there, flushed or not.
. "$(dirname "$0")/lib.sh"
rounds=${ROUNDS:-3}
if [ "${COW_KERNEL_IS:-}" = vm ]; then
	"$cowblk" create disk.qcow2 64M
	must_fail "recovery.*Linux 7.1" "$cowblk" attach --recovery disk.qcow2
	exit 0
fi

field() { "$cowblk" list --json | tr -d ' ",' | awk -F: -v dev="$1" -v key="$2" '$1 == "device" { d = $2 } $1 == key && d == dev { print $2 }'; }

# The daemon dies, and is another one soon after.
kill_daemon()
{
	local dev=$1 pid
	pid=$(field "$dev" pid)
	[ -n "$pid" ] || fail "list --json has no pid for $dev"
	kill -9 "$pid"
	replaced() { [ -n "$(field "$dev" pid)" ] && [ "$(field "$dev" pid)" != "$pid" ] && [ "$(field "$dev" state)" = live ]; }
	wait_for replaced || fail "$dev: nobody replaces a daemon that was killed: $(cat /run/cowblk/"${dev#/dev/}".log)"
}

verify_under_kills()
{
	local name=$1 image=$2 round
	shift 2
	attach dev "$image" --recovery "$@"
	fio --name=v --filename="$dev" --ioengine=io_uring --direct=1 --rw=randtrimwrite --bs=4k --iodepth=16 --size=64m --time_based --runtime=$((2 * rounds)) \
		--verify=crc32c --verify_fatal=1 --verify_backlog=256 --output=fio.log --eta=never --randseed=7 &
	local fio=$!
	for round in $(seq "$rounds"); do
		sleep "0.$((3 + round % 5))"
		kill -0 $fio 2>/dev/null || break
		kill_daemon "$dev"
	done
	[ "$round" -gt 1 ] || fail "$name: fio was over before a daemon died"
	wait $fio || fail "$name: fio: $(tail -5 fio.log)"
	detach "$dev"
	check_clean "$image"
	say "$name: $round daemons killed"
}

"$cowblk" create plain.qcow2 128M
verify_under_kills plain plain.qcow2

"$cowblk" create disk.qcow2 1G
attach dev disk.qcow2 --recovery
mkfs.ext4 -q "$dev"
mount_on "$dev" mnt
copy_tree mnt 30000 &
copying=$!
for _ in $(seq "$rounds"); do
	sleep 0.5
	kill_daemon "$dev"
done
wait $copying || fail "a copy onto the device failed"
sums mnt > before
kill_daemon "$dev"
echo 3 > /proc/sys/vm/drop_caches
sums mnt > after
cmp before after || fail "files differ after their daemon was killed"
umount mnt
detach "$dev"
check_clean disk.qcow2
