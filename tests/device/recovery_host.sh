#!/usr/bin/env bash
# A device outlives its daemon whatever the host does meanwhile: I/O that the dead daemon had begun ends first; a successor that fails gives no
# lock away and tries again for long; and a daemon that is killed while it closes its image leaves nothing unwritten.
# needs: dmsetup
. "$(dirname "$0")/lib.sh"
[ "${COW_KERNEL_IS:-}" != vm ] || skip "recovery needs Linux 7.1"

dev=/dev/ublkb7
# The host: a disk that can be held.
bytes=$((64 << 20))
host=/dev/mapper/held
map held "0 $((bytes / 512)) linear ${COW_DISKS%% *} 0"
hold() { dmsetup suspend --nolockfs --noflush held; }
let_go() { dmsetup resume held; }
image() { "$cowblk" create disk.qcow2 32M; dd if=disk.qcow2 of=$host bs=1M conv=notrunc status=none; blockdev --flushbufs $host; }

field() { "$cowblk" list --json | tr -d ' ",' | awk -F: -v dev="$dev" -v key="$1" '$1 == "device" { d = $2 } $1 == key && d == dev { print $2 }'; }
supervisor_of() { awk '{ print $4 }' "/proc/$pid/stat"; }
log() { cat "/run/cowblk/${dev#/dev/}.log"; }
attach_held()
{
	attach dev "$host" --recovery --id 7 --queues 1
	pid=$(field pid)
	super=$(supervisor_of)
}
is_gone() { [ ! -d "/proc/$1" ]; }
goes_on() { log | grep -q 'goes on'; }
has_begun() { pgrep -P "$super" >/dev/null; }

# Direct I/O goes on when its process is gone: nobody touches the image before it has ended.
image
attach_held
dd if=/dev/urandom of=data bs=64K count=4 status=none
dd if=data of="$dev" bs=64K oflag=direct status=none
dd if=/dev/urandom of=data bs=64K count=4 status=none
hold
dd if=data of="$dev" bs=256K oflag=direct status=none &
writer=$!
in_flight() { [ "$(awk '{ print $1 + $2 }' /sys/block/"${dev#/dev/}"/inflight)" != 0 ] && [ "$(dmsetup info -c --noheadings -o suspended held)" = Suspended ]; }
wait_for in_flight || fail "no write in flight"
sleep 0.2
kill -9 "$pid"
wait_for is_gone "$pid" || fail "a killed daemon stays as long as its host holds its writes"
for _ in 1 2 3 4 5 6 7 8; do
	! has_begun || fail "another daemon begins while the host still has writes of the dead one"
	sleep 0.1
done
let_go
wait $writer || fail "a write that met the death of its daemon failed"
wait_for goes_on || fail "nobody goes on when the host has ended the writes: $(log)"
cmp -n 262144 "$dev" data || fail "not what was written"
"$cowblk" detach "$dev" || fail "detach"
say "a successor waits for the writes of the dead"

# A successor that cannot begin keeps the lock, and the next one tries, longer than five times.
attach_held
char=/dev/ublkc7
mv $char $char.away
mkdir $char
kill -9 "$pid"
tries() { log | grep -c "$char: Is a directory" || true; }
tried() { [ "$(tries)" -ge "$1" ]; }
wait_for tried 1 || fail "no successor fails: $(log)"
locked() { must_fail "lock" qemu-img check -f qcow2 $host; }
locked
wait_for tried 7 || fail "given up after $(tries) tries: $(log)"
locked
rmdir $char
mv $char.away $char
nr=$(tries)
wait_for goes_on || fail "nobody goes on when it would be possible again: $(log)"
cmp -n 262144 "$dev" data || fail "not what was written before successors failed"
goes_on_twice() { [ "$(log | grep -c 'goes on')" = 2 ]; }
pid=$(field pid)
mv /dev/ublk-control /dev/ublk-control.away
kill -9 "$pid"
wait_for eval 'log | grep -q "no ublk driver"' || fail "no successor fails without its control device: $(log)"
mv /dev/ublk-control.away /dev/ublk-control
wait_for goes_on_twice || fail "nobody goes on when the control device is there again: $(log)"
"$cowblk" detach "$dev" || fail "detach"
say "$nr successors failed, one did not"

# SIGTERM in between is not lost with a successor that cannot begin.
attach_held
dd if=data of="$dev" bs=64K seek=30 oflag=direct status=none
mv $char $char.away
mkdir $char
kill -9 "$pid"
wait_for tried 1 || fail "no successor fails: $(log)"
kill -TERM "$super"
wait_for tried 3 || fail "SIGTERM ends a supervisor whose image is not closed: $(log)"
rmdir $char
mv $char.away $char
wait_for is_gone "$super" || fail "SIGTERM between two daemons is forgotten: $(log)"
[ ! -b "$dev" ] || fail "SIGTERM between two daemons leaves the device"
there() { qemu-img convert -f qcow2 -O raw $host out && cmp -i $(($1 * 65536)):0 -n "$(stat -c %s data)" out data; }
check_clean $host
there 30 || fail "what had been written is not in the image after SIGTERM between two daemons"

# By force in between: what is in the memory of the dead gets into the image all the same.
attach_held
dd if=/dev/urandom of=data bs=64K count=16 status=none
dd if=data of="$dev" bs=64K seek=50 oflag=direct status=none
mv $char $char.away
mkdir $char
kill -9 "$pid"
wait_for tried 1 || fail "no successor fails: $(log)"
timeout 60 "$cowblk" detach --force "$dev" 2>said || fail "detach --force between two daemons: status $?: $(cat said)"
wait_for is_gone "$super" || fail "detach --force leaves a supervisor between two daemons"
rmdir $char
rm -f $char.away
check_clean $host
there 50 || fail "what had been written is not in the image that was detached by force"
[ -z "$(find /run/cowblk -mindepth 1 ! -name lock)" ] || fail "in /run/cowblk are left: $(ls /run/cowblk)"
say "a device between two daemons is detached by force"

# Who was to say that the device is there is dead before it is: then nobody knows of it, and it goes.
no_process() { ! pgrep '^cowblk' >/dev/null; }
hold
"$cowblk" attach --recovery --id 7 $host >/dev/null 2>said &
attach=$!
begun() { super=$(pgrep -x cowblk-super) && has_begun; }
wait_for begun || fail "no daemon begins: $(cat said)"
kill -9 "$super"
let_go
! wait $attach || fail "an attach says that the device is there whose supervisor had been killed"
wait_for no_process || fail "nobody hears of the device, which stays: $("$cowblk" list)"
[ -z "$(find /run/cowblk -mindepth 1 ! -name lock)" ] || fail "in /run/cowblk are left: $(ls /run/cowblk)"
check_clean $host
say "nobody hears of it: it goes"

# Who was to say so is dead, but the device is there and all that is to be known of it: the attach tells.
hold
"$cowblk" attach --recovery --id 7 $host >out 2>said &
attach=$!
wait_for begun || fail "no daemon begins: $(cat said)"
kill -STOP "$super"
let_go
wait_for test -e "/run/cowblk/${dev#/dev/}.json" || fail "no record: $(cat said)"
sleep 0.3
kill -9 "$super"
wait $attach || fail "an attach fails that has made a device: $(cat said)"
grep -qx "$dev" out || fail "an attach does not name its device: $(cat out)"
grep -q 'will not outlive' said || fail "an attach does not say that its supervisor is dead: $(cat said)"
"$cowblk" detach "$dev" || fail "detach of a device without its supervisor"
check_clean $host
say "a supervisor that could not say so any more"

# No room for a record: what has one and is in use goes on.
attach_held
mount -o remount,size=1M /run
dd if=/dev/zero of=/run/fill bs=4k 2>/dev/null || true
kill -9 "$pid"
replaced() { [ "$(field state)" = live ] && [ "$(field pid)" != "$pid" ]; }
wait_for replaced || fail "no successor where /run is full: $("$cowblk" list)"
timeout -s KILL 20 dd if="$dev" of=/dev/null bs=64k count=1 iflag=direct status=none || fail "a successor does not serve where /run is full"
rm /run/fill
mount -o remount,size=50% /run
"$cowblk" detach "$dev" || fail "detach"
check_clean $host

# Detached is: nothing of ours holds the image any more, however slow the supervisor is.
mkdir place
mount -t tmpfs none place
"$cowblk" create place/disk.qcow2 16M
attach there place/disk.qcow2 --recovery --id 8
pid=$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' /run/cowblk/ublkb8.json)
super=$(supervisor_of)
kill -STOP "$super"
"$cowblk" detach "$there" &
detach=$!
has_ended() { grep -q '^State:.*Z' "/proc/$pid/status"; }
wait_for has_ended || fail "detach does not end the daemon"
sleep 0.5
kill -0 $detach || fail "a detach is over while a process of the device has the image open"
kill -CONT "$super"
wait $detach || fail "detach $there"
umount place || fail "the image's file system is busy after a detach: $(pgrep -a '^cowblk')"
say "a full /run; a file system that is unmounted after a detach"

# Killed in the close, its device stopped already.
attach_held
dd if=/dev/urandom of=data bs=64K count=64 status=none
dd if=data of="$dev" bs=64K seek=100 oflag=direct status=none
hold
"$cowblk" detach --force "$dev" 2>said &
detach=$!
stopped() { [ ! -b "$dev" ]; }
wait_for stopped || fail "detach --force does not stop it: $(cat said)"
kill -0 "$pid" || fail "it has closed a host that is held"
kill -9 "$pid"
wait_for is_gone "$pid" || fail "a daemon that was killed in its close stays"
let_go
wait_for is_gone "$super" || fail "the supervisor stays"
wait $detach || true # its daemon was killed, and says so
check_clean $host
there 100 || fail "what had been written is not in the image"
[ -z "$(ls -d $char "/run/cowblk/${dev#/dev/}.json" 2>/dev/null)" ] || fail "what is closed is left: $("$cowblk" list)"
say "a close that was cut short is finished"
