#!/usr/bin/env bash
# Nobody waits for ever, or without a word: a daemon that is stopped, clients that say nothing, a byte a second or nothing more.
. "$(dirname "$0")/lib.sh"
recovery=(--no-recovery)
clients=$COW_TOOLS/clients
helpers=()
end_helpers() { [ ${#helpers[@]} = 0 ] || kill "${helpers[@]}" 2>/dev/null || true; }
# Before clean_up (lib.sh), which ends the case with the status that it finds.
end()
{
	local status=$?
	set +e
	end_helpers
	(exit "$status")
	clean_up
}
trap end EXIT

pid_of() { "$cowblk" list --json | tr -d ' ",' | awk -F: -v dev="$1" '$1 == "device" { d = $2 } $1 == "pid" && d == dev { print $2 }'; }
# within SECONDS COMMAND...: it succeeds in that time.
within()
{
	local limit=$1 start=$SECONDS
	shift
	timeout "$limit" "$@" || fail "'$*': status $? after $((SECONDS - start)) s"
}

"$cowblk" create a.qcow2 64M
"$cowblk" create b.qcow2 64M
attach a a.qcow2
attach b b.qcow2
socket=/run/cowblk/${a#/dev/}.sock

# Clients that hold nobody: silent ones, one that drips, one that takes its answer slowly.
for nr in 8 100; do
	"$clients" silent "$socket" $nr 60 >ready.$nr &
	helpers+=("$!")
	wait_for grep -q ready ready.$nr || fail "$nr silent clients"
	within 3 "$cowblk" bitmap add "$a" with-$nr
	within 3 "$cowblk" list >list
	grep -q "^$a .* live " list || fail "beside $nr silent clients: $(cat list)"
done
end_helpers
helpers=()
"$clients" drip "$socket" 30 >drip &
dripping=$!
within 3 "$cowblk" bitmap add "$a" beside-drip
"$clients" slow "$socket" '{"cmd":"bitmap","action":"dump","name":"beside-drip"}' 20 &
helpers+=("$!")
within 3 "$cowblk" bitmap dump "$a" beside-drip >/dev/null
wait $dripping
[ "$(cat drip)" -le 4 ] || fail "a byte a second held a connection for $(cat drip) s"

# A daemon that is stopped: nine lists and more show it and the other one, each within its limit.
pid=$(pid_of "$a")
kill -STOP "$pid"
for n in $(seq 9); do timeout 8 "$cowblk" list >list.$n & done
wait $(jobs -p | grep -vxF "${helpers[0]}") || true
for n in $(seq 9); do
	grep -q "^$a .* does not answer (pid $pid)" list.$n || fail "list $n of a stopped daemon: $(cat list.$n)"
	grep -q "^$b .* live " list.$n || fail "list $n: the other device: $(cat list.$n)"
done
"$cowblk" list --json | grep -q '"state": "unresponsive"' || fail "list --json of a stopped daemon"

# A command says for whom it waits, and ends with what to do; a detach that was given up is not carried out.
! timeout 30 "$cowblk" bitmap list "$a" 2>said || fail "bitmap list asked a stopped daemon"
grep -q "waiting for the daemon of $a (process $pid)" said || fail "no word while waiting: $(cat said)"
grep -q "does not answer.*detach --force $a" said || fail "no word of what to do: $(cat said)"
timeout 1 "$cowblk" detach "$a" 2>/dev/null && fail "detach of a stopped daemon succeeded"
"$clients" leave "$socket" '{"cmd":"detach"}'
kill -CONT "$pid"
within 5 "$cowblk" bitmap list "$a" >/dev/null
sleep 1
[ -b "$a" ] && [ "$(pid_of "$a")" = "$pid" ] || fail "a detach that was given up was carried out"

# --force gets through: one that somebody stopped goes on and loses nothing.
echo kept | dd of="$a" conv=fsync status=none
kill -STOP "$pid"
timeout 60 "$cowblk" detach --force "$a" 2>said || fail "detach --force of a stopped daemon: $(cat said)"
grep -q 'does not answer: stopping the device' said && grep -q 'went on, and has closed the image' said || fail "it said: $(cat said)"
[ ! -b "$a" ] && ! kill -0 "$pid" 2>/dev/null || fail "detach --force left $a"
check_clean a.qcow2
attach a a.qcow2
[ "$(head -c 4 "$a")" = kept ] || fail "detach --force lost a write"

# One that does not go on is killed: a tracer holds it, so that SIGCONT does nothing, and a write waits for it.
pid=$(pid_of "$a")
"$COW_TOOLS/hold" "$pid" >held &
holder=$!
helpers+=("$holder")
wait_for grep -q held held || fail "the daemon cannot be held"
dd if=/dev/zero of="$a" bs=4k count=1 oflag=direct status=none 2>/dev/null &
writer=$!
sleep 0.3
timeout 90 "$cowblk" detach --force "$a" 2>said || fail "detach --force of a held daemon: $(cat said)"
grep -q 'killing it' said && grep -q 'run `cowblk check' said || fail "it said: $(cat said)"
wait $writer && fail "a write that the daemon never saw succeeded"
[ ! -e "/dev/ublkc${a#/dev/ublkb}" ] || fail "detach --force left the device"
check_sound a.qcow2

# Only the daemon is killed: not who has its number now.
attach a a.qcow2
pid=$(pid_of "$a")
kill -STOP "$pid"
sleep 600 &
bystander=$!
helpers+=("$bystander")
sed -i "s/\"pid\": *$pid/\"pid\":$bystander/" "/run/cowblk/${a#/dev/}.json"
timeout 30 "$cowblk" detach --force "$a" 2>said && fail "detach --force took a bystander for the daemon"
grep -q 'left alone' said || fail "it said: $(cat said)"
kill -0 $bystander || fail "detach --force killed a bystander"
kill -CONT "$pid"
within 20 "$cowblk" detach "$a"

# A daemon that lives is not taken for dead when somebody has removed its socket.
attach a a.qcow2
pid=$(pid_of "$a")
rm "/run/cowblk/${a#/dev/}.sock"
must_fail "process $pid.* lives" "$cowblk" detach "$a"
"$cowblk" attach a.qcow2 2>/dev/null && fail "attached twice"
[ -b "$a" ] && [ -e "/run/cowblk/${a#/dev/}.json" ] || fail "a living device was taken away"
timeout 60 "$cowblk" detach --force "$a" 2>said || fail "detach --force without a socket: $(cat said)"
wait_for test ! -d "/proc/$pid" || fail "detach --force left the daemon"
check_clean a.qcow2

# Only its own record goes with a device: the id may be another's by then.
attach a a.qcow2
pid=$(pid_of "$a")
record=/run/cowblk/${a#/dev/}.json
sed -i 's/"cookie": *[0-9]*/"cookie":1/' "$record"
must_fail "is another device by now" "$cowblk" detach "$a"
kill "$pid"
wait_for test ! -b "$a" || fail "SIGTERM did not end the device"
wait_for test ! -d "/proc/$pid" || fail "SIGTERM did not end the daemon"
[ -e "$record" ] && [ -e "${record%.json}.sock" ] || fail "a detach removed the record of the id's next device"
rm "${record%.json}".*

# A detach that SIGTERM cuts short while it waits for somebody who looks: the device goes, and that is what it hears.
pid=$(pid_of "$b")
exec 7<"$b"
timeout 30 "$clients" ask "/run/cowblk/${b#/dev/}.sock" '{"cmd":"detach"}' >said &
asking=$!
sleep 0.7
kill -TERM "$pid"
wait $asking || fail "a detach cut short by SIGTERM: no answer"
exec 7<&-
grep -q '"ok": *true' said || fail "a detach cut short by SIGTERM heard: $(cat said)"
wait_for test ! -d "/proc/$pid" || fail "SIGTERM did not end it"
check_clean b.qcow2
say "stopped daemons, silent, dripping, slow and impatient clients: nobody waits for them"
