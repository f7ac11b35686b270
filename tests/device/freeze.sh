#!/usr/bin/env bash
# snapshot create --freeze: every file system on the device is frozen, through whatever lies between, and never another; always thawed.
# needs: dmsetup pgrep unshare setpriv blkid debugfs wipefs btrfs dm-mod dm-crypt? xts? ecb? aes_generic?
. "$(dirname "$0")/lib.sh"
need dmsetup
need pgrep
need unshare

"$cowblk" create disk.qcow2 512M
attach dev disk.qcow2
sectors=$(blockdev --getsz "$dev")
name=$(basename "$dev")
number=0

# frozen PATTERN: a snapshot, and what it says was frozen
frozen()
{
	number=$((number + 1))
	timeout 60 "$cowblk" snapshot create --freeze "$dev" "s$number" >id 2>said || fail "--freeze: status $?: $(cat said)"
	grep -qE -- "$1" said || fail "--freeze said '$(cat said)', not /$1/"
	writes "${2:-mnt}"
}
# A frozen file system lets nobody write.
writes() { timeout 10 touch "$1/thawed" || fail "$1 is still frozen"; }

must_fail "no file system on it is mounted" "$cowblk" snapshot create --freeze "$dev" nothing
"$cowblk" snapshot list "$dev" | grep -q nothing && fail "a snapshot was made although there was nothing to freeze"

# LVM on LUKS, as far as the kernel is concerned, on a partition. Nothing is in the way, so the journal is empty in the snapshot.
mkdir -p mnt
printf 'label: gpt\nstart=2048\n' | sfdisk -q "$dev" >/dev/null 2>&1 || fail sfdisk
partx -u "$dev" 2>/dev/null || true
wait_for test -b "${dev}p1" || fail "no partition"
part=$(blockdev --getsz "${dev}p1")
below="${dev}p1"
key=$(printf '%0128d' 7)
crypt() { dmsetup create secret --table "0 $part crypt aes-xts-plain64 $key 0 ${dev}p1 0"; }
if crypt 2>crypt.log; then
	maps=(secret)
	below=/dev/mapper/secret
else
	short || fail "dm-crypt: $(cat crypt.log)" # the VM may lack the module or the cipher
fi
map volume "0 400000 linear $below 0"
mkfs.ext4 -q /dev/mapper/volume
mount_on /dev/mapper/volume mnt
head -c 3000000 /dev/urandom > mnt/newest
frozen "^cowblk: froze ext4 on /dev/mapper/volume \(on $below.*, on $dev\), mounted on $PWD/mnt$"
must_fail "in use: /dev/mapper/volume \(on $below.*on $dev\) is mounted on $PWD/mnt: unmount" "$cowblk" detach "$dev"
sum=$(sha256sum < mnt/newest)

# In a file of a file system on the device.
truncate -s 64M mnt/inner
mkfs.ext4 -q mnt/inner
mkdir inner
loop=$(losetup -f --show mnt/inner)
mount_on "$loop" inner
frozen "^cowblk: froze ext4 on $loop \(on /dev/mapper/volume, on .*\), mounted on $PWD/inner$" inner
[ "$(grep -c 'froze ext4' said)" = 2 ] || fail "not both: $(cat said)"
umount inner
losetup -d "$loop"

# Mounted over: the file system below is frozen, the one above is not, which is this machine's.
mount -t tmpfs above mnt
mounts=(mnt "${mounts[@]}")
frozen "^cowblk: froze ext4 on /dev/mapper/volume"
umount mnt
[ -f mnt/newest ] || fail "another mount has gone"
writes mnt
mkdir mnt/deep
mount --bind mnt/deep inner
umount mnt
mkdir outer
mount_on /dev/mapper/volume mnt
mount -t tmpfs above "$PWD/mnt"
frozen "^cowblk: froze ext4"
umount mnt
umount inner

# Only one of its files is to be seen, in another place.
touch file
mount --bind mnt/newest file
umount mnt
frozen "froze ext4 on /dev/mapper/volume .*, mounted on $PWD/file$" .
[ "$(sha256sum < file)" = "$sum" ] || fail "the file has changed"
umount file

# In another mount namespace only.
mkfifo go
unshare --mount --propagation private bash -c 'mount /dev/mapper/volume mnt; echo 1 > ready; read -r _ < go; umount mnt' &
other=$!
wait_for test -f ready
mountpoint -q mnt && fail "it is mounted here too"
frozen "froze ext4 .*, mounted on $PWD/mnt in the mount namespace of process [0-9]+ \(bash\)$" .
must_fail "volume .*is mounted on $PWD/mnt in the mount namespace of process [0-9]+ \(bash\): unmount" "$cowblk" detach "$dev"
echo > go
wait $other || fail "the other namespace did not end"
must_fail "in use: $below.* is held by /dev/mapper/volume: unmount" "$cowblk" detach "$dev"
dmsetup remove volume
[ $below != /dev/mapper/secret ] || dmsetup remove secret
maps=()

# What was frozen needs no recovery: through the same layers, from the first snapshot.
attach old disk.qcow2 --read-only --snapshot s1
map volume_then "0 400000 linear ${old}p1 0"
if [ $below = /dev/mapper/secret ]; then
	dmsetup remove volume_then
	maps=()
	map secret_then "0 $part crypt aes-xts-plain64 $key 0 ${old}p1 0"
	map volume_then "0 400000 linear /dev/mapper/secret_then 0"
fi
debugfs -R features /dev/mapper/volume_then 2>/dev/null | grep -q needs_recovery && fail "the snapshot needs recovery"
mount -o ro /dev/mapper/volume_then mnt
mounts+=(mnt)
[ "$(sha256sum < mnt/newest)" = "$sum" ] || fail "the newest file is not in the snapshot"
umount mnt
for map in "${maps[@]}"; do dmsetup remove "$map"; done
maps=()
detach "$old"

# The second device of a btrfs.
truncate -s 200M first
loop=$(losetup -f --show first)
wipefs -qa "$dev"; partx -d "$dev" 2>/dev/null || true
mkfs.btrfs -q -f "$loop" "$dev"
mount_on "$loop" mnt
frozen "froze btrfs on $dev, mounted on $PWD/mnt$"
must_fail "in use: $dev is mounted on $PWD/mnt: unmount" "$cowblk" detach "$dev"

# A namespace whose /sys says of a btrfs of its own that it lies on the device: nobody asks there.
truncate -s 200M theirs
theirs=$(losetup -f --show theirs)
mkfs.btrfs -q -f "$theirs"
uuid=$(blkid -s UUID -o value "$theirs")
rm ready
unshare --mount --propagation private bash -c "mount $theirs inner; mount -t tmpfs none /sys; mkdir -p /sys/fs/btrfs/$uuid/devices/$name
	echo 1 > ready; read -r _ < go; umount inner" &
other=$!
wait_for test -f ready
frozen "froze btrfs on $dev, mounted on $PWD/mnt$"
! grep -q "$PWD/inner" said || fail "another's file system was frozen: $(cat said)"
echo > go
wait $other || fail "the other namespace did not end"
losetup -d "$theirs"

# Who may not see all namespaces says so.
timeout 60 setpriv --bounding-set=-sys_ptrace "$cowblk" snapshot create --freeze "$dev" blind >id 2>said || fail "--freeze without CAP_SYS_PTRACE: $(cat said)"
grep -q 'not all processes and mount namespaces' said || fail "blind, and nothing is said of it: $(cat said)"
if unshare --pid --fork true 2>/dev/null; then # the kernel has process namespaces
	timeout 60 unshare --pid --fork --mount-proc "$cowblk" snapshot create --freeze "$dev" alone >id 2>said || fail "--freeze in a container: $(cat said)"
	grep -q 'not all processes and mount namespaces' said || fail "in a container, and nothing is said of it: $(cat said)"
	grep -q 'froze btrfs' said || fail "nothing was frozen in a container: $(cat said)"
fi
umount mnt
losetup -d "$loop"
wipefs -qa "$dev"

# A freeze that waits for the disk while a process ends. The file system is not shut down: neither when the process is not the daemon,
# whose number is another's in this process namespace, nor when a part of it lies elsewhere.
daemon_of() { sed -n 's/.*"pid":\([0-9]*\).*/\1/p' "/run/cowblk/$name.json"; }
daemon=$(daemon_of)
# freeze_while_ending PROCESS SECTORS-ELSEWHERE
freeze_while_ending()
{
	map volume "$(printf '0 %s linear %s 0\n' "$2" "$loop" | grep -v '^0 0 ')
$2 $((700000 - $2)) linear $dev 0"
	mkfs.xfs -q -f /dev/mapper/volume
	mount_on /dev/mapper/volume mnt
	touch mnt/old
	sync -f mnt
	kill -STOP "$daemon" # it is asked when the owner of the freeze has found the file systems
	timeout 60 "$cowblk" snapshot create --freeze "$dev" "while$2" >id 2>said &
	command=$!
	wait_for pgrep -x cowblk-freeze >/dev/null || fail "nobody freezes"
	sleep 0.5
	dmsetup suspend --nolockfs --noflush volume
	touch mnt/new
	kill -CONT "$daemon"
	sleep 0.5
	kill -9 "$1"
	sleep 1.5
	dmsetup resume volume
	wait $command || true
	grep -q 'froze xfs' said || fail "it was not frozen: $(cat said)"
	{ touch mnt/alive && sync -f mnt; } || fail "a file system that lives was shut down: $(cat said)"
	umount mnt
	dmsetup remove volume
	maps=()
}
truncate -s 350M elsewhere
loop=$(losetup -f --show elsewhere)
sleep 1000 &
other=$!
cp "/run/cowblk/$name.json" record
sed "s/\"pid\":$daemon/\"pid\":$other/" record >"/run/cowblk/$name.json"
freeze_while_ending $other 0
cp record "/run/cowblk/$name.json"
freeze_while_ending "$daemon" 650000
losetup -d "$loop"
"$cowblk" detach "$dev" 2>/dev/null || fail "detach of a dead daemon's device"
check_sound disk.qcow2
say "frozen through partitions, LUKS, LVM, loop, mounts over it, files, namespaces, as second device of a btrfs; nothing else; what lives is not shut down"
