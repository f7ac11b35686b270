#!/usr/bin/env bash
# What a request is at: of a host that has gone away, and of a queue whose thread is stuck.
# needs: dmsetup dm-mod
# The commands are those of docs/HACKING.md (requests.prepare).
. "$(dirname "$0")/lib.sh"
disk=${COW_DISKS:-}
disk=${disk%% *}
[ -n "$disk" ] || skip "no spare disk"
modprobe -q dm-mod 2>/dev/null || true
holder=
end_holder() { [ -z "$holder" ] || kill "$holder" 2>/dev/null || true; holder=; }
# Before clean_up (lib.sh), which would wait for the host.
end()
{
	local status=$?
	set +e
	end_holder
	dmsetup resume host 2>/dev/null
	(exit "$status")
	clean_up
}
trap end EXIT

list() { timeout 10 "$cowblk" list --requests "$dev" >list 2>said || fail "list --requests: status $?: $(cat said)"; }
# A row of the list that matches.
row() { list && grep -Eq "$1" list; }
expect() { wait_for row "$1" || fail "no request like '$1' among: $(cat list)"; }

map host "0 $(blockdev --getsz "$disk") linear $disk 0"
image=/dev/mapper/host
qemu-img create -q -f qcow2 "$image" 256M
attach dev "$image" --queues 2
number=${dev#/dev/ublkb}
pid=$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' "/run/cowblk/ublkb$number.json")
dd if=/dev/urandom of="$dev" bs=1M count=4 oflag=direct conv=fsync status=none

# page PATTERN: runs the commands of the page that match, on this device. Each says something, but a signal.
mkdir bin
ln -s "$cowblk" bin/cowblk
PATH=$PWD/bin:$PATH
page()
{
	local line count=0
	while IFS= read -r line; do
		count=$((count + 1))
		[ "${line%% *}" != gdb ] || command -v gdb >/dev/null || { say "no gdb on this kernel"; continue; }
		line=${line/PID/$pid} line=${line/DEVICE/$dev} line=${line/IMAGE/$image} line=${line/ublkb0/ublkb$number}
		timeout 100 bash -c "$line" >"page.$count" 2>&1 </dev/null || fail "$line: status $?: $(tail -n 3 "page.$count")"
		[ -s "page.$count" ] || case $line in kill*) ;; *) fail "$line: says nothing" ;; esac
	done < <(grep -E "$1" "$COW_PREPARED/commands")
	[ "$count" -ge 2 ] || fail "only $count commands of the page are '$1'"
}

list
[ ! -s list ] || fail "requests of an idle device: $(cat list)"
"$cowblk" list "$dev" 2>said && fail "list takes a device without --requests"
grep -q 'goes with --requests' said || fail "list with a device: $(cat said)"
must_fail 'not attached' "$cowblk" list --requests no-such-image

# The host stands still: a write in place, one that needs a cluster and one more in that cluster, and a flush.
dmsetup suspend --nolockfs --noflush host
writers=()
write() { dd if=/dev/zero of="$dev" bs=4096 count=1 seek="$1" oflag=direct conv=notrunc status=none & writers+=("$!"); }
write 16
write 25600
expect "^$dev +[01] +[0-9]+ write +65536 +4096 .* write: drain +1 host I/O \(write of 4096 bytes at [0-9]+ of $image\)$"
expect "^$dev +[01] +[0-9]+ write +104857600 +4096 .* [a-z0-9 ]+: [a-z ]+ +(a slice of metadata|free host clusters)$"
write 25602
expect "^$dev .* write +104865792 +4096 .*(a slice of metadata|free host clusters)$"
age() { "$cowblk" list --requests --json "$image" | tr -d ' ,' | awk -F: '$1 == "\"age-ms\"" { print $2; exit }'; }
before=$(age)
sleep 1.2
after=$(age)
[ "$((after - before))" -ge 1000 ] || fail "a request was $before ms old, and 1.2 s later $after ms"

# All that the page has for a device that hangs. The signal: the same in the log.
mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
page '^(cowblk list|kill|gdb|cat) '
! command -v gdb >/dev/null || grep -q '#0 ' page.* || fail "gdb shows no thread: $(tail -n 5 page.*)"
log=/run/cowblk/ublkb$number.log
wait_for grep -q "queue [01] tag [0-9]*: write of 4096 bytes at 65536, [0-9]* ms old: write: drain, waits for 1 host I/O" "$log" ||
	fail "SIGUSR1: the log has: $(cat "$log")"
grep -q "3 requests in flight" "$log" || fail "SIGUSR1: the log counts: $(grep flight "$log")"

# Nobody waits long for a queue whose thread is stuck, and what it has can be seen all the same.
queue=$(awk '$5 == 65536 { print $2 }' list)
for task in "/proc/$pid/task/"*; do
	[ "$(cat "$task/comm")" != "cowblk-q$queue" ] || tid=${task##*/}
done
"$COW_TOOLS/hold" "$pid" "$tid" >held &
holder=$!
wait_for grep -q held held || fail "the queue's thread cannot be held"
since=$SECONDS
list
[ $((SECONDS - since)) -le 4 ] || fail "list --requests took $((SECONDS - since)) s"
grep -q "queue $queue: its thread does not answer" said || fail "no word of a queue that does not answer: $(cat said)"
grep -Eq "^$dev +$queue +[0-9]+ write +65536 +4096 .* \? +the thread of queue $queue$" list || fail "the stuck queue's request: $(cat list)"
[ "$(grep -c "^$dev " list)" = 3 ] || fail "not three requests: $(cat list)"
"$cowblk" list --requests --json | tr -d ' \n\t' | grep -q "\"silent-queues\":\[$queue\]" || fail "--json of a queue that does not answer"
end_holder
wait_for row "^$dev +$queue .* 65536 +4096 .* write: drain " || fail "the queue has not come back: $(cat list)"

dmsetup resume host
for writer in "${writers[@]}"; do wait "$writer" || fail "a write failed on a host that came back"; done
wait_for eval 'list && [ ! -s list ]' || fail "requests that have ended: $(cat list)"

# And for a daemon that is dead, and its supervisor.
super=$(awk '{ print $4 }' "/proc/$pid/stat")
[ "$(cat "/proc/$super/comm")" != cowblk-super ] || kill -9 "$super"
kill -9 "$pid"
page '^cowblk (detach|check) '
check_clean "$image"
say "requests of a host that stood still, and of a queue that did"
