#!/usr/bin/env bash
# A device outlives its daemon: kill -9 under fio verify with trims, and beneath mounted file systems that are written to. Nobody sees an error,
# and what was acknowledged is there, flushed or not. What kills the supervisor, too, or again and again, ends in errors, not in a hang.
# needs: mkfs.xfs mkfs.btrfs
. "$(dirname "$0")/lib.sh"
rounds=${ROUNDS:-2}
if [ "${COW_KERNEL_IS:-}" = vm ]; then
	"$cowblk" create disk.qcow2 64M
	must_fail "recovery.*Linux 7.1" "$cowblk" attach --recovery disk.qcow2
	attach dev disk.qcow2
	[ ! -s attach.log ] || fail "attach without recovery is not silent: $(cat attach.log)"
	[ "$(grep -c 'does not outlive its daemon.*Linux 7.1' "/run/cowblk/${dev#/dev/}.log")" = 1 ] || fail "the log does not say that there is no recovery: $(cat "/run/cowblk/${dev#/dev/}.log")"
	"$cowblk" list --json | grep -q '"recovery": *false' || fail "list --json does not say so: $("$cowblk" list --json)"
	kill -9 "$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' "/run/cowblk/${dev#/dev/}.json")"
	! timeout -s KILL 30 dd if="$dev" of=/dev/null bs=4k count=1 iflag=direct 2>said || fail "a dead daemon's device can be read"
	"$cowblk" detach "$dev" 2>/dev/null || fail "detach of a dead daemon"
	check_sound disk.qcow2
	exit 0
fi

field() { "$cowblk" list --json | tr -d ' ",' | awk -F: -v dev="$1" -v key="$2" '$1 == "device" { d = $2 } $1 == key && d == dev { print $2 }'; }
supervisor_of() { awk '{ print $4 }' "/proc/$(field "$1" pid)/stat"; }
log_of() { cat "/run/cowblk/${1#/dev/}.log"; }

# The daemon dies, and is another one soon after.
kill_daemon()
{
	local dev=$1 pid
	pid=$(field "$dev" pid)
	[ -n "$pid" ] || fail "list --json has no pid for $dev"
	kill -9 "$pid"
	replaced() { [ -n "$(field "$dev" pid)" ] && [ "$(field "$dev" pid)" != "$pid" ] && [ "$(field "$dev" state)" = live ]; }
	wait_for replaced || fail "$dev: nobody replaces a daemon that was killed: $(log_of "$dev")"
}

# Unasked, and not where it is not wanted.
"$cowblk" create default.qcow2 16M
attach dev default.qcow2
[ "$(field "$dev" recovery)" = true ] || fail "no recovery by default: $("$cowblk" list --json)"
kill_daemon "$dev"
detach "$dev"
attach dev default.qcow2 --no-recovery
[ "$(field "$dev" recovery)" = false ] || fail "recovery with --no-recovery"
detach "$dev"
attach dev default.qcow2 --temporary
[ "$(field "$dev" recovery)" = false ] || fail "recovery with --temporary"
detach "$dev"

verify_under_kills()
{
	local name=$1 image=$2 round
	shift 2
	attach dev "$image" --recovery "$@"
	fio --name=v --filename="$dev" --ioengine=io_uring --direct=1 --rw=randtrimwrite --bs=4k --iodepth=16 --size=48m --time_based --runtime=$((2 * rounds)) \
		--verify=crc32c --verify_fatal=1 --verify_backlog=256 --output=fio.log --eta=never --randseed=7 &
	local fio=$!
	for round in $(seq "$rounds"); do
		sleep "0.$((3 + round % 5))"
		kill -0 $fio 2>/dev/null || break
		kill_daemon "$dev"
	done
	[ "$round" = "$rounds" ] || fail "$name: fio was over before its daemons had died"
	wait $fio || fail "$name: fio: $(tail -5 fio.log)"
	detach "$dev"
	"$cowblk" check "$image" >/dev/null 2>&1 || fail "$name: cowblk check: status $?: $("$cowblk" check "$image" 2>&1 | tail -3)"
	[ "$name" = encrypted ] || check_clean "$image"
	say "$name: $round daemons killed"
}

"$cowblk" create plain.qcow2 64M
verify_under_kills plain plain.qcow2
"$cowblk" bitmap add plain.qcow2 b >/dev/null
"$cowblk" snapshot create plain.qcow2 before >/dev/null
verify_under_kills "snapshot and bitmap" plain.qcow2 --queues 1
"$cowblk" info plain.qcow2 | grep -q inconsistent && fail "the bitmap did not outlive its daemon"
"$cowblk" create -b plain.qcow2 -F qcow2 overlay.qcow2 >/dev/null
verify_under_kills overlay overlay.qcow2
echo secret > key
"$cowblk" create -o encrypt.format=luks,encrypt.iter-time=10 --key-file key locked.qcow2 64M >/dev/null
verify_under_kills encrypted locked.qcow2 --key-file key

for fs in ext4 xfs btrfs; do
	rm -f disk.qcow2
	"$cowblk" create disk.qcow2 1G
	attach dev disk.qcow2 --recovery
	"mkfs.$fs" -q "$dev"
	mount_on "$dev" mnt
	copy_tree mnt 12000 &
	copying=$!
	for _ in $(seq "$rounds"); do
		sleep 0.3
		kill_daemon "$dev"
	done
	wait $copying || fail "a copy onto $fs failed"
	sums mnt > before
	kill_daemon "$dev"
	echo 3 > /proc/sys/vm/drop_caches
	sums mnt > after
	cmp before after || fail "$fs: files differ after their daemon was killed"
	umount mnt
	detach "$dev"
	check_clean disk.qcow2
	say "$fs: $((rounds + 1)) daemons killed"
done

# Between two lives the image is locked, the device is not taken for dead, and a detach waits for the next daemon.
attach dev disk.qcow2 --recovery
kill -STOP "$(supervisor_of "$dev")"
super=$(supervisor_of "$dev")
kill -9 "$(field "$dev" pid)"
sleep 0.3
must_fail "in use|attached" "$cowblk" check disk.qcow2
[ "$(field "$dev" state)" = unresponsive ] || fail "between two lives list says $(field "$dev" state)"
"$cowblk" create other.qcow2 64M
attach second other.qcow2
detach "$second"
[ -b "$dev" ] || fail "an attach took the device away whose daemon was about to be replaced"
kill -CONT "$super"
timeout 60 "$cowblk" detach "$dev" || fail "detach between two lives"
wait_for test ! -d "/proc/$super" || fail "the supervisor outlives its device"
[ ! -e "/run/cowblk/${dev#/dev/}.life" ] || fail "a lock file is left in /run/cowblk"
check_clean disk.qcow2

# Both die: nobody is to wait for ever, and the next attach of the image works.
fails() { timeout -s KILL 20 dd if="$dev" of=/dev/null bs=4k count=1 iflag=direct 2>said && fail "$1: a device that nobody serves can be read" || grep -q 'Input/output error\|No such' said || fail "$1: requests wait for ever: $(cat said)"; }
is_dead() { [ "$(field "$dev" state)" = dead ]; }
attach dev disk.qcow2 --recovery
kill -9 "$(supervisor_of "$dev")" "$(field "$dev" pid)"
wait_for is_dead || fail "list does not call it dead: $(field "$dev" state)"
fails "both killed"
timeout 60 "$cowblk" detach "$dev" >/dev/null 2>&1 || true
wait_for test ! -b "$dev" || fail "the device of a dead supervisor cannot be removed"
check_sound disk.qcow2

# One after the other, long after the device came.
attach dev disk.qcow2 --recovery
sleep 1.2
kill -9 "$(supervisor_of "$dev")"
dd if="$dev" of=/dev/null bs=64k count=1 iflag=direct status=none || fail "a daemon without its supervisor does not serve"
kill -9 "$(field "$dev" pid)"
fails "supervisor, then daemon"
"$cowblk" detach "$dev" 2>/dev/null || fail "detach after the supervisor, then the daemon died"
# The second one while the first is to be replaced.
attach dev disk.qcow2 --recovery
super=$(supervisor_of "$dev")
kill -STOP "$super"
kill -9 "$(field "$dev" pid)"
sleep 1.2
kill -9 "$super"
fails "the supervisor, between two daemons"
"$cowblk" detach "$dev" 2>/dev/null || fail "detach after the supervisor died between two daemons"
check_sound disk.qcow2

# All that there is, before there was a record: it is listed, and goes by force.
keeper_of() { sed -n 's/^Pid:[[:space:]]*//p' "$(grep -l "^PPid:[[:space:]]*$(field "$1" pid)\$" /proc/[0-9]*/status | head -n 1)"; }
attach dev disk.qcow2 --recovery
kill -9 "$(keeper_of "$dev")" "$(supervisor_of "$dev")" "$(field "$dev" pid)"
rm -f /run/cowblk/ublkb*
"$cowblk" list | grep -q "^$dev .*dead" || fail "list does not know of a device without a record that waits for a daemon: $("$cowblk" list)"
attach second other.qcow2
detach "$second"
must_fail "waits? for another.*--force" "$cowblk" detach "$dev"
"$cowblk" detach --force "$dev" 2>said || fail "detach --force of it: $(cat said)"
wait_for test ! -b "$dev" || fail "detach --force leaves it"
check_sound disk.qcow2
say "both killed, in every order: requests fail, and the device can be removed"

# A supervisor that has no CAP_KILL, as in the unit, over a daemon with a user of its own.
[ -e /etc/passwd ] || : >/etc/passwd
cp /etc/passwd passwd
grep -q '^cowblk:' passwd || echo 'cowblk:x:987:986::/:/usr/sbin/nologin' >>passwd
mount --bind passwd /etc/passwd
few=$(sed -n 's/^CapabilityBoundingSet=//p' "$(dirname "$0")/../../systemd/cowblk@.service.in" | tr 'A-Z ' 'a-z,' | tr '\n' ',' | sed 's/cap_/+/g; s/,$//')
setpriv --bounding-set="-all,$few" "$cowblk" attach --foreground --recovery disk.qcow2 >out 2>said &
super=$!
wait_for grep -q ublkb out || fail "attach with the unit's capabilities: $(cat said)"
dev=$(cat out)
kill_daemon "$dev" 2>/dev/null
! grep -q 'keeps privileges' said || fail "a successor keeps privileges: $(cat said)"
kill -TERM $super
wait_for test ! -d /proc/$super || fail "SIGTERM does not get from a supervisor without CAP_KILL to its daemon: $(cat said)"
wait $super || fail "status $? after SIGTERM: $(cat said)"
umount /etc/passwd
check_clean disk.qcow2

# By force: it goes, and is not replaced.
attach dev disk.qcow2 --recovery
super=$(supervisor_of "$dev")
"$cowblk" detach --force "$dev" || fail "detach --force"
wait_for test ! -d "/proc/$super" || fail "detach --force leaves the supervisor"

# Again and again: it is given up, requests fail, and the image is sound.
attach dev disk.qcow2 --recovery
for _ in 1 2 3 4 5; do kill_daemon "$dev"; done
kill -9 "$(field "$dev" pid)"
wait_for test ! -b "$dev" || fail "six deaths within a minute are not given up: $(log_of "$dev")"
[ "$(field "$dev" state)" = dead ] || fail "list does not call it dead: $(field "$dev" state)"
log_of "$dev" | grep -q 'given up' || fail "the log does not say that it was given up: $(log_of "$dev")"
"$cowblk" detach "$dev" 2>said || fail "detach: $(cat said)"
grep -q "cowblk check" said || fail "detach does not say what it means: $(cat said)"
check_sound disk.qcow2
