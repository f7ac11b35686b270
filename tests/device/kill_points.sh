#!/usr/bin/env bash
# Killed at any point of an attach: the next attach gets the id, list and detach know what is left, nothing stays for ever.
# needs: unshare
. "$(dirname "$0")/lib.sh"
recovery=(--no-recovery)
kill_at=$COW_TOOLS/kill_at
record=/run/cowblk/ublkb7.json
"$cowblk" create disk.qcow2 16M
"$cowblk" create other.qcow2 16M

left_in_kernel() { ls -d /sys/class/ublk-char/ublkc* 2>/dev/null | wc -l; }
state_of() { "$cowblk" list --json | tr -d ' ",' | awk -F: -v dev="$1" '$1 == "device" { d = $2 } $1 == "state" && d == dev { print $2 }'; }
# Of the kills each: an attach with the same id, another image without one, a detach of the device.
after_kill()
{
	local n=$1 got
	case $((n % 4)) in
	0) # the next round's attach must get the id
		[ "$(state_of /dev/ublkb7)" = dead ] || fail "killed at $n: list says '$(state_of /dev/ublkb7)'" ;;
	1)
		got=$("$cowblk" attach other.qcow2 2>said) || fail "killed at $n: attach of another image: $(cat said)"
		"$cowblk" detach "$got" || fail "killed at $n: detach $got" ;;
	2)
		"$cowblk" detach /dev/ublkb7 2>said || fail "killed at $n: detach /dev/ublkb7, before $point: $(cat said; ls /sys/class/ublk-char /run/cowblk)"
		[ "$(left_in_kernel)" = 0 ] || fail "killed at $n: detach left it" ;;
	*) ;;
	esac
}

# killed_at N [FROM]: an attach with the id, killed at its Nth point since there is a FROM; false when there is none.
points=()
killed_at()
{
	local status=0
	point=$(timeout -s KILL 30 "$kill_at" "$1" "${2:-/sys/class/ublk-char/ublkc7}" $record "$cowblk" attach --no-recovery --foreground --queues 1 --depth $depth --id 7 disk.qcow2 2>said) || status=$?
	[ $status != 3 ] || return 1
	[ $status = 0 ] || fail "point $1: attach --id 7 after the kill before ${points[-1]:-nothing}: status $status: $(cat said)"
	points+=("$point")
}

# Every fourth point, from a random one on (eleventh where it takes long); all of them with "kill_points all".
step=4 depth=1
# Before 6.15 the kernel only learns from a timeout, of half a minute, that a daemon died with all its tags in its hands.
! short || { step=11 depth=2; }
[ "${1:-}" != all ] || step=1
for ((n = 1 + RANDOM % step; ; n += step)); do
	killed_at $n || break
	after_kill ${#points[@]}
done
# With requests in its hands, and the kernel waiting for them: it reads partitions.
for n in 1 2 3; do killed_at $n /sys/block/ublkb7; done
[ ${#points[@]} -ge $((14 / step + 2)) ] || fail "only ${#points[@]} points between the device and its record"

# Killed with the record there: the documented boot unit comes up again under its id.
attach dev disk.qcow2 --id 7
kill -9 "$("$cowblk" list --json | tr -d ' ",' | awk -F: '$1 == "pid" { print $2 }')"
wait_for test ! -b /dev/ublkb7 || fail "/dev/ublkb7 stays when its daemon is killed"
attach dev disk.qcow2 --id 7
grep -q 'had died' attach.log || fail "attach took over in silence"

# A dead and a live device of one image: the image's name means the live one.
attach reader other.qcow2 --read-only
attach second other.qcow2 --read-only
kill -9 "$("$cowblk" list --json | tr -d ' ",' | awk -F: -v dev="$reader" '$1 == "device" { d = $2 } $1 == "pid" && d == dev { print $2 }')"
wait_for test ! -b "$reader" || fail "$reader stays when its daemon is killed"
"$cowblk" detach other.qcow2 || fail "detach of an image with a dead and a live device"
[ ! -b "$second" ] || fail "detach meant the dead device"
"$cowblk" detach "$reader" 2>/dev/null || fail "detach of the dead device"

# What is left of a dead device is still open: said, and free when that is over.
exec 7<"$dev"
kill -9 "$("$cowblk" list --json | tr -d ' ",' | awk -F: '$1 == "pid" { print $2 }')"
wait_for test ! -b /dev/ublkb7 || true
! "$cowblk" attach --id 7 disk.qcow2 2>said || fail "attach --id 7 got an id that is in use"
grep -q 'what is left of the device is in use' said || fail "attach --id 7 beside an open remainder: $(cat said)"
exec 7<&-
attach dev disk.qcow2 --id 7
detach "$dev"
# An attach under way in a container with another /run is no leftover: stopped when it has opened its device, which is not started yet.
timeout 120 unshare -m bash -c 'mount -t tmpfs none /run && exec "$@"' - \
	"$kill_at" -s 4 /sys/class/ublk-char/ublkc9 none "$cowblk" attach --no-recovery --foreground --id 9 other.qcow2 >stopped 2>said &
other=$!
wait_for test -s stopped || fail "an attach in another /run: $(cat said)"
pid=$(head -n 1 stopped)
find "/proc/$pid/fd" -lname /dev/ublkc9 | grep -q . && [ ! -b /dev/ublkb9 ] || fail "the attach in another /run was not stopped with its device open"
attach dev disk.qcow2 --id 7
detach "$dev"
kill -CONT "$pid"
wait_for test -b /dev/ublkb9 || fail "an attach took another's under way away: $(cat said)"
kill -TERM "$pid"
wait $other || fail "the attach in another /run: status $?: $(cat said)"
[ "$(left_in_kernel)" = 0 ] || fail "devices are left: $(ls /sys/class/ublk-char)"
check_sound disk.qcow2
say "killed at ${#points[@]} points between the device and its record ($(printf '%s\n' "${points[@]}" | sort | uniq -c | tr -s ' \n' ' ')): all taken over"
