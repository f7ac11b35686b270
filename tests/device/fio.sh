#!/usr/bin/env bash
# fio.sh QUEUES: random writes of several sizes with trims among them, all read back and verified by fio.
. "$(dirname "$0")/lib.sh"
need fio
queues=$1
size=192
# System calls cost most there.
[ "${COW_KERNEL_IS:-}" != uml ] || size=96
! short || size=8

# run_fio NAME OPTION...
run_fio()
{
	local name=$1
	shift
	fio --name="$name" --filename="$dev" --direct=1 --ioengine=io_uring --iodepth=32 --size=${size}m --verify=crc32c \
		--verify_fatal=1 --verify_dump=0 --group_reporting --output=fio.log "$@" >/dev/null 2>&1 ||
		fail "fio $name ($queues queues): $(grep -iE 'verify|err' fio.log | head -3)"
	say "fio $name, $queues queues: verified"
}

"$cowblk" create disk.qcow2 4G
attach dev disk.qcow2 --queues "$queues"
run_fio 4k --rw=randwrite --bs=4k
run_fio sizes --rw=randwrite --bssplit=512/20:4k/40:64k/20:192k/20 --blockalign=512
run_fio mixed --rw=randrw --bs=16k
run_fio trims --rw=randtrimwrite --bs=4k
run_fio fsync --rw=randwrite --bs=4k --fsync=16 --size=8M
detach "$dev"
check_clean disk.qcow2
attach dev disk.qcow2 --queues "$queues" --detect-zeroes=unmap
# Several jobs at once, discards in an area of their own and in the other half of each cluster that is being written.
fio --filename="$dev" --direct=1 --ioengine=io_uring --iodepth=16 --size=${size}m --verify=crc32c --verify_fatal=1 --output=fio.log \
	--name=low --offset=0 --rw=randwrite --bs=4k --name=high --offset=1g --rw=randwrite --bs=32k \
	--name=trim --offset=2g --rw=randtrim --bs=64k --verify=0 \
	--name=half --offset=3g --rw=randwrite --bs=4k --zonemode=strided --zonerange=64k --zonesize=32k --size=$((size / 2))m \
	--name=other --offset=3221258240 --rw=trim --bs=16k --verify=0 --zonemode=strided --zonerange=64k --zonesize=32k \
	--size=$((size / 2))m >/dev/null 2>&1 || fail "fio jobs at once: $(head -5 fio.log)"
say "fio jobs at once, $queues queues: verified"
detach "$dev"
check_clean disk.qcow2
