#!/usr/bin/env bash
# Whatever dies, a freeze ends; and a device that is taken away has got all that was written to its file systems.
# needs: pgrep unshare
. "$(dirname "$0")/lib.sh"
need pgrep
need mkfs.btrfs

# A device with a file system of type $3 mounted: device NAME FOLDER TYPE.
device()
{
	"$cowblk" create "$1.qcow2" 512M
	attach "$1" "$1.qcow2"
	"mkfs.$3" -q "${!1}"
	mount_on "${!1}" "$2"
}

# A command that has frozen and can do nothing more, since nobody reads what it says: freeze_and_wait FIFO DEVICE FOLDER.
# $command is its process, $toucher one that waits for the thaw.
freeze_and_wait()
{
	mkfifo "$1"
	exec 5<>"$1"
	head -c 65536 /dev/zero >&5
	"$cowblk" snapshot create --freeze "$2" "$1" 2>&5 5>&- >/dev/null &
	command=$!
	for _ in $(seq 50); do
		touch "$3/probe" &
		toucher=$!
		sleep 0.2
		is_gone $toucher || return 0
	done
	fail "$3 was not frozen"
}
daemon_of() { sed -n 's/.*"pid":\([0-9]*\).*/\1/p' "/run/cowblk/$(basename "$1").json"; }
is_gone() { ! kill -0 "$1" 2>/dev/null; }

loops=()

# Nobody thaws but the time: looked at in the end.
device slow slow ext4
# So many file systems that what is told of them has no room on the way to a command that reads nothing.
for i in 1 2 3 4 5 6; do
	truncate -s 4M "slow/inner$i"
	mkfs.ext4 -q "slow/inner$i"
	loop=$(losetup -f --show "slow/inner$i")
	loops+=("$loop")
	mount_on "$loop" "inner$i"
done
room=$(cat /proc/sys/net/core/wmem_default)
echo 4608 >/proc/sys/net/core/wmem_default
freeze_and_wait slow.said "$slow" inner6
echo "$room" >/proc/sys/net/core/wmem_default
slow_toucher=$toucher slow_command=$command slow_since=$SECONDS
exec 6<&5 5>&-

# The command is killed.
device dev mnt ext4
freeze_and_wait killed.said "$dev" mnt
kill -9 $command
wait_for is_gone $toucher || fail "a killed command leaves its file system frozen"
exec 5>&-
"$cowblk" snapshot create "$dev" after >/dev/null || fail "the daemon still waits for a command that is gone"
"$cowblk" snapshot list "$dev" | grep -q killed.said && fail "a snapshot was made of what was not frozen"

# The owner of the freeze is killed: the command thaws, and says so.
freeze_and_wait owner.said "$dev" mnt
owner=$(pgrep -x -P $command cowblk-freeze) || fail "who owns the freeze?"
kill -9 "$owner"
sleep 0.2
is_gone $toucher && fail "nothing was frozen any more"
cat <&5 >owner.text &
reader=$!
status=0
wait $command || status=$?
kill $reader
[ $status = 1 ] || fail "the owner was killed: status $status"
wait_for is_gone $toucher || fail "a killed owner leaves its file system frozen"
exec 5>&-

# The daemon is killed: the command ends, whatever becomes of the file system.
freeze_and_wait daemon.said "$dev" mnt
kill -9 "$(daemon_of "$dev")"
cat <&5 >daemon.text &
reader=$!
status=0
since=$SECONDS
wait $command || status=$?
kill $reader
[ $status = 1 ] && [ $((SECONDS - since)) -lt 40 ] || fail "the daemon was killed: status $status after $((SECONDS - since)) s"
exec 5>&-
umount mnt 2>/dev/null || umount -l mnt
"$cowblk" detach "$dev" >/dev/null 2>&1 || fail "detach of a dead daemon's device"

# btrfs writes nothing when its device goes: it is done before. In another namespace too.
device tree tree btrfs
dd if=/dev/urandom of=tree/file bs=1M count=8 status=none
sum=$(sha256sum <tree/file)
daemon=$(daemon_of "$tree")
kill -TERM "$daemon"
wait_for is_gone "$daemon" || fail "SIGTERM did not detach"
umount tree
attach tree tree.qcow2
mount_on "$tree" tree
[ "$(sha256sum <tree/file)" = "$sum" ] || fail "SIGTERM lost a file"
umount tree
mkfifo go
unshare --mount --propagation private bash -c "mount $tree tree; dd if=/dev/urandom of=tree/second bs=1M count=8 status=none; sha256sum <tree/second >sum; echo > ready; read -r _ <go" &
other=$!
wait_for test -f ready
must_fail "mounted on $PWD/tree in the mount namespace of process [0-9]+ \(bash\)" "$cowblk" detach "$tree"
"$cowblk" detach --force "$tree" || fail "detach --force"
echo >go
wait $other || true
attach tree tree.qcow2
mount_on "$tree" tree
[ "$(sha256sum <tree/second)" = "$(cat sum)" ] || fail "detach --force lost a file"
umount tree
detach "$tree"
check_clean tree.qcow2

# 30 seconds are enough.
while ! is_gone $slow_toucher; do
	[ $((SECONDS - slow_since)) -lt 45 ] || fail "a command that waits keeps its file system frozen"
	sleep 0.2
done
cat <&6 >slow.text &
reader=$!
status=0
wait $slow_command || status=$?
wait_for grep -aq 'thawed after 30 s' slow.text || fail "nothing is said of the time: $(tr -d '\0' <slow.text)"
kill $reader
[ $status = 1 ] || fail "frozen too long: status $status"
for i in 1 2 3 4 5 6; do umount "inner$i"; done
losetup -d "${loops[@]}"
umount slow
detach "$slow"
say "thawed when command, owner or daemon are killed, and after 30 s; btrfs is written back before the device goes"
