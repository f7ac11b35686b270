#!/usr/bin/env bash
# matrix.sh [ROWS [OPS]]: an image for each combination of qemu-img's create options that makes sense (matrix.py: every pair of values),
# random requests on the attached device against a shadow; then QEMU finds the image clean and reads what the shadow holds.
. "$(dirname "$0")/lib.sh"
# shellcheck source=matrix_row.sh
. "$(dirname "$0")/matrix_row.sh"
need qemu-img
: "${COW_DISK_RANDOM:?tests/device/run sets it}" "${COW_PREPARED:?tests/device/run sets it}"
ops=${2:-250}
! short || ops=60

quietly() { "$@" >log 2>&1 || fail "$row: '$*': $(tail -3 log)"; }

try()
{
	local number=$1 row dev judge=()
	row=$(cat "$COW_PREPARED/$number/row")
	rm -f image data shadow
	cp --sparse=always "$COW_PREPARED/$number"/* .
	row_load "$row"
	[ "$compat" != 0.10 ] || judge=(--vague-discard)
	[ "$encryption" = none ] || judge+=(--encrypted)
	attach dev image ${given[@]+"${given[@]}"}
	quietly "$COW_DISK_RANDOM" --device "$dev" --shadow shadow --seed "$number" --ops "$ops" --cluster "$cluster" \
		${judge[@]+"${judge[@]}"}
	[ "$number" != 1 ] || must_fail 'detach it first' "$cowblk" amend -o compat=1.1 image
	detach "$dev"
	quietly qemu-img check ${secret[@]+"${secret[@]}"} --image-opts "$target"
	quietly "$cowblk" check image
	quietly qemu-img compare ${secret[@]+"${secret[@]}"} --image-opts "$target" driver=raw,file.filename=shadow
	[ "$data" != raw ] || cmp -n $MATRIX_BYTES data shadow || fail "$row: the data file is no raw image of the disk"
}

cp "$COW_PREPARED"/bases/* .
nr=0
while [ -d "$COW_PREPARED/$((nr + 1))" ]; do
	nr=$((nr + 1))
	try $nr
done
[ "$nr" -gt 3 ] || fail "only $nr rows"
say "matrix: $nr images, all options in pairs: QEMU finds them clean and reads what was written"
