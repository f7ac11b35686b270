#!/usr/bin/env bash
# attach --transfer zero-copy: fio reads back what it wrote, through every way that data goes: straight between its pages and the host,
# and by a copy where somebody has to look. Host files on tmpfs and, past its cache, on ext4.
. "$(dirname "$0")/lib.sh"
need fio
need mkfs.ext4

"$cowblk" create first.qcow2 64M
if said=$("$cowblk" attach --transfer zero-copy first.qcow2 2>&1); then
	"$cowblk" detach "$said"
else
	grep -q 'this kernel cannot do that: use copy' <<<"$said" || fail "zero copy: $said"
	say "this kernel has no zero copy, and the daemon says so"
	exit 0
fi

# verified WHAT IMAGE [OPTION...]: attached, written and verified, and again after it was attached anew.
verified()
{
	local what=$1 image=$2 dev job
	shift 2
	local -a fio=(--direct=1 --ioengine=io_uring --iodepth=16 --size=6m --verify=crc32c --verify_fatal=1 --verify_dump=0
		--group_reporting --output=fio.log)
	attach dev "$image" --transfer zero-copy --queues 2 "$@"
	# Sizes that are no page, buffers that begin inside one, requests that cross clusters.
	fio "${fio[@]}" --filename="$dev" --name=sizes --rw=randwrite --bssplit=512/20:4k/30:60k/20:192k/20:512k/10 --blockalign=512 \
		>/dev/null 2>&1 || fail "$what, sizes: $(grep -iE 'verify|err' fio.log | head -3)"
	fio "${fio[@]}" --filename="$dev" --name=offsets --rw=randrw --bs=8k --iomem_align=512 --offset=24m --size=2m \
		>/dev/null 2>&1 || fail "$what, offsets: $(grep -iE 'verify|err' fio.log | head -3)"
	fio "${fio[@]}" --filename="$dev" --name=trims --rw=randtrimwrite --bs=64k --offset=32m --size=4m \
		>/dev/null 2>&1 || fail "$what, trims: $(grep -iE 'verify|err' fio.log | head -3)"
	dd if="$dev" of=shown bs=1M iflag=direct status=none
	detach "$dev"
	[ -n "${key:-}" ] || check_clean "$image"
	"$cowblk" check -q "$image" || fail "$what: check: $("$cowblk" check "$image")"
	[ -n "${key:-}" ] || qemu-img compare -q -f qcow2 -F raw "$image" shown || fail "$what: QEMU reads something else"
	attach dev "$image" --transfer copy "$@"
	cmp "$dev" shown || fail "$what: copy reads something else"
	detach "$dev"
	rm -f shown
	say "$what: verified"
}

# folder WHERE [more]
folder()
{
	verified "plain$1" plain.qcow2
	qemu-img snapshot -c s plain.qcow2
	verified "after a snapshot$1" plain.qcow2
	truncate -s 40000000 base.raw
	dd if=/dev/urandom of=base.raw bs=1M count=20 conv=notrunc status=none
	"$cowblk" create -b base.raw -F raw overlay.qcow2 64M
	verified "overlay$1" overlay.qcow2
	if [ -z "${2:-}" ]; then
		rm -f ./*.qcow2 ./*.raw
		return
	fi
	"$cowblk" create -o cluster_size=4k,extended_l2=off small.qcow2 64M
	verified "4 KiB clusters, zeros found$1" small.qcow2 --detect-zeroes unmap
	"$cowblk" create -o extended_l2=on sub.qcow2 64M
	verified "subclusters$1" sub.qcow2
	"$cowblk" create -o data_file=data.raw data.qcow2 64M
	verified "data file$1" data.qcow2 --data-file data.raw
	"$cowblk" create packed.qcow2 64M
	verified "compressed$1" packed.qcow2 --compress
	printf secret >key
	key=key "$cowblk" create -o encrypt.format=luks,encrypt.iter-time=10 --key-file key luks.qcow2 64M
	key=key verified "LUKS$1" luks.qcow2 --key-file key
	rm -f ./*.qcow2 ./*.raw
}

"$cowblk" create plain.qcow2 64M
folder "" more

many_wait() { awk '{ exit !($1 + $2 >= 16) }' "/sys/block/$1/inflight"; }

# Straight: the daemon's buffers are not touched.
straight()
{
	local pid before after job
	"$cowblk" create big.qcow2 64M
	attach dev big.qcow2 --queues 1 --transfer "$1"
	dd if=/dev/zero of="$dev" bs=1M count=64 oflag=direct status=none
	pid=$("$cowblk" list --json | python3 -c 'import json,sys; print(json.load(sys.stdin)[0]["pid"])')
	before=$(awk '/^RssAnon/ { print $2 }' "/proc/$pid/status")
	# Stopped until many wait for it, so that it has them in hand at once however busy the machine is.
	kill -STOP "$pid"
	fio --filename="$dev" --name=big --direct=1 --ioengine=io_uring --iodepth=32 --bs=512k --size=64m --rw=randrw --output=fio.log >/dev/null &
	job=$!
	wait_for many_wait "${dev#/dev/}" || fail "no 16 requests wait for a stopped daemon: $(cat "/sys/block/${dev#/dev/}/inflight")"
	kill -CONT "$pid"
	wait $job || fail "fio: $(cat fio.log)"
	after=$(awk '/^RssAnon/ { print $2 }' "/proc/$pid/status")
	detach "$dev"
	rm -f big.qcow2
	grown=$((after - before))
}
straight copy
copied=$grown
straight zero-copy
[ "$grown" -lt 1024 ] && [ "$copied" -gt 4096 ] || fail "512 KiB requests touched $grown KiB of the daemon's memory, with copies $copied KiB"
say "512 KiB requests go straight: the daemon touches $grown KiB, with copies $copied KiB"
truncate -s 900M host.img
mkfs.ext4 -q host.img
mkdir host
loop=$(losetup --direct-io=off -f --show host.img)
mount "$loop" host
mounts+=(host)
cd host || exit 1
"$cowblk" create plain.qcow2 64M
folder ", on ext4"
cd ..
umount host
losetup -d "$loop"
