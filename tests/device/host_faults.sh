#!/usr/bin/env bash
# The host fails under an image in use: the guest gets errors and no hang, sound data can be read, the log says once what happened,
# the device can be detached, and once the host is well again the image has no errors and works.
# needs: dmsetup dm-mod dm-flakey? dm-dust?
. "$(dirname "$0")/lib.sh"
need dmsetup
disk=${COW_DISKS:-}
disk=${disk%% *}
[ -n "$disk" ] || skip "no spare disk"
sectors=$((256 * 2048))
targets=$(dmsetup targets)
# Without dm-flakey the host can only fail as a whole.
faults=("flakey $disk 0 0 600 1 error_writes" "error" "flakey $disk 0 0 600 1 drop_writes")
grep -q "^flakey " <<<"$targets" || faults=("error")
# Debian's kernels have no dm-dust: a block that dm-error fails is as bad, but no write heals it.
dust=no
! grep -q "^dust " <<<"$targets" || dust=yes
limit=60

log_of() { echo "/run/cowblk/${1#/dev/}.log"; }
# What a kernel or a machine without a user cowblk does not let the daemon give up, or outlive, is said at attach, and no complaint.
said_by() { grep -vE "not given up|does not outlive its daemon" "$(log_of "$1")" || true; }
complaints() { said_by "$1" | grep -c "$2" || true; }
# The one attached device, without blanks.
listed() { "$cowblk" list --json | tr -d ' \n'; }
lists() { grep -q -- "$1" <<<"$(listed)"; }
# errors_of KIND: how many `list` counts.
errors_of() { listed | sed -n "s/.*\"errors\":{[^}]*\"$1\":\([0-9]*\).*/\1/p"; }
no_hang() { [ "$1" != 124 ] && [ "$1" != 137 ] || fail "$2 hangs"; }

# must_err PATTERN COMMAND...: it fails, in time, and for that reason.
must_err()
{
	local pattern=$1 said status=0
	shift
	said=$(timeout -k 5 $limit "$@" 2>&1) || status=$?
	no_hang $status "'$*'"
	[ $status != 0 ] || fail "'$*' did not fail"
	grep -qi -- "$pattern" <<<"$said" || fail "'$*' said '$said', not '$pattern'"
}

within() { local status=0; timeout -k 5 $limit "$@" || status=$?; no_hang $status "'$*'"; return $status; }
write_at() { dd if="$1" of="$dev" bs=64K seek="$2" count="$3" oflag=direct conv=fsync status=none; }
same_at() { within dd if="$dev" bs=64K skip="$2" count="$3" iflag=direct status=none | cmp - <(head -c $(($3 << 16)) "$1"); }

# Away with the device, with an error or without, but in time; --force when it cannot be flushed.
take_away()
{
	timeout -k 5 $limit "$cowblk" detach "$1" >detach.log 2>&1 || no_hang $? detach
	[ ! -b "$1" ] || timeout -k 5 $limit "$cowblk" detach --force "$1" >>detach.log 2>&1 || no_hang $? "detach --force"
	wait_for test ! -b "$1" || fail "the device cannot be detached: $(cat detach.log)"
}

again()
{
	check_sound "$1"
	attach dev "$1"
	same_at data 0 128 || fail "$2: data from before the fault is damaged"
	write_at data 1024 128 || fail "$2: the image does not work afterwards"
	same_at data 1024 128 || fail "$2: what was written afterwards is damaged"
	detach "$dev"
	check_sound "$1"
}

head -c 8M /dev/urandom > data
healthy="0 $sectors linear $disk 0"
map cow-host "$healthy"

# ---- writes fail, or everything does ----
for fault in "${faults[@]}"; do
	name=${fault##* }
	qemu-img create -q -f qcow2 /dev/mapper/cow-host 200M
	attach dev /dev/mapper/cow-host
	write_at data 0 128
	write_at data 256 128
	[ "$(complaints "$dev" .)" = 0 ] || fail "$name: complaints before the fault: $(cat "$(log_of "$dev")")"
	lists '"errors":{"read":0,"write":0,"flush":0,"discard":0},"last-error":null' ||
		fail "$name: list counts errors before the fault: $(listed)"
	remap cow-host "0 $sectors $fault"
	if [ "$name" != drop_writes ]; then
		must_err "input/output error" dd if=data of="$dev" bs=64K seek=512 count=64 oflag=direct conv=fsync status=none
		must_err "input/output error" dd if=data of="$dev" bs=64K seek=640 count=64 oflag=direct conv=fsync status=none
	fi
	if [ "$name" = error ]; then
		must_err "input/output error" dd if="$dev" of=/dev/null bs=64K count=16 iflag=direct status=none
		# The log has one line, `list` each of them and the last.
		# (New clusters need a read first, of refcounts; what is allocated is written at once.)
		before=$(errors_of read)
		must_err "input/output error" dd if=data of="$dev" bs=64K count=1 oflag=direct status=none
		must_err "input/output error" dd if="$dev" of=/dev/null bs=64K count=16 iflag=direct status=none
		[ "$(errors_of read)" -gt "$before" ] || fail "$name: list does not count read errors: $(listed)"
		[ "$(errors_of write)" -gt 0 ] || fail "$name: list does not count write errors: $(listed)"
		lists '"last-error":{"kind":"read","file":"/[^"]*","offset":[0-9]*,"errno":5,"error":"Input/outputerror","time":[1-9]' ||
			fail "$name: the last error is not in list: $(listed)"
		"$cowblk" list | grep -q "; [1-9][0-9]* I/O errors (last: read at offset [0-9]*: Input/output error)$" ||
			fail "$name: list does not tell the errors: $("$cowblk" list)"
		say "$name: $("$cowblk" list | tail -1)"
	else
		same_at data 0 128 || fail "$name: sound data cannot be read any more"
		same_at data 256 128 || fail "$name: sound data cannot be read any more"
	fi
	# The first I/O that failed, and that nothing is written any more, each once however often the guest tried.
	first=$(complaints "$dev" " at offset [0-9]*: Input/output error") sticky=$(complaints "$dev" "no more writing")
	[ "$name" = drop_writes ] || [ "$first" = 1 ] || fail "$name: $first lines say which I/O failed, not one: $(said_by "$dev")"
	[ "$sticky" -le 1 ] || fail "$name: $sticky lines say that nothing is written any more"
	[ "$name" != drop_writes ] || [ "$first$sticky" = 00 ] || fail "$name: complaints without an error"
	said_by "$dev" | head -1 > said.log
	take_away "$dev"
	remap cow-host "$healthy"
	again /dev/mapper/cow-host "$name"
	say "$name: the log's first line: $(cat said.log)"
done

# ---- single bad blocks (dm-dust): the reads that meet them fail, no others, and a write heals them ----
qemu-img create -q -f qcow2 /dev/mapper/cow-host 200M
attach dev /dev/mapper/cow-host
write_at data 0 128
detach "$dev"
# Of the fifth cluster: what two queues have written does not lie in a row.
offset=$(qemu-img map --output=json /dev/mapper/cow-host | tr '{' '\n' | sed -n 's/.*"start": \([0-9]*\), "length": \([0-9]*\).*"offset": \([0-9]*\).*/\1 \2 \3/p' |
	awk -v at=$((5 << 16)) '$1 <= at && at < $1 + $2 { print $3 + at - $1 }')
[ -n "$offset" ] || fail "qemu-img map does not say where the data is"
bad=$((offset / 512 + 3))
if [ $dust = yes ]; then
	remap cow-host "0 $sectors dust $disk 0 512"
	attach dev /dev/mapper/cow-host
	dmsetup message cow-host 0 addbadblock $bad >/dev/null
	dmsetup message cow-host 0 enable >/dev/null
else
	attach dev /dev/mapper/cow-host
	remap cow-host "0 $bad linear $disk 0
$bad 1 error
$((bad + 1)) $((sectors - bad - 1)) linear $disk $((bad + 1))"
fi
must_err "input/output error" dd if="$dev" of=/dev/null bs=64K skip=5 count=1 iflag=direct status=none
must_err "input/output error" dd if="$dev" of=/dev/null bs=512 skip=$((5 * 128 + 3)) count=1 iflag=direct status=none
same_at data 0 5 || fail "dust: sound data cannot be read any more"
within dd if="$dev" bs=64K skip=6 count=122 iflag=direct status=none | cmp - <(tail -c +$(((6 << 16) + 1)) data) || fail "dust: sound data cannot be read any more"
[ $dust = yes ] || remap cow-host "$healthy"
within dd if=data of="$dev" bs=64K oflag=direct conv=fsync status=none || fail "dust: a bad block of a guest's data stops all writing"
same_at data 0 128 || fail "dust: a written block does not heal"
[ "$(complaints "$dev" .)" = 1 ] || fail "dust: not one line in the log: $(cat "$(log_of "$dev")")"
say "dust: $(said_by "$dev")"
detach "$dev"
remap cow-host "$healthy"
again /dev/mapper/cow-host dust

# ---- a host that can only be read ----
mkfs.ext4 -q -F /dev/mapper/cow-host
mount_on /dev/mapper/cow-host host
"$cowblk" create host/disk.qcow2 100M 2>/dev/null
# One queue, here and below: what several have written does not lie in a row, and later clusters may fill what lies between.
attach dev host/disk.qcow2 --queues 1
write_at data 0 128
detach "$dev"
before=$(sha256sum < host/disk.qcow2)
mount -o remount,ro host
must_fail "read-only" "$cowblk" attach host/disk.qcow2
must_fail "read-only" "$cowblk" create host/other.qcow2 1M
attach dev --read-only host/disk.qcow2
same_at data 0 128 || fail "read-only host: the data cannot be read"
must_err "read-only\|not permitted" dd if=data of="$dev" bs=64K count=1 oflag=direct status=none
detach "$dev"
mount -o remount,rw host
[ "$before" = "$(sha256sum < host/disk.qcow2)" ] || fail "the image on a read-only host was changed"
say "read-only host: refused with one line, --read-only works"

# ---- a file cut short under us: found by a read of what was there at attach or was written since, or by a FLUSH ----
cp host/disk.qcow2 whole.qcow2
for by in 100:old 1030:new flush; do
	cp whole.qcow2 host/disk.qcow2
	attach dev host/disk.qcow2 --queues 1
	write_at data 1024 128
	pid=$("$cowblk" list --json | tr -d ' ",' | awk -F: '$1 == "pid" { print $2 }')
	truncate -s 2M host/disk.qcow2
	if [ $by != flush ]; then
		same_at data 0 4 || fail "cut short ($by): what is left cannot be read"
		must_err "input/output error" dd if="$dev" of=/dev/null bs=64K skip="${by%:*}" count=1 iflag=direct status=none
		must_err "input/output error" dd if=data of="$dev" bs=64K count=1 oflag=direct status=none
	else
		# In place, far behind the cut: the file is long again, with zeros before.
		must_err "input/output error" dd if=data of="$dev" bs=64K seek=1151 count=1 oflag=direct conv=fsync status=none
	fi
	for at in 100 127 1024 1150; do
		must_err "input/output error" dd if="$dev" of=/dev/null bs=64K skip=$at count=1 iflag=direct status=none
	done
	same_at data 0 4 || fail "cut short ($by): what is left cannot be read any more"
	kill -0 "$pid" || fail "cut short ($by): the daemon is gone"
	[ "$(complaints "$dev" "shorter than it was")" = 1 ] || fail "cut short ($by): not one line about it: $(cat "$(log_of "$dev")")"
	[ "$(complaints "$dev" "no more writing")" = 1 ] || fail "cut short ($by): written on: $(cat "$(log_of "$dev")")"
	say "cut short ($by): $(grep "shorter than" "$(log_of "$dev")")"
	take_away "$dev"
	[ "$(stat -c %s host/disk.qcow2)" = 2097152 ] || [ $by = flush ] || fail "cut short ($by): the image was written to"
done
umount host

# ---- a host that cannot punch holes: discards succeed and give nothing back, which is said once (ramfs: every kernel has it) ----
mount -t ramfs none host
"$cowblk" create host/disk.qcow2 100M 2>/dev/null
attach dev host/disk.qcow2
write_at data 0 128
lists '"discard-gives-space-back":true' || fail "cannot punch: told before a discard: $(listed)"
for at in 0 4; do
	blkdiscard -o ${at}M -l 4M "$dev"
	sync "$dev"
	wait_for lists '"discard-gives-space-back":false' || fail "cannot punch: not in list --json: $(listed)"
done
"$cowblk" list | grep -q "; discards give no space back: the host cannot punch holes$" || fail "cannot punch: not in list: $("$cowblk" list)"
lists '"last-error":null' || fail "cannot punch: counted as an error: $(listed)"
[ "$(complaints "$dev" "discards give no space back")" = 1 ] || fail "cannot punch: not one line: $(cat "$(log_of "$dev")")"
say "cannot punch: $(grep "no space back" "$(log_of "$dev")")"
detach "$dev"
check_clean host/disk.qcow2
umount host
