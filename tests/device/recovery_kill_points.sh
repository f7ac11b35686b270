#!/usr/bin/env bash
# An attach with --recovery whose daemon is killed at any point: afterwards there is a device that works, when the attach said so, or none, and
# nothing in /run; no request waits for ever.
. "$(dirname "$0")/lib.sh"
[ "${COW_KERNEL_IS:-}" != vm ] || skip "recovery needs Linux 7.1"
kill_at=$COW_TOOLS/kill_at
dev=/dev/ublkb7
"$cowblk" create disk.qcow2 16M

field() { "$cowblk" list --json | tr -d ' ",' | awk -F: -v dev="$dev" -v key="$1" '$1 == "device" { d = $2 } $1 == key && d == dev { print $2 }'; }
no_process() { ! pgrep '^cowblk' >/dev/null; }

# It serves, also what was given to the daemon that died; and it can be taken away.
works()
{
	timeout -s KILL 20 dd if=/dev/urandom of=$dev bs=64K count=4 oflag=direct status=none || fail "$1: the device does not take a write: $(cat /run/cowblk/ublkb7.log)"
	timeout -s KILL 20 dd if=$dev of=/dev/null bs=64K count=4 iflag=direct status=none || fail "$1: the device cannot be read"
	timeout -s KILL 30 "$cowblk" detach $dev 2>said || fail "$1: detach: $(cat said)"
}

nothing_left()
{
	[ ! -e /sys/class/ublk-char/ublkc7 ] || fail "$1: a device is left: $(cat said; "$cowblk" list)"
	[ -z "$(find /run/cowblk -mindepth 1 ! -name lock)" ] || fail "$1: in /run/cowblk are left: $(ls /run/cowblk)"
	wait_for no_process || fail "$1: processes are left: $(pgrep -a '^cowblk')"
	timeout -s KILL 20 "$cowblk" check disk.qcow2 >check.log 2>&1 || [ $? = 3 ] || fail "$1: $(cat check.log)"
}

declare -A points=()
lived=0
# killed_at N FROM; false when there is no such point.
killed_at()
{
	local status=0 said_of
	point=$(timeout -s KILL 60 "$kill_at" -g "$1" "$2" none "$cowblk" attach --recovery --queues 1 --depth 4 --id 7 disk.qcow2 2>said >out) || status=$?
	point=$(tail -n 1 out)
	[ $status = 0 ] || [ $status = 3 ] || fail "point $1: status $status: $(cat said out)"
	said_of=${point##* }
	if [ "$said_of" = 0 ]; then
		grep -qx $dev out || fail "before $point: the attach did not name its device"
		works "before $point"
		[ $status = 3 ] || lived=$((lived + 1))
	else
		[ "$(wc -l <said)" = 1 ] || fail "before $point: the attach says more than one line: $(cat said)"
		grep -q 'killed while it attached' said || fail "before $point: the attach says '$(cat said)'"
	fi
	nothing_left "before $point, $1"
	points[${point% *}]=$((${points[${point% *}]:-0} + 1))
	[ $status = 0 ]
}

# Every twelfth point from a random one on; all of them with "recovery_kill_points all".
step=12
[ "${1:-}" != all ] || step=1
nr=0
for ((n = 1 + RANDOM % step; ; n += step)); do
	killed_at $n /sys/class/ublk-char/ublkc7 || break
	nr=$((nr + 1))
done
[ $nr -ge $((24 / step)) ] || fail "only $nr points of an attach"
# Started, or about to be: it would wait for a daemon.
for n in 1 2 3; do killed_at $n /sys/block/ublkb7 || break; nr=$((nr + 1)); done
say "killed at $nr points ($(for point in "${!points[@]}"; do printf '%s %s, ' "${points[$point]}" "$point"; done)$lived devices lived on)"
