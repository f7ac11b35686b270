#!/usr/bin/env bash
# An image that names what is not its own: other disks from a disk, a neighbour as data file, and names that lead out;
# who owns the folder, and what the umask was. Nothing that was not allowed is read or written.
# needs: mknod losetup chown
. "$(dirname "$0")/lib.sh"

# ---- disks ----
truncate -s 64M disk other
head -c 4M /dev/urandom > secret
dd if=secret of=other conv=notrunc status=none
disk=$(losetup --show -f disk)
other=$(losetup --show -f other)
# Before clean_up (lib.sh), which ends the case with the status that it finds.
put_away()
{
	local status=$?
	set +e
	losetup -d "$disk" "$other"
	(exit "$status")
	clean_up
}
trap put_away EXIT

qemu-img create -q -f qcow2 -b "$other" -F raw "$disk" 4M
must_fail 'an image on a block device.*--backing-root' "$cowblk" attach "$disk"
must_fail 'an image on a block device.*--backing-root' "$cowblk" attach --temporary "$disk"
mkdir links
ln -s "$disk" links/disk
must_fail '--backing-root' "$cowblk" attach links/disk
attach dev "$disk" --backing-root /dev
cmp -n 4194304 "$dev" secret || fail "a disk below an allowed root reads otherwise"
detach "$dev"

qemu-img create -q -f qcow2 -o data_file=own image.qcow2 4M
qemu-img amend -f qcow2 -o data_file="$other" image.qcow2
dd if=image.qcow2 of="$disk" bs=64k conv=notrunc,fsync status=none
must_fail 'data file .* would be written to' "$cowblk" attach "$disk"
must_fail 'data file .* would be written to' "$cowblk" attach --backing-root /dev "$disk"
must_fail 'an image on a block device.*--backing-root' "$cowblk" attach --read-only "$disk"
rm image.qcow2

# A regular file among disks.
mkdir disks
mknod disks/disk b "$((0x$(stat -L -c %t "$other")))" "$((0x$(stat -L -c %T "$other")))"
qemu-img create -q -f qcow2 -b disk -F raw disks/image.qcow2 4M
must_fail 'is a block device: .*--backing-root' "$cowblk" attach disks/image.qcow2
attach dev disks/image.qcow2 --backing-root disks
cmp -n 4194304 "$dev" secret || fail "a disk below an allowed root reads otherwise"
detach "$dev"
cmp -n 4194304 "$other" secret || fail "the other disk was written"

# ---- data files ----
mkdir neighbours
"$cowblk" create neighbours/victim.qcow2 4M
"$cowblk" create -o data_file=data neighbours/image.qcow2 4M
truncate -s 4M neighbours/data
must_fail 'would be written to' "$cowblk" attach neighbours/image.qcow2
attach dev neighbours/image.qcow2 --data-file neighbours/data
dd if=secret of="$dev" bs=1M oflag=direct status=none
detach "$dev"
attach dev neighbours/image.qcow2 --data-root neighbours
cmp -n 4194304 "$dev" secret || fail "what was written to the data file reads otherwise"
detach "$dev"
attach dev neighbours/image.qcow2 --read-only
detach "$dev"
attach dev neighbours/image.qcow2 --temporary
cmp -n 4194304 "$dev" secret || fail "a data file below an overlay reads otherwise"
dd if=/dev/zero of="$dev" bs=1M count=4 oflag=direct status=none
detach "$dev"
cmp neighbours/data secret || fail "an overlay wrote to the data file"
cp neighbours/victim.qcow2 before
must_fail 'begins as a qcow2 image' "$cowblk" attach --data-file neighbours/victim.qcow2 neighbours/image.qcow2
mv neighbours/victim.qcow2 neighbours/data
must_fail 'begins as a qcow2 image' "$cowblk" attach --data-root neighbours neighbours/image.qcow2
cmp neighbours/data before || fail "a neighbour was written"

# ---- modes, whatever the umask ----
mode() { [ "$(stat -c %a "$2")" = "$1" ] || fail "$2 has mode $(stat -c %a "$2"), not $1"; }
# Only in a kernel of our own: elsewhere that folder is somebody's.
forget_folder() { [ "${COW_KERNEL_IS:-running}" = running ] || rmdir /run/cowblk 2>/dev/null || true; }
for mask in 000 027 077; do
	(umask $mask && "$cowblk" create new.qcow2 4M && "$cowblk" create --mode 644 shared.qcow2 4M)
	mode 600 new.qcow2
	mode 644 shared.qcow2
	(umask $mask && forget_folder && "$cowblk" attach new.qcow2) > device || fail "attach with umask $mask"
	read -r dev < device
	devices+=("$dev")
	mode 755 /run/cowblk
	mode 644 "/run/cowblk/${dev#/dev/}.json"
	mode 600 "/run/cowblk/${dev#/dev/}.sock"
	mode 600 "/run/cowblk/${dev#/dev/}.log"
	detach "$dev"
	rm new.qcow2 shared.qcow2
done

# ---- names that their owner exchanges all the time ----
# $theirs leads to a file of root's that nobody else may read or write; each attach has the file beside it, or nothing.
mkdir -m 755 racy outside
head -c 4M /dev/zero | tr '\0' S >outside/secret
cp outside/secret outside/kept
chmod 600 outside/*
head -c 4M /dev/zero | tr '\0' B >racy/base
qemu-img create -q -f qcow2 -b base -F raw racy/image.qcow2 4M
"$cowblk" create -o data_file=data racy/data.qcow2 4M
truncate -s 4M racy/data
attach dev racy/data.qcow2 --data-root racy
dd if=racy/base of="$dev" bs=1M oflag=direct status=none
detach "$dev"
ln -s "$PWD/outside/secret" racy/theirs
ln -s "$PWD/outside/secret" racy/other
chown -hR 12345:12345 racy
race()
{
	local other=$1 name=$2 nr=0 i racer
	shift 2
	"$COW_TOOLS/exchange" "racy/$name" "racy/$other" &
	racer=$!
	for i in $(seq 60); do
		[ $nr -lt 2 ] || break
		path=$("$cowblk" attach --no-partition-scan "$@" 2>said) || {
			[ "$(wc -l <said)" = 1 ] || fail "a race for $name: $(cat said)"
			continue
		}
		devices+=("$path")
		nr=$((nr + 1))
		[ "$(head -c 1 "$path" | tr -d '\0')" = B ] || fail "what root alone may read, in attach $i, by $name"
		case "$*" in *read-only*) ;; *) head -c 4096 /dev/zero | tr '\0' B | dd of="$path" bs=4k oflag=direct status=none ;; esac
		detach "$path"
	done
	kill $racer
	wait $racer 2>/dev/null || true
	[ "$nr" -gt 0 ] || fail "no attach in a race for $name succeeded: $(cat said)"
	cmp outside/secret outside/kept || fail "a file of root's was written to in a race for $name"
	say "a race for $name: $nr of $i attaches, of the right file"
}
race theirs base --read-only racy/image.qcow2
race other data --data-root racy racy/data.qcow2
ln -sf "$PWD/outside/secret" racy/key
chown -h 12345 racy/key
must_fail 'key file .*symbolic link of user 12345' "$cowblk" attach --key-file racy/key neighbours/image.qcow2

# ---- a descriptor is its file, whatever its name leads to ----
mkdir covered
"$cowblk" create covered/disk.qcow2 4M
"$cowblk" create other.qcow2 8M
exec 5<covered/disk.qcow2
attach dev /dev/fd/5
[ "$(blockdev --getsize64 "$dev")" = 4194304 ] || fail "a descriptor's image: not its size"
detach "$dev"
mount -t tmpfs none covered
mounts+=(covered)
cp other.qcow2 covered/disk.qcow2
must_fail 'another file' "$cowblk" info /dev/fd/5
must_fail 'another file' "$cowblk" check /proc/self/fd/5
must_fail 'another file' "$cowblk" attach /dev/fd/5
exec 5<&-
umount covered

# ---- an overlay that nobody can put another in the place of ----
"$cowblk" create over.qcow2 4M
mkdir tmp
TMPDIR=$PWD/tmp attach dev over.qcow2 --temporary
[ -z "$(ls tmp)" ] || fail "the overlay has a name: $(ls tmp)"
dd if=secret of="$dev" bs=1M oflag=direct status=none
cmp -n 4194304 "$dev" secret || fail "the overlay reads otherwise"
detach "$dev"
check_clean over.qcow2
say "other disks, neighbours: refused, and allowed where asked; modes are what they should be"
