#!/usr/bin/env bash
# killed [ROUNDS [SEED]]: daemons are killed with file systems in use, while something freezes them, and every command that comes next,
# in any order, ends in time with a word; so does whoever used the device.
. "$(dirname "$0")/lib.sh"
recovery=(--no-recovery)
rounds=${1:-3} seed=${2:-$RANDOM}
! short || rounds=1
RANDOM=$seed
limit=45
kinds=(ext4 xfs)
pid_of() { sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "/run/cowblk/${1#/dev/}.json"; }
is_gone() { ! kill -0 "$1" 2>/dev/null; }
all_gone() { local pid; for pid in "$@"; do is_gone "$pid" || return 1; done; }
# It ends in time, and says something if it fails.
ends()
{
	local status=0
	timeout -k 5 $limit "$cowblk" "$@" >said 2>&1 || status=$?
	[ $status != 124 ] && [ $status != 137 ] || fail "seed $seed, round $round: '$*' hangs: $(cat said)"
	[ $status = 0 ] || [ -s said ] || fail "seed $seed, round $round: '$*': status $status without a word"
}
write_on() { while dd if=/dev/zero of="$1/file" bs=64K count=50 conv=fsync status=none; do :; done 2>/dev/null; }

for ((round = 1; round <= rounds; round++)); do
	kind=${kinds[round % 2]}
	for name in a b; do "$cowblk" create -q $name.qcow2 512M; done
	attach a a.qcow2
	attach b b.qcow2 --depth 1
	"mkfs.$kind" -q "$a"
	mount_on "$a" mnt
	write_on mnt &
	busy=("$!")
	(n=0; while touch "mnt/f$n" 2>/dev/null; do n=$((n + 1)); done) &
	busy+=("$!")
	dd if="$b" of=/dev/null bs=4K iflag=direct status=none 2>/dev/null &
	busy+=("$!")
	sleep 0.2
	"$cowblk" snapshot create --freeze "$a" during >/dev/null 2>&1 &
	busy+=("$!")
	sleep "0.$((RANDOM % 3))$((RANDOM % 10))"
	kill -9 "$(pid_of "$a")" "$(pid_of "$b")"
	for _ in 1 2 3 4; do
		case $((RANDOM % 7)) in
		0) ends list ;;
		1) ends list --json ;;
		2) ends attach a.qcow2 ;;
		3) ends attach --id 0 b.qcow2 ;;
		4) ends detach "$a" ;;
		5) ends detach --force "$b" ;;
		*) ends detach a.qcow2 ;;
		esac
	done
	for _ in $(seq 4); do wait_for all_gone "${busy[@]}" && break; done
	all_gone "${busy[@]}" || fail "seed $seed, round $round: who used $kind on a dead device hangs"
	timeout -k 5 $limit umount mnt || fail "seed $seed, round $round: umount hangs"
	for name in a b; do ends detach --force $name.qcow2; done
	ends list
	[ "$("$cowblk" list --json | tr -d ' \n')" = '[]' ] || fail "seed $seed, round $round: left: $("$cowblk" list)"
	for name in a b; do check_sound $name.qcow2; rm $name.qcow2; done
done
say "seed $seed: $rounds rounds of commands just after a kill"
