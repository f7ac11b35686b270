#!/usr/bin/env bash
# attach --snapshot: an internal snapshot as a read-only device beside the live one, which goes on writing.
. "$(dirname "$0")/lib.sh"
need qemu-img

"$cowblk" create disk.qcow2 64M
attach dev disk.qcow2
mkfs.ext4 -q "$dev"
mount_on "$dev" mnt
copy_tree mnt 8000
umount mnt
dd if="$dev" of=content bs=1M status=none
detach "$dev"
id=$("$cowblk" snapshot create disk.qcow2 before) || fail "snapshot create"
[ "$id" = 1 ] || fail "the first snapshot's id is $id"
must_fail 'read-only' "$cowblk" attach --snapshot before disk.qcow2
must_fail 'no snapshot' "$cowblk" attach --read-only --snapshot other disk.qcow2

attach old disk.qcow2 --read-only --snapshot before
attach live disk.qcow2
must_fail 'is attached as '"$live" "$cowblk" attach disk.qcow2
must_fail 'is attached as '"$live" "$cowblk" attach --read-only disk.qcow2
"$cowblk" list | grep -qE "^$old .* snapshot before$" || fail "list does not show the snapshot: $("$cowblk" list)"
"$cowblk" list | grep -qE "^$live .* writable$" || fail "list does not show who writes: $("$cowblk" list)"
"$cowblk" list --json | grep -q '"snapshot": "before"' || fail "list --json does not show the snapshot: $("$cowblk" list --json)"
must_fail "more than once: ($live|$old \(snapshot before\)), ($live|$old \(snapshot before\)): name the device" "$cowblk" detach disk.qcow2
[ -b "$live" ] && [ -b "$old" ] || fail "an image with two devices was detached by its name"
[ "$(blockdev --getro "$old")" = 1 ] || fail "$old is writable"
mount_on "$live" mnt
rm -rf mnt/*
dd if=/dev/urandom of=mnt/new bs=1M count=30 conv=fsync status=none &
writer=$!
cmp "$old" content || fail "the snapshot changed while it was read"
wait $writer
sync -f mnt
echo 3 >/proc/sys/vm/drop_caches
cmp "$old" content || fail "the snapshot changed"
must_fail 'attached|in use|lock' "$cowblk" snapshot delete disk.qcow2 before
umount mnt
detach "$live"
must_fail 'attached as' "$cowblk" snapshot delete disk.qcow2 before
"$cowblk" snapshot create disk.qcow2 now >/dev/null || fail "create beside the snapshot's reader"
attach another disk.qcow2
"$cowblk" snapshot create disk.qcow2 third >/dev/null || fail "create through the live device, which is not the only one"
"$cowblk" snapshot list "$another" | grep -q third || fail "list by the device's name"
"$cowblk" snapshot delete "$another" third || fail "delete by the device's name"
detach "$another"
blockdev --flushbufs "$old"
cmp "$old" content || fail "another snapshot changed this one"
detach "$old"
check_clean disk.qcow2
attach old disk.qcow2 --read-only --snapshot before
attach live disk.qcow2
"$cowblk" detach --all disk.qcow2 || fail "detach --all IMAGE"
[ ! -b "$live" ] && [ ! -b "$old" ] || fail "detach --all IMAGE left a device"
check_clean disk.qcow2
"$cowblk" snapshot apply disk.qcow2 before || fail "snapshot apply"
qemu-img compare -q -f qcow2 -F raw disk.qcow2 content || fail "not what it was then"
"$cowblk" snapshot delete disk.qcow2 before || fail "snapshot delete"
"$cowblk" snapshot delete disk.qcow2 now || fail "snapshot delete"
check_clean disk.qcow2
say "snapshot: read beside the live device, kept while attached, applied, deleted"
