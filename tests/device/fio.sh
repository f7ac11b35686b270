#!/usr/bin/env bash
# fio.sh QUEUES: random writes of several sizes with trims among them, all read back and verified by fio.
. "$(dirname "$0")/lib.sh"
need fio
queues=$1
size=192M
! short || size=24M

# run_fio NAME OPTION...
run_fio()
{
	local name=$1
	shift
	fio --name="$name" --filename="$dev" --direct=1 --ioengine=io_uring --iodepth=32 --size=$size --verify=crc32c \
		--verify_fatal=1 --verify_dump=0 --group_reporting --output=fio.log "$@" >/dev/null 2>&1 ||
		fail "fio $name ($queues queues): $(grep -iE 'verify|err' fio.log | head -3)"
	say "fio $name, $queues queues: verified"
}

"$cowblk" create disk.qcow2 4G
attach dev disk.qcow2 --queues "$queues"
run_fio 4k --rw=randwrite --bs=4k
run_fio sizes --rw=randwrite --bssplit=512/20:4k/40:64k/20:192k/20 --blockalign=512
run_fio mixed --rw=randrw --bs=16k
run_fio trims --rw=randwrite --bs=4k --trim_percentage=30 --trim_backlog=64 --verify_backlog=1024
run_fio fsync --rw=randwrite --bs=4k --fsync=16 --size=8M
detach "$dev"
check_clean disk.qcow2
attach dev disk.qcow2 --queues "$queues" --detect-zeroes=unmap
# Jobs in areas of their own, at once, and raw discards by another in its own.
fio --filename="$dev" --direct=1 --ioengine=io_uring --iodepth=16 --size=$size --verify=crc32c --verify_fatal=1 --output=fio.log \
	--name=low --offset=0 --rw=randwrite --bs=4k --name=high --offset=1g --rw=randwrite --bs=32k \
	--name=trim --offset=2g --rw=randtrim --bs=64k --verify=0 >/dev/null 2>&1 || fail "fio jobs at once: $(head -5 fio.log)"
say "fio jobs at once, $queues queues: verified"
detach "$dev"
check_clean disk.qcow2
