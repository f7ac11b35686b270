#!/usr/bin/env bash
# Every broken image of tests/hostile, attached: refused with one line, word for word, or attached read-only, and then what reading meets is an
# I/O error with one line in the log. No image is changed by it, and no device is left. In the VM, which takes seconds for each, a third
# of them: it is the engine that must tell them apart (tests/hostile has all), and the daemon that tells the kernel.
. "$(dirname "$0")/lib.sh"
[ -f "${COW_PREPARED:-/}/list" ] || skip "no images prepared (see run)"

bad() { echo "  row $nr, $name: $*" >> "$worker.failures"; }
digest() { (cd "$worker" && sha256sum -- *); }

refused()
{
	local said
	if said=$("$cowblk" attach "$worker/broken" 2>&1); then
		bad "was attached: $said"
		"$cowblk" detach "$said"
	elif [ "${said//"$PWD/$worker/"/}" != "cowblk: broken: $text" ]; then
		bad "said '$said', not '$text'"
	fi
}

# Reads all of it in pieces: one that fails does not hide the others.
read_all()
{
	local status=0 at
	for at in 0 1 2 3; do
		timeout 30 dd if="$1" of=/dev/null bs=1M count=1 skip=$at iflag=direct status=none 2>read.log || status=$?
	done
	return $status
}

attached()
{
	local device logged status=0
	device=$("$cowblk" attach --read-only "$worker/broken" 2>"$worker.log") || { bad "not attached: $(cat "$worker.log")"; return; }
	read_all "$device" || status=$?
	# The kernel reads the first sectors before attach is done.
	logged=$(cat "$worker.log" "/run/cowblk/${device#/dev/}.log" | grep -cF -- "$text" || true)
	[ $wanted = fails ] || [ $status = 0 ] || bad "cannot be read"
	[ $wanted = reads ] || [ $status = 1 ] || bad "read with status $status"
	[ $wanted = reads ] || [ "$logged" = 1 ] || bad "$logged lines say '$text'"
	"$cowblk" detach "$device" || bad "detach failed"
}

work()
{
	local nr wanted text name before
	: > "$worker.failures"
	while IFS=$'\t' read -r nr wanted text name; do
		[ $((nr % 2)) = "$worker" ] && [ $((nr / 2 % part)) = 0 ] || continue
		echo "$wanted" >> "$worker.seen"
		rm -rf "$worker"
		cp -r "$COW_PREPARED/$nr" "$worker"
		before=$(digest)
		if [ "$wanted" = refused ]; then refused; else attached; fi
		[ "$before" = "$(digest)" ] || bad "the image was changed"
	done < "$COW_PREPARED/list"
}

part=1
! short || part=3
for worker in 0 1; do work & done
wait
[ ! -s 0.failures ] && [ ! -s 1.failures ] || fail "$(cat 0.failures 1.failures)"
! compgen -G '/dev/ublkb*' || fail "devices are left"
[ "$("$cowblk" list --json | tr -d ' \n')" = '[]' ] || fail "devices are listed: $("$cowblk" list)"
[ "$(sort -u 0.seen 1.seen)" = "$(cut -f 2 "$COW_PREPARED/list" | sort -u)" ] || fail "not every kind was seen: $(sort 0.seen 1.seen | uniq -c)"
[ "$(cat 0.seen 1.seen | wc -l)" -ge $(($(wc -l < "$COW_PREPARED/list") / part)) ] || fail "rows are missing: $(wc -l 0.seen 1.seen)"
say "$(cat 0.seen 1.seen | wc -l) broken images: $(sort 0.seen 1.seen | uniq -c | tr -s ' \n' ' ')"
