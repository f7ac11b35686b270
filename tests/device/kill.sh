#!/usr/bin/env bash
# kill -9 of the daemon under load: the image has no errors and every file that was fsynced before is there, whole.
. "$(dirname "$0")/lib.sh"
recovery=(--no-recovery)
rounds=4
! short || rounds=1

"$cowblk" create disk.qcow2 1G
attach dev disk.qcow2
mkfs.ext4 -q "$dev"
detach "$dev"

daemon_of() { "$cowblk" list --json | tr -d ' ",' | awk -F: -v dev="$1" '$1 == "device" { d = $2 } $1 == "pid" && d == dev { print $2 }'; }

# Writes files of random length, each with its checksum, and notes a file's name outside once it and its folder are durable.
writer()
{
	local n
	for n in $(seq 1000); do
		head -c $((RANDOM * 8 + 1)) /dev/urandom > "mnt/$1.$n" || return 0
		sync "mnt/$1.$n" mnt 2>/dev/null || return 0
		(cd mnt && sha256sum "$1.$n") >> "durable.$1" || return 0
		[ $((n % 5)) != 0 ] || rm -f "mnt/$1.$((n - 1))" "mnt/$1.$((n - 2))"
	done
}

for round in $(seq $rounds); do
	attach dev disk.qcow2
	mount_on "$dev" mnt
	rm -f mnt/* durable.* 2>/dev/null || true
	sync
	writer a 2>/dev/null &
	first=$!
	writer b 2>/dev/null &
	second=$!
	sleep "$((1 + round % 2)).$round"
	pid=$(daemon_of "$dev")
	[ -n "$pid" ] || fail "list --json has no pid for $dev"
	kill -9 "$pid"
	wait $first $second || true
	umount mnt 2>/dev/null || umount -l mnt 2>/dev/null || true
	wait_for eval "! kill -0 $pid 2>/dev/null" || fail "the daemon is still there after kill -9"
	timeout 30 "$cowblk" detach "$dev" >/dev/null 2>&1 || true
	wait_for eval "[ ! -b $dev ]" || fail "the device of a dead daemon cannot be removed"
	check_sound disk.qcow2

	attach dev disk.qcow2
	mount_on "$dev" mnt
	n=0
	for list in durable.a durable.b; do
		[ -f $list ] || continue
		while read -r sum name; do
			[ -f "mnt/$name" ] || continue
			[ "$(sha256sum < "mnt/$name" | cut -d ' ' -f 1)" = "$sum" ] || fail "round $round: $name was fsynced and is damaged"
			n=$((n + 1))
		done < $list
		# The last of each list was not removed: it must be there.
		name=$(tail -1 $list | awk '{ print $2 }')
		[ -f "mnt/$name" ] || fail "round $round: $name was fsynced and is gone"
	done
	umount mnt
	detach "$dev"
	check_sound disk.qcow2
	say "killed in round $round: $n fsynced files whole"
	[ $n -gt 0 ] || fail "round $round: nothing was durable before the kill: the test proved nothing"
done
