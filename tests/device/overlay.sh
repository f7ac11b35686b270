#!/usr/bin/env bash
# An overlay on a qcow2 on a raw base: reads through, copies on write, a shorter base, discards that must not bring old data back.
. "$(dirname "$0")/lib.sh"

head -c 24M /dev/urandom > base.raw
qemu-img create -q -f qcow2 -b base.raw -F raw middle.qcow2 40M
head -c 4M /dev/urandom > piece
qemu-io -c 'write -P 0x5a 3M 5M' -c 'write -P 0x11 30M 512k' -c 'write -z 9M 1M' middle.qcow2 >/dev/null
"$cowblk" create -b middle.qcow2 -F qcow2 top.qcow2
qemu-img convert -O raw middle.qcow2 shadow
sha256sum base.raw middle.qcow2 > below

attach dev top.qcow2
cmp "$dev" shadow || fail "the untouched overlay does not read as its backing chain"
write() # write SOURCE SKIP SEEK COUNT, in sectors, to the device and to the shadow
{
	dd if="$1" of="$dev" bs=512 skip="$2" seek="$3" count="$4" oflag=direct conv=notrunc status=none
	dd if="$1" of=shadow bs=512 skip="$2" seek="$3" count="$4" conv=notrunc status=none
}
for at in 0 7 127 129 1000 6143 18431 20001 49150 49152 61441 81000; do
	write piece "$((at % 4000))" "$at" 9
done
blkdiscard -o 4M -l 3M "$dev"
blkdiscard -z -o 11M -l 2M "$dev"
dd if=/dev/zero of=shadow bs=1M seek=4 count=3 conv=notrunc status=none
dd if=/dev/zero of=shadow bs=1M seek=11 count=2 conv=notrunc status=none
cmp "$dev" shadow || fail "the written overlay differs from its shadow"
detach "$dev"
check_clean top.qcow2
qemu-img compare -q -f qcow2 -F raw top.qcow2 shadow || fail "qemu-img reads the overlay otherwise"
sha256sum -c --quiet below || fail "a backing file was written"

attach dev top.qcow2
cmp "$dev" shadow || fail "the overlay differs after attaching again"
detach "$dev"

mkdir elsewhere inside
mv base.raw elsewhere/base.raw
qemu-img create -q -f qcow2 -b "$PWD/elsewhere/base.raw" -F raw inside/top.qcow2
must_fail 'backing-root' "$cowblk" attach inside/top.qcow2
attach dev inside/top.qcow2 --backing-root "$PWD/elsewhere"
cmp "$dev" elsewhere/base.raw || fail "an overlay with an allowed root reads otherwise"
detach "$dev"
say "overlay on qcow2 on raw: identical, base unchanged, foreign folder refused and allowed"
