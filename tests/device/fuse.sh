#!/usr/bin/env bash
# A host that lets nobody but its mounter use a file (FUSE without allow_other): the daemon stays who may, and all works. And
# such a host that does not answer keeps nobody else's device from being detached.
# needs: fuse?
. "$(dirname "$0")/lib.sh"
[ -e /dev/fuse ] || { short && skip "no FUSE in this kernel"; fail "no FUSE in this kernel"; }

field() { sed -n "s/^$2:[[:space:]]*//p" "/proc/$1/status"; }
pid_of() { sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "/run/cowblk/${1#/dev/}.json"; }
[ -e /etc/passwd ] || : >/etc/passwd # the VM comes without
cp /etc/passwd passwd
grep -q '^cowblk:' passwd || echo 'cowblk:x:987:986::/:/usr/sbin/nologin' >>passwd
mount --bind passwd /etc/passwd
mounts+=(/etc/passwd)

mkdir fuse
"$cowblk" create image.qcow2 256M
"$COW_TOOLS/fuse_file" image.qcow2 fuse &
server=$!
mounts=(fuse "${mounts[@]}")
wait_for test -f fuse/file || fail "no FUSE"

attach dev fuse/file
[ "$(field "$(pid_of "$dev")" Uid | cut -f 1)" = 0 ] || fail "the daemon is a user that the host refuses"
grep -q 'not given up: user: .*only who opened .*fuse/file' "/run/cowblk/${dev#/dev/}.log" ||
	fail "why it stayed root is not said: $(cat "/run/cowblk/${dev#/dev/}.log")"
# Longer, and shorter again at the close.
head -c 40M /dev/urandom >random
dd if=random of="$dev" bs=1M oflag=direct conv=fsync status=none || fail "a write that makes the file longer"
cmp -n 41943040 random "$dev" || fail "other data"
"$cowblk" list --json | grep -q '"failure": *null' || fail "failed: $("$cowblk" list --json)"
detach "$dev"
# No room for metadata, after data that has found some: nothing is lost, so it is not said when there is room again.
attach dev fuse/file
dd if=random of="$dev" bs=64K count=1 seek=3000 oflag=direct status=none || fail "a write after a new attach"
: >image.qcow2.full
must_fail "^cowblk: $dev: cannot flush: No space left on device: mend that and detach again" "$cowblk" detach "$dev"
[ -b "$dev" ] || fail "detach took the device with what is not stored"
rm image.qcow2.full
said=$("$cowblk" detach "$dev" 2>&1) && [ -z "$said" ] || fail "nothing was lost, and detach said '$said'"
[ ! -b "$dev" ] || fail "detach left $dev"
umount fuse
wait $server || fail "the FUSE server failed"
check_clean image.qcow2

# Others' files on a host that is stuck are not asked.
"$cowblk" create other.qcow2 64M
attach dev other.qcow2
[ "$(field "$(pid_of "$dev")" Uid | cut -f 1)" != 0 ] || fail "the daemon has no user of its own"
"$COW_TOOLS/fuse_file" image.qcow2 fuse &
server=$!
wait_for test -f fuse/file || fail "no FUSE"
# In a process of its own: who closes such a file waits for its host.
(exec 7<fuse/file; exec sleep 1000) &
holder=$!
sleep 0.2
kill -STOP $server
timeout 20 "$cowblk" detach "$dev" 2>said || fail "a stuck host of others' holds a device: $(cat said)"
kill -KILL $server $holder
wait $server $holder 2>/dev/null || true
umount -l fuse
say "FUSE without allow_other: attached as root, longer and shorter; one that is stuck holds nobody"
