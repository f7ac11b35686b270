#!/usr/bin/env bash
# An attached image is known by its file, not by the path that it had: renamed, another in its place, linked, deleted.
# needs: losetup
. "$(dirname "$0")/lib.sh"

# A file system of an NFS server, this kernel itself: no program answers its questions, they are answered in advance. For 10 seconds it
# lets nobody open a file, so it starts here and is used at the end.
serve()
{
	local for_ever=2147483647 flags=$((0x2402)) # fsid=0, no_subtree_check, insecure
	mkdir exported
	mount -t tmpfs -o mode=755 exported exported
	mounts+=(exported)
	mount -t nfsd nfsd /proc/fs/nfsd
	echo 10 >/proc/fs/nfsd/nfsv4leasetime
	echo 10 >/proc/fs/nfsd/nfsv4gracetime
	echo -3 >/proc/fs/nfsd/versions
	echo "tcp 2049" >/proc/fs/nfsd/portlist
	printf 'nfsd 127.0.0.1 %s all\n' $for_ever >/proc/net/rpc/auth.unix.ip/channel
	printf 'all %s %s %s 65534 65534 0\n' "$PWD/exported" $for_ever $flags >/proc/net/rpc/nfsd.export/channel
	printf 'all 1 \\x00000000 %s %s\n' $for_ever "$PWD/exported" >/proc/net/rpc/nfsd.fh/channel
	echo 2 >/proc/fs/nfsd/threads
}
served=no
if grep -qw nfsd /proc/filesystems && grep -qw nfs4 /proc/filesystems; then
	serve
	served=yes
else
	short || fail "this kernel cannot serve NFS"
fi

"$cowblk" create disk.qcow2 64M
attach dev disk.qcow2
"$cowblk" snapshot create disk.qcow2 before >/dev/null || fail "snapshot by the name it was attached by"
mv disk.qcow2 moved.qcow2
"$cowblk" create disk.qcow2 64M
name=$(basename "$dev")

"$cowblk" list | grep -qE "^$dev .*renamed or deleted$" || fail "list does not tell: $("$cowblk" list)"
"$cowblk" list --json | grep -q '"moved": true' || fail "list --json does not tell"
must_fail 'no longer at' "$cowblk" snapshot list "$dev"
must_fail 'no longer at' "$cowblk" info "$dev"
"$cowblk" snapshot create disk.qcow2 other >/dev/null || fail "snapshot of the new file under the old name"
"$cowblk" bitmap add disk.qcow2 other || fail "bitmap add to the new file under the old name"
"$cowblk" snapshot create moved.qcow2 mine >/dev/null || fail "snapshot by its new name"
"$cowblk" bitmap add moved.qcow2 mine || fail "bitmap add by its new name"
"$cowblk" bitmap list "$dev" | grep -q mine || fail "the device lacks its bitmap"
"$cowblk" bitmap list "$dev" | grep -q other && fail "the other file's bitmap went to the device"
"$cowblk" snapshot list moved.qcow2 | grep -q mine || fail "the device lacks its snapshot"
"$cowblk" snapshot list moved.qcow2 | grep -q other && fail "the other file's snapshot went to the device"
"$cowblk" snapshot list disk.qcow2 | grep -q other || fail "the new file lacks its snapshot"
"$cowblk" snapshot list disk.qcow2 | grep -q mine && fail "the device's snapshot went to the new file"
ln moved.qcow2 link.qcow2
"$cowblk" snapshot create link.qcow2 linked >/dev/null || fail "snapshot by a hard link"
must_fail "attached as $dev" "$cowblk" attach link.qcow2
must_fail 'attached as' "$cowblk" snapshot apply moved.qcow2 before

# The new file gets a device of its own, and is not taken for the other.
attach other disk.qcow2
must_fail "attached as $other" "$cowblk" attach disk.qcow2
detach disk.qcow2
[ -b "$dev" ] && [ ! -b "$other" ] || fail "detach by name took the wrong device"
must_fail 'neither an attached image' "$cowblk" detach disk.qcow2
rm moved.qcow2
"$cowblk" snapshot create link.qcow2 again >/dev/null || fail "snapshot by the name that is left"
"$cowblk" detach link.qcow2 || fail "detach by the name that is left"
[ ! -b "$dev" ] || fail "detach by the name that is left did nothing"
check_clean link.qcow2
check_clean disk.qcow2
[ "$(qemu-img snapshot -l link.qcow2 | grep -cE ' (before|mine|linked|again) ')" = 4 ] || fail "not its four snapshots: $(qemu-img snapshot -l link.qcow2)"

# A dead daemon's device still answers to the path, whatever became of the image.
attach dev link.qcow2 --no-recovery
kill -9 "$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' "/run/cowblk/$(basename "$dev").json")"
dead() { ! "$cowblk" list | grep -E "^$dev .* live "; }
wait_for dead || fail "the daemon lives"
rm link.qcow2
"$cowblk" detach link.qcow2 2>/dev/null || fail "detach of a dead device by a path that is gone"
"$cowblk" list | grep -q "^$dev" && fail "$dev is still listed"

# What was asked for one device does not reach the next one with its number: here the record that it was found by is of the last.
"$cowblk" create next.qcow2 64M
attach dev disk.qcow2 --id 0
record=/run/cowblk/$(basename "$dev").json
cp "$record" record
detach "$dev"
attach dev next.qcow2 --id 0
cp "$record" fresh
cp record "$record"
must_fail 'is another device by now' "$cowblk" bitmap add "$dev" wrong
must_fail 'is another device by now' "$cowblk" snapshot create "$dev" wrong
must_fail 'is another device by now' "$cowblk" detach "$dev"
cp fresh "$record"
"$cowblk" bitmap list "$dev" | grep -q wrong && fail "a request for the last device was carried out"
detach "$dev"

# A file that is called as a device.
attach dev disk.qcow2 --id 0
name=$(basename "$dev")
"$cowblk" create ./ublkb7 64M
"$cowblk" snapshot create ublkb7 file >/dev/null || fail "a file called ublkb7, no such device"
"$cowblk" create "./$name" 64M
must_fail "is a device, and a file here: say $dev or ./$name" "$cowblk" snapshot create "$name" which
must_fail "is a device, and a file here" "$cowblk" bitmap add "$name" which
must_fail "is a device, and a file here" "$cowblk" detach "$name"
"$cowblk" snapshot create "./$name" file >/dev/null || fail "./$name"
"$cowblk" snapshot create "$dev" device >/dev/null || fail "$dev"
"$cowblk" snapshot list "./$name" | grep -q device && fail "the device's snapshot is in the file"
"$cowblk" snapshot list "./$name" | grep -q file || fail "the file lacks its snapshot"
detach "$dev"
# A loop device that shows all of the file is the file.
attach dev disk.qcow2
loop=$(losetup -f --show disk.qcow2)
must_fail "attached as $dev" "$cowblk" attach "$loop"
"$cowblk" snapshot create "$loop" loop >/dev/null || fail "snapshot by a loop device"
"$cowblk" detach "$loop" || fail "detach by a loop device"
[ ! -b "$dev" ] || fail "detach by a loop device did nothing"
losetup -c "$loop" # the file has grown
attach dev "$loop"
must_fail "attached as $dev" "$cowblk" attach disk.qcow2
detach disk.qcow2
losetup -d "$loop"

# One file of an NFS server through two mounts, with a device number for each.
if [ $served = yes ]; then
	for m in a b; do
		mkdir $m
		timeout 60 mount -i -t nfs4 -o addr=127.0.0.1,clientaddr=127.0.0.1,vers=4.1,nosharecache 127.0.0.1:/ $m || fail "mount of NFS"
		mounts=("$m" "${mounts[@]}")
	done
	timeout 60 "$cowblk" create a/disk.qcow2 64M
	"$cowblk" create a/other.qcow2 64M
	[ "$(stat -c %d a/disk.qcow2)" != "$(stat -c %d b/disk.qcow2)" ] || fail "both mounts have one device number: the test proves nothing"
	attach dev a/disk.qcow2
	must_fail "b/disk.qcow2: is attached as $dev" "$cowblk" attach b/disk.qcow2
	{ "$cowblk" resize b/disk.qcow2 +1M 2>said || grep -q 'this kernel cannot' said; } || fail "resize through the other mount: $(cat said)"
	"$cowblk" snapshot create b/disk.qcow2 twin >/dev/null || fail "snapshot through the other mount"
	"$cowblk" bitmap add b/disk.qcow2 twin || fail "bitmap through the other mount"
	"$cowblk" bitmap list "$dev" | grep -q twin || fail "the bitmap went elsewhere"
	"$cowblk" list --requests b/disk.qcow2 >/dev/null || fail "list --requests through the other mount"
	"$cowblk" list --json | grep -q '"moved": false' || fail "taken for moved"
	"$cowblk" snapshot create b/other.qcow2 other >/dev/null || fail "snapshot of another file of the server"
	"$cowblk" detach b/disk.qcow2 || fail "detach through the other mount"
	[ ! -b "$dev" ] || fail "detach through the other mount did nothing"
	check_clean a/disk.qcow2
	umount a b
	echo 0 >/proc/fs/nfsd/threads
	umount /proc/fs/nfsd
fi

# What only looks so is said as what it is.
mkdir lower upper work merged
if mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged 2>/dev/null; then
	mounts=(merged "${mounts[@]}")
	"$cowblk" create merged/over.qcow2 64M
	[ "$(stat -c %d merged/over.qcow2)" != "$(stat -c %d upper/over.qcow2)" ] || fail "overlay has no number of its own"
	attach dev merged/over.qcow2
	must_fail "neither an attached image.*perhaps attached as $dev" "$cowblk" detach upper/over.qcow2
	detach "$dev"
	umount merged
fi
say "renamed, replaced, linked, deleted: commands go to the file that is named; ublkb7 may be a file; a loop device, another mount are the same file"
