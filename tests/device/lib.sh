# Sourced by every case: the program under test, what a case may assume, and the checks that all share.
# A case runs as root in a folder of its own on tmpfs (holes, no O_DIRECT needed), and leaves no device behind.
# shellcheck shell=bash
set -eu
set -o pipefail
cowblk=${COW_PROGRAM:?}
# Of every attach() of a case: recovery=(--no-recovery) where nobody shall replace a daemon that is killed.
recovery=()
devices=()
mounts=()
maps=()
# There is no udev to make the nodes of device-mapper devices: dmsetup does it.
export DM_DISABLE_UDEV=1

say() { echo "  $*"; }
fail() { echo "  $(basename "$0" .sh): $*" >&2; exit 1; }
skip() { echo "  $(basename "$0" .sh): skipped: $*" >&2; exit 77; }
short() { [ "${COW_KERNEL_IS:-}" = vm ]; }
need() { command -v "$1" >/dev/null || fail "no $1: tests/install installs what the tests need, '# needs: $1' takes it into the VM"; }

# The error text of a command that must fail, which must match PATTERN: must_fail PATTERN COMMAND...
must_fail()
{
	local pattern=$1 said
	shift
	if said=$("$@" 2>&1); then
		fail "'$*' did not fail"
	fi
	grep -qiE -- "$pattern" <<<"$said" || fail "'$*' said '$said', not /$pattern/"
	[ "$1" != "$cowblk" ] || [ "$(wc -l <<<"$said")" = 1 ] || fail "'$*' said more than one line: $said"
}

# attach NAME IMAGE [OPTION...]: sets the variable NAME to the device.
attach()
{
	local name=$1 image=$2 path
	shift 2
	path=$("$cowblk" attach ${recovery[@]+"${recovery[@]}"} "$@" "$image" 2>attach.log) || fail "attach $image: $(cat attach.log)"
	[ -b "$path" ] || fail "attach printed '$path', which is no block device"
	devices+=("$path")
	printf -v "$name" %s "$path"
}

detach()
{
	"$cowblk" detach "$1" || fail "detach $1"
	[ ! -b "$1" ] || fail "$1 is still there after detach"
}

# What qemu-img and our own check say of a closed image: clean, no leaks.
check_clean()
{
	qemu-img check -q "$1" || fail "qemu-img check $1: status $?: $(qemu-img check "$1" 2>&1 | tail -3)"
	"$cowblk" check "$1" >/dev/null 2>&1 || fail "cowblk check $1: status $?: $("$cowblk" check "$1" 2>&1 | tail -3)"
}

# sound_by IMAGE CHECK...: what one of the two checks says of it.
sound_by()
{
	local status=0
	"${@:2}" "$1" >/dev/null 2>&1 || status=$?
	[ $status = 0 ] || [ $status = 3 ] || fail "${*:2} $1: status $status: $("${@:2}" "$1" 2>&1 | tail -3)"
}
# No errors; leaks are allowed after a crash.
check_sound()
{
	sound_by "$1" qemu-img check
	sound_by "$1" "$cowblk" check
}

bytes_of() { blockdev --getsize64 "$1"; }
sized() { qemu-img info -U --output=json "$1" | grep -m 1 -o '"virtual-size": [0-9]*' | tr -dc 0-9; }
# is_size BYTES IMAGE: $dev, image and list say so.
is_size()
{
	[ "$(bytes_of "$dev")" = "$1" ] || fail "$dev has $(bytes_of "$dev") bytes, not $1"
	[ "$(sized "$2")" = "$1" ] || fail "$2 has $(sized "$2") bytes, not $1"
	"$cowblk" list --json | grep -q "\"size\": $1" || fail "list does not say $1: $("$cowblk" list --json)"
}

mount_on() { mkdir -p "$2"; mount "$1" "$2"; mounts+=("$2"); }
sums() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum); }
disk_kib() { du -k "$1" | cut -f 1; }

# A real tree of files, some megabytes of them: the parts of /usr/share that are here, up to a limit.
copy_tree()
{
	local to=$1 limit_kib=$2 from size
	for from in /usr/share/cmake-* /usr/share/perl/5* /usr/share/perl5 /usr/share/doc /usr/share/zoneinfo /usr/share/vim /usr/share/python3; do
		[ -d "$from" ] || continue
		size=$(du -sk "$from" | cut -f 1)
		[ "$size" -le "$limit_kib" ] || continue
		limit_kib=$((limit_kib - size))
		cp -a "$from" "$to/"
	done
	[ -n "$(ls "$to")" ] || fail "nothing to copy below /usr/share"
}

wait_for()
{
	local _
	for _ in $(seq 100); do
		"$@" && return 0
		sleep 0.1
	done
	return 1
}

# Space goes back to the host in batches, soon after a FLUSH: shrinks_below KIB COMMAND..., which prints a size in KiB.
shrinks_below()
{
	local limit=$1
	shift
	below() { [ "$("$@")" -lt "$limit" ]; }
	wait_for below "$@"
}
used_kib() { df -k --output=used "$1" | tail -1; }

# map NAME TABLE: a device-mapper device /dev/mapper/NAME; remap gives it another table while it is in use.
map()
{
	dmsetup create "$1" --table "$2" || fail "dmsetup create $1"
	maps=("$1" ${maps[@]+"${maps[@]}"})
}

remap()
{
	{ dmsetup load "$1" --table "$2" && dmsetup suspend --nolockfs --noflush "$1" && dmsetup resume "$1"; } || fail "dmsetup: no new table for $1"
}

# Runs at the end of every case, whatever happened: a case that failed must not hang the kernel's shutdown.
clean_up()
{
	local status=$? mount device
	for mount in "${mounts[@]}"; do umount "$mount" 2>/dev/null || umount -l "$mount" 2>/dev/null || true; done
	for device in "${devices[@]}"; do
		[ ! -b "$device" ] || timeout 20 "$cowblk" detach "$device" >/dev/null 2>&1 || true
	done
	for device in ${maps[@]+"${maps[@]}"}; do timeout 20 dmsetup remove "$device" >/dev/null 2>&1 || true; done
	exit $status
}
trap clean_up EXIT
