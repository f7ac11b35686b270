#!/usr/bin/env bash
# What a daemon has given up while its device is live, that it serves and ends all the same, and that it keeps nothing of its caller's.
. "$(dirname "$0")/lib.sh"

pid_of() { sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "/run/cowblk/${1#/dev/}.json"; }
# The keeper is the daemon's child.
keeper_of() { sed -n 's/^Pid:[[:space:]]*//p' "$(grep -l "^PPid:[[:space:]]*$1\$" /proc/[0-9]*/status | head -n 1)"; }
holds() { find "/proc/$1/fd" -type l -lname "$2" | grep -q .; }
field() { sed -n "s/^$2:[[:space:]]*//p" "/proc/$1/status"; }

# A user of its own, where there is one.
[ -e /etc/passwd ] || : >/etc/passwd # the VM comes without
cp /etc/passwd passwd
grep -q '^cowblk:' passwd || echo 'cowblk:x:987:986::/:/usr/sbin/nologin' >>passwd
mount --bind passwd /etc/passwd
uid=$(sed -n 's/^cowblk:[^:]*:\([0-9]*\):.*/\1/p' /etc/passwd)

# ---- what is left
"$cowblk" create a.qcow2 256M
attach a a.qcow2
pid=$(pid_of "$a")
for task in "/proc/$pid/task"/*; do
	case $(cat "$task/comm") in iou-*) continue ;; esac # the kernel's: they act for those who ask them
	status=$(cat "$task/status")
	name="$(cat "$task/comm") $(basename "$task")"
	for line in 'CapEff: *0*' 'CapPrm: *0*' 'CapInh: *0*' 'NoNewPrivs: *1' 'Seccomp: *2' "Uid: *$uid $uid $uid $uid" 'Groups: *'; do
		tr -s '\t' ' ' <<<"$status" | grep -qx -- "$line *" || fail "thread $name: not /$line/: $(grep "^${line%%:*}" <<<"$status")"
	done
done
[ -z "$(ls -A "/proc/$pid/root/")" ] || fail "its root is not empty: $(ls -A "/proc/$pid/root/")"
! grep -q 'not given up' "/run/cowblk/${a#/dev/}.log" || short || fail "$(cat "/run/cowblk/${a#/dev/}.log")"
"$cowblk" list --json | grep -q '"given-up": *"root, user, .*capabilities, system calls"' ||
	fail "list does not say what is given up: $("$cowblk" list --json)"
say "the daemon: user $uid, $(field "$pid" Threads) threads, no capability, an empty root"

# What changes the whole image goes through the ring that was made before: its first one, the device thread's.
ring=$(find "/proc/$pid/fd" -lname '*io_uring*' -printf '%f\n' | sort -n | head -n 1)
completions() { sed -n 's/^CqTail:[[:space:]]*//p' "/proc/$pid/fdinfo/$ring"; }
dd if=/dev/urandom of="$a" bs=1M count=8 conv=fsync status=none
before=$(completions)
"$cowblk" snapshot create "$a" ring >/dev/null || fail "snapshot create"
nr=$(($(completions) - before))
[ "$nr" -ge 8 ] || fail "a snapshot beside the requests: $nr I/Os through the ring"
"$cowblk" snapshot delete "$a" ring || fail "snapshot delete"
say "a snapshot of a confined daemon: $nr I/Os through its ring"

# ---- and all works
mkfs.ext4 -q "$a"
mount_on "$a" m
copy_tree m 3000
"$cowblk" snapshot create "$a" before >/dev/null || fail "snapshot create"
"$cowblk" bitmap add "$a" dirty || fail "bitmap add"
rm -rf m/*
fstrim m 2>/dev/null || true
dd if=/dev/urandom of=m/file bs=1M count=20 conv=fsync status=none
"$cowblk" bitmap dump "$a" dirty >/dev/null || fail "bitmap dump"
"$cowblk" snapshot delete "$a" before || fail "snapshot delete"
must_fail 'mounted on' "$cowblk" detach "$a"
sums m >sums
umount m
detach "$a"
[ "$(ls /run/cowblk)" = lock ] || fail "left behind: $(ls /run/cowblk)"
[ ! -d "/proc/$pid" ] || wait_for test ! -d "/proc/$pid" || fail "the daemon is still there"
check_clean a.qcow2

# SIGTERM, while mounted
attach a a.qcow2 --compress
pid=$(pid_of "$a")
mount_on "$a" m
(cd m && sha256sum -c --quiet ../sums) || fail "other data after detach and attach"
echo kept >m/kept
kill -TERM "$pid"
wait_for test ! -d "/proc/$pid" || fail "SIGTERM did not end it"
nothing_left() { [ "$(ls /run/cowblk)" = lock ]; }
wait_for nothing_left || fail "left behind after SIGTERM: $(ls /run/cowblk)"
umount m
check_clean a.qcow2
attach a a.qcow2 --temporary
mount_on "$a" m
[ "$(cat m/kept)" = kept ] || fail "lost by SIGTERM"
umount m
detach "$a"

# systemd hears of the start and, from a confined daemon, of the end.
"$COW_TOOLS/clients" notify "$PWD/notify" 60 >notified &
notify=$!
wait_for test -S notify || fail "no notify socket"
NOTIFY_SOCKET=$PWD/notify "$cowblk" attach --foreground a.qcow2 2>daemon.log &
pid=$!
wait_for grep -q READY=1 notified || fail "systemd does not hear READY=1: $(cat daemon.log)"
kill -TERM "$pid"
wait "$pid" || fail "attach --foreground ended by SIGTERM: status $?"
wait_for grep -q STOPPING=1 notified || fail "systemd does not hear STOPPING=1"
kill "$notify"

# ---- the keeper: goes with the daemon; without it the device can still be taken away
recovery=(--no-recovery)
attach a a.qcow2
pid=$(pid_of "$a")
keeper=$(keeper_of "$pid")
[ "$(cat "/proc/$keeper/comm")" = cowblk-keeper ] || fail "no keeper beside the daemon: '$keeper'"
kill -TERM "$keeper"
"$cowblk" list >/dev/null
[ -d "/proc/$keeper/fd" ] || fail "SIGTERM ended the keeper"
kill -KILL "$pid"
wait_for test ! -d "/proc/$keeper/fd" || fail "the keeper outlives its daemon"
"$cowblk" detach --force "$a" || fail "detach --force of a dead daemon"
attach a a.qcow2
pid=$(pid_of "$a")
kill -KILL "$(keeper_of "$pid")"
must_fail 'keeper has died.*--force' "$cowblk" detach "$a"
"$cowblk" detach --force "$a" || fail "detach --force without a keeper"
wait_for test ! -d "/proc/$pid" || fail "the daemon is still there"
[ "$(ls /run/cowblk)" = lock ] && [ ! -b "$a" ] || fail "left behind without a keeper: $(ls /run/cowblk)"
check_clean a.qcow2

# SIGTERM without a keeper closes the image, with what a mounted file system had in memory.
attach a a.qcow2
pid=$(pid_of "$a")
keeper=$(keeper_of "$pid")
[ "$(cat "/proc/$keeper/oom_score_adj")" = -900 ] || fail "the keeper's oom_score_adj: $(cat "/proc/$keeper/oom_score_adj")"
[ "$(cut -d ' ' -f 6 "/proc/$keeper/stat")" = "$keeper" ] || fail "the keeper is of its caller's session"
[ "$(sed -n 's/^VmLck:[[:space:]]*\([0-9]*\).*/\1/p' "/proc/$keeper/status")" -gt 0 ] || fail "the keeper's memory is not locked"
mount_on "$a" m
echo late >m/late
kill -KILL "$keeper"
wait_for grep -q 'keeper is gone' "/run/cowblk/${a#/dev/}.log" || fail "nobody noticed that the keeper died"
"$cowblk" list --json | grep -q '"keeper": *false' || fail "list --json does not say that the keeper is gone"
kill -TERM "$pid"
wait_for test ! -d "/proc/$pid/fd" || fail "SIGTERM does nothing without a keeper"
umount m
check_clean a.qcow2
"$cowblk" detach "$a" 2>/dev/null || fail "detach of what SIGTERM without a keeper left"
attach a a.qcow2
mount_on "$a" m
[ "$(cat m/late)" = late ] || fail "SIGTERM without a keeper lost a file"
umount m

# A keeper that is stopped is not waited for.
pid=$(pid_of "$a")
keeper=$(keeper_of "$pid")
kill -STOP "$keeper"
timeout 40 "$cowblk" detach "$a" 2>said && fail "detach with a stopped keeper succeeded"
grep -q 'keeper has died or is stopped.*--force' said || fail "detach with a stopped keeper: status $?: $(cat said)"
kill -CONT "$keeper"
ended() { ! readlink "/proc/$1/exe" >/dev/null; }
wait_for ended "$keeper" || fail "a keeper that was given up stays"
[ -b "$a" ] || fail "a keeper that was given up stopped the device"
"$cowblk" detach --force "$a" || fail "detach --force without an answering keeper"
check_clean a.qcow2

# ---- nothing of the caller's
recovery=()
exec 9>lock
flock 9

mkdir -p /run/cowblk/empty-killed
touch -d '1 hour ago' /run/cowblk/empty-killed
attach a a.qcow2 9>&9
[ ! -e /run/cowblk/empty-killed ] || fail "the root of a daemon that was killed stays"
exec 9>&-
flock -n lock true || fail "the caller's lock is held by the daemon"
pid=$(pid_of "$a")
keeper=$(keeper_of "$pid")
! holds "$pid" "$PWD/lock" && ! holds "$keeper" "$PWD/lock" || fail "it has the caller's files open"
[ "$(readlink "/proc/$keeper/cwd")" = / ] || fail "the keeper keeps the caller's folder busy"
detach "$a"
# a pipe that the caller reads to its end
said=$(timeout 20 bash -c "'$cowblk' attach a.qcow2 3>&1") || fail "a pipe of the caller's does not end"
devices+=("$said")
detach "$said"
check_sound a.qcow2
umount /etc/passwd
