#!/usr/bin/env bash
# LUKS: a file system on an encrypted device, QEMU reads what was written, and no passphrase stays in the daemon's memory.
# needs: python3
. "$(dirname "$0")/lib.sh"
need python3

passphrase="correct horse $RANDOM battery staple"
printf %s "$passphrase" >key
printf wrong >wrong
secret=(--object "secret,id=s,file=key" --image-opts)
target=driver=qcow2,file.filename=disk.qcow2,encrypt.format=luks,encrypt.key-secret=s

"$cowblk" create --encrypt luks --key-file key -o encrypt.iter-time=50 disk.qcow2 64M
must_fail 'no passphrase' "$cowblk" attach disk.qcow2
must_fail 'wrong passphrase' "$cowblk" attach --key-file wrong disk.qcow2
attach dev disk.qcow2 --key-file key

pid=$("$cowblk" list --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["pid"])')
# found [hex] WANTED, in the daemon's memory. It finds a string that is there, so that it can be believed when it finds none.
found()
{
	python3 - "$pid" "$@" <<'PYTHON'
import re, sys
pid, wanted = sys.argv[1], sys.argv[-1].encode()
if sys.argv[2] == "hex":
    wanted = bytes.fromhex(sys.argv[3])
with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as mem:
    for line in maps:
        start, end, mode = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
        if mode[0] != "r":
            continue
        try:
            mem.seek(int(start, 16))
            if wanted in mem.read(int(end, 16) - int(start, 16)):
                sys.exit(0)
        except (OSError, ValueError, OverflowError):
            pass
sys.exit(1)
PYTHON
}
# What is made of the passphrase for slot 0, in pieces of a digest: "slot HEX" each; and the key itself, unlocked as LUKS does it.
derived()
{
	python3 - "$1" "$2" <<'PYTHON'
import hashlib, struct, sys
image, passphrase = open(sys.argv[1], "rb").read(), sys.argv[2].encode()
luks = image[image.index(b"LUKS\xba\xbe"):]
digest, (key_bytes,) = luks[72:104].rstrip(b"\0").decode(), struct.unpack_from(">I", luks, 108)
active, iterations, salt = struct.unpack_from(">II32s", luks, 208)
assert active == 0xac71f3
key = hashlib.pbkdf2_hmac(digest, passphrase, salt, iterations, key_bytes)
size = hashlib.new(digest).digest_size
for at in range(0, key_bytes, size):
    print(key[at:at + size].hex())
PYTHON
}
found disk.qcow2 || fail "the daemon's memory cannot be searched"
found hex "$(printf disk.qcow2 | od -An -v -tx1 | tr -d ' ')" || fail "the daemon's memory cannot be searched for bytes"
! found "$passphrase" || fail "the passphrase is in the daemon's memory"
for piece in $(derived disk.qcow2 "$passphrase"); do
	! found hex "$piece" || fail "what was made of the passphrase is in the daemon's memory"
done
! tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF "$passphrase" || fail "the passphrase is on the daemon's command line"

mkfs.ext4 -q "$dev"
mount_on "$dev" mnt
copy_tree mnt 20000
sums mnt >sums
echo "$passphrase in a file" >mnt/marker
umount mnt
detach "$dev"
! grep -qaF "in a file" disk.qcow2 || fail "the file's text is in the image"
qemu-img check -q "${secret[@]}" "$target" || fail "qemu-img check: status $?"
"$cowblk" check disk.qcow2 >/dev/null || fail "cowblk check: status $?"
qemu-img convert "${secret[@]}" -O raw "$target" plain.raw
grep -qaF "$passphrase in a file" plain.raw || fail "QEMU does not read what was written"

attach dev disk.qcow2 --key-file wrong --key-file key --read-only
cmp "$dev" plain.raw || fail "the device and QEMU read different things"
mount -o ro "$dev" mnt
(cd mnt && sha256sum -c --quiet ../sums) || fail "files have changed"
umount mnt
detach "$dev"
say "LUKS: a file system, QEMU reads it; wrong and missing passphrases refused; none in the daemon's memory"
