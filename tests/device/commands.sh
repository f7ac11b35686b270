#!/usr/bin/env bash
# The commands around a device: ids, list, --all, --foreground with SIGTERM, the device's limits, one-line failures.
. "$(dirname "$0")/lib.sh"

"$cowblk" create a.qcow2 64M
"$cowblk" create -o cluster_size=1M b.qcow2 32M
attach a a.qcow2 --id 5
[ "$a" = /dev/ublkb5 ] || fail "--id 5 gave $a"
attach b b.qcow2 --queues 1 --depth 16
must_fail 'attached as /dev/ublkb5' "$cowblk" attach a.qcow2
ln a.qcow2 other-name.qcow2
must_fail 'attached as /dev/ublkb5' "$cowblk" attach other-name.qcow2
[ "$("$cowblk" list | wc -l)" = 3 ] || fail "list does not show two devices: $("$cowblk" list)"
"$cowblk" list --json | grep -q '"image": "'"$PWD"'/b.qcow2"' || fail "list --json has no b.qcow2"
# What the shells complete: devices, and what is in the image of one.
"$cowblk" snapshot create "$a" of-a >/dev/null || fail "snapshot create $a"
[ "$("$cowblk" complete detach /dev/)" = "$b	$PWD/b.qcow2
$a	$PWD/a.qcow2
files 0" ] || fail "detach completes $("$cowblk" complete detach /dev/)"
[ "$("$cowblk" complete snapshot delete "$a" '')" = "of-a
none 0" ] || fail "snapshot delete completes $("$cowblk" complete snapshot delete "$a" '')"
"$cowblk" snapshot delete "$a" of-a || fail "snapshot delete $a"
# Of several devices the one that was named: by its own name, and by its image's.
"$cowblk" bitmap add "$a" of-a || fail "bitmap add $a"
"$cowblk" bitmap add b.qcow2 of-b || fail "bitmap add b.qcow2"
[ "$("$cowblk" bitmap list "$a" | awk 'NR > 1 { print $3 }')" = of-a ] || fail "bitmaps of $a: $("$cowblk" bitmap list "$a")"
[ "$("$cowblk" bitmap list "$b" | awk 'NR > 1 { print $3 }')" = of-b ] || fail "bitmaps of $b: $("$cowblk" bitmap list "$b")"
"$cowblk" bitmap remove "$a" of-a && "$cowblk" bitmap remove "$b" of-b || fail "bitmap remove"
# Where a device's content lies, what only its daemon knew so far too: as the image says when it is closed.
dd if=/dev/urandom of="$b" bs=1M count=3 seek=7 oflag=direct status=none
"$cowblk" map "$b" >map || fail "map $b"
grep -q '^0x700000 ' map && [ $(($(awk 'NR > 1 { printf "%s+", $2 }' map)0)) = $((3 << 20)) ] || fail "map $b: $(cat map)"
"$cowblk" map --json "$b" >map.json || fail "map --json $b"
detach "$b"
"$cowblk" map "$PWD/b.qcow2" | cmp - map || fail "map of the device is not that of its image: $(cat map)"
"$cowblk" map --json b.qcow2 | cmp - map.json || fail "map --json of the device is not that of its image"
attach b b.qcow2 --temporary
must_fail 'only a live disk has a map' "$cowblk" map "$b"
detach "$b"
attach b b.qcow2 --queues 1 --depth 16
"$cowblk" create c.qcow2 1M
must_fail '5: taken' "$cowblk" attach --id 5 c.qcow2

sys=/sys/block/${b#/dev/}/queue
[ "$(cat "$sys/write_cache")" = 'write back' ] || fail "no volatile write cache is advertised"
[ "$(cat "$sys/fua")" = 1 ] || fail "FUA is not advertised"
[ "$(cat "$sys/logical_block_size")" = 512 ] || fail "logical blocks are not 512 bytes"
[ "$(cat "$sys/discard_granularity")" = $((1 << 20)) ] || fail "discard granularity is not the cluster size"
[ "$(blockdev --getsize64 "$b")" = $((32 << 20)) ] || fail "the device's size is not the image's"

"$cowblk" detach --all
[ ! -b "$a" ] && [ ! -b "$b" ] || fail "detach --all left a device"
[ "$("$cowblk" list | wc -l)" -le 1 ] || fail "list shows devices that are gone"
check_clean a.qcow2
check_clean b.qcow2

# A disk of 4096-byte sectors: its partition table is found with that block size, and hinted at without.
attach a a.qcow2 --block-size 4096
sys=/sys/block/${a#/dev/}/queue
[ "$(cat "$sys/logical_block_size")" = 4096 ] || fail "--block-size 4096: $(cat "$sys/logical_block_size")"
printf 'EFI PART' | dd of="$a" bs=4096 seek=1 conv=notrunc,fsync status=none
must_fail "attached as $a: detach it first" "$cowblk" check a.qcow2
must_fail "attached as $a: detach it first" "$cowblk" check "$a"
must_fail "attached as $a: detach it first" "$cowblk" create --force a.qcow2 1M
[ "$("$cowblk" info --output=json "$a" | grep -c virtual-size)" = 1 ] || fail "info $a"
detach "$a"
(ulimit -n 16; "$cowblk" attach --id 5 -f qcow2 -q a.qcow2) >printed 2>said || fail "ulimit -n 16: $(cat said)"
devices+=(/dev/ublkb5)
[ ! -s printed ] || fail "attach -q prints $(cat printed)"
grep -q 'attach with --block-size 4096' said || fail "no hint at a GPT of 4096-byte sectors: $(cat said)"
detach /dev/ublkb5
qemu-img create -q -f qcow2 odd.qcow2 1049088
must_fail 'no multiple of the block size' "$cowblk" attach --block-size 4096 odd.qcow2

"$cowblk" attach --foreground --id 7 a.qcow2 > foreground.log 2>&1 &
pid=$!
devices+=(/dev/ublkb7)
wait_for test -b /dev/ublkb7 || fail "no device in the foreground: $(cat foreground.log)"
dd if=/dev/urandom of=piece bs=64k count=4 status=none
dd if=piece of=/dev/ublkb7 bs=64k oflag=direct status=none
kill -TERM $pid
wait $pid || fail "SIGTERM in the foreground: status $?"
[ ! -b /dev/ublkb7 ] || fail "SIGTERM left the device"
check_clean a.qcow2
qemu-img convert -O raw a.qcow2 raw
cmp -n $((256 << 10)) raw piece || fail "SIGTERM lost a write"

must_fail 'no-such' "$cowblk" attach no-such.qcow2
must_fail 'raw' "$cowblk" attach raw
must_fail 'directory' "$cowblk" attach .
must_fail 'no external data file' "$cowblk" attach --data-file raw a.qcow2
must_fail 'leave out --read-only' "$cowblk" attach --temporary --read-only a.qcow2
must_fail 'leave out --snapshot' "$cowblk" attach --temporary --read-only --snapshot x a.qcow2
attach a a.qcow2
must_fail "attached as $a: detach it first" "$cowblk" snapshot apply a.qcow2 x
must_fail "attached as $a: detach it first" "$cowblk" snapshot apply "$a" x
detach "$a"
attach a a.qcow2 --temporary
must_fail "$a: is a temporary overlay" "$cowblk" snapshot create "$a" x
must_fail "$a: is a temporary overlay" "$cowblk" bitmap add "$a" x
detach "$a"
mkdir locked-away
mount -t tmpfs tmpfs locked-away
mounts+=(locked-away)
cp a.qcow2 locked-away
mount -o remount,ro locked-away
must_fail 'Read-only file system: it can only be read' "$cowblk" attach locked-away/a.qcow2
attach a locked-away/a.qcow2 --read-only
detach "$a"
must_fail '.' "$cowblk" detach /dev/ublkb9

# A device has one name: nothing that a lenient reader would take for its number.
attach a a.qcow2 --id 0
for name in /dev/ublkb4294967296 'ublkb 0' ublkb+0 ublkb-0 ublkb00 /dev/ublkb00 ublkb0x ublkb /dev/ublkb18446744073709551616; do
	must_fail 'neither an attached image nor its device' "$cowblk" detach "$name"
done
must_fail . "$cowblk" snapshot create 'ublkb 0' x
must_fail . "$cowblk" bitmap add /dev/ublkb4294967296 x
for number in '' ' 7' +7 -7 7x 07 0x7 4294967303 18446744073709551623; do
	! "$cowblk" attach --id "$number" b.qcow2 2>said || fail "attach --id '$number' was accepted"
	grep -qE 'not a number from 0 to|value is empty' said || fail "attach --id '$number': $(cat said)"
done
[ -b "$a" ] || fail "a name that is none detached $a"
detach "$a"

# Names as users have them, and longer than a message.
deep=$(printf 'd%.0s' $(seq 200))
mkdir -p "$deep/$deep/$deep" 'a folder'
for name in 'a folder/an image.qcow2' $'two\nlines.qcow2' "$deep/$deep/$deep/image.qcow2" ./b.qcow2; do
	[ "$name" = ./b.qcow2 ] || cp a.qcow2 "$name"
	attach a "$name"
	[ "$("$cowblk" list | wc -l)" = 2 ] || fail "list: a name on two lines: $("$cowblk" list)"
	must_fail "attached as $a" "$cowblk" attach "$name"
	"$cowblk" detach "$name" || fail "detach '$name'"
done
ln -s "$deep/$deep/$deep/image.qcow2" link
attach a link
"$cowblk" detach "$deep/$deep/$deep/image.qcow2" || fail "detach by another name"
echo junk >"$deep/$deep/$deep/junk"
must_fail 'not a qcow2 image' "$cowblk" attach "$deep/$deep/$deep/junk"
exec 8<>a.qcow2
attach a /dev/fd/8
exec 8<&-
"$cowblk" detach a.qcow2 || fail "detach of what was attached as /dev/fd/8"

if command -v qemu-nbd >/dev/null; then
	qemu-nbd -t -k "$PWD/nbd.sock" -f qcow2 a.qcow2 &
	nbd=$!
	wait_for test -S nbd.sock || fail "qemu-nbd does not start"
	must_fail "in use by $nbd qemu-nbd" "$cowblk" attach a.qcow2
	must_fail "in use by $nbd qemu-nbd" "$cowblk" attach --read-only a.qcow2
	kill $nbd
	wait $nbd || true
fi
if setpriv --reuid=65534 --clear-groups true 2>/dev/null; then
	must_fail 'run as root' setpriv --reuid=65534 --clear-groups "$cowblk" attach "$PWD/a.qcow2"
fi
! "$cowblk" attach --queues 0 a.qcow2 2>/dev/null || fail "--queues 0 was accepted"

# Nobody reads the answer: a failure, which says that the device is there.
for out in /dev/full closed; do
	if [ $out = closed ]; then
		! "$cowblk" attach a.qcow2 2>said >&- || fail "attach with standard output closed: status 0"
	else
		! "$cowblk" attach a.qcow2 2>said >$out || fail "attach to $out: status 0"
	fi
	[ "$(wc -l <said)" = 1 ] && grep -q "/dev/ublkb[0-9]* is attached, but standard output cannot be written" said ||
		fail "attach, standard output $out: $(cat said)"
	"$cowblk" detach a.qcow2 || fail "detach after attach, standard output $out"
done
check_clean a.qcow2
say "ids, list, limits, detach --all, SIGTERM, one-line failures"
