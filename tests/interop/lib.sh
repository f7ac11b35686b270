# shellcheck shell=bash
# What the interop scripts share. Sourced by them; they are run by ctest, which sets COWBLK, COW_RANDOM and COW_IO.
# SOAK=N: N times as many requests, and N rounds of other seeds. KEEP=1: the scratch directory stays when a test fails.
# SEED=N: the first seed (default 1). LOOP=sync: the engine on plain system calls.

set -u
: "${COWBLK:?} ${COW_RANDOM:?} ${COW_IO:?}"
SOAK=${SOAK:-1}
SEED=${SEED:-1}
failures=0
name=$(basename "$0")

for tool in qemu-img qemu-io python3; do
	command -v $tool >/dev/null || { echo "$name: $tool is missing: skipped" >&2; exit 77; }
done

# With a clock of its own, or it makes no LUKS images on a busy machine: see steady_clock.c.
steady_clock=${COW_IO%/*}/steady_clock.so
[ -f "$steady_clock" ] || { echo "$name: no $steady_clock: build everything" >&2; exit 1; }
qemu-img() { LD_PRELOAD=$steady_clock command qemu-img "$@"; }

scratch=$(mktemp -d "${COW_TEST_DIR:-${TMPDIR:-/tmp}}/cowblk-interop.XXXXXX") || exit 1
cleanup() {
	if [ "$failures" != 0 ] && [ -n "${KEEP:-}" ]; then
		echo "$name: kept $scratch" >&2
	else
		rm -rf "$scratch"
	fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM
cd "$scratch" || exit 1

random_flags=()
io_flags=()
if [ "${LOOP:-}" = sync ]; then
	random_flags+=(--sync-loop)
	io_flags+=(--sync-loop)
fi

# fail WHAT...: counts, and goes on.
fail() {
	echo "$name: FAILED: $*" >&2
	failures=$((failures + 1))
}

# quiet COMMAND...: its output shows only when it fails; its status is kept.
quiet() {
	local status=0
	"$@" >log 2>&1 || status=$?
	[ $status = 0 ] || { echo "  \$ $*" >&2; sed 's/^/    /' log | tail -n 30 >&2; }
	return $status
}

# must WHAT COMMAND...: the command must succeed.
must() {
	local what=$1
	shift
	quiet "$@" || fail "$what"
}

# refused TEXT WHAT COMMAND...: must fail with status 1 or 2 and a line that matches TEXT (an extended regular expression).
refused() {
	local text=$1 what=$2 status=0
	shift 2
	"$@" >log 2>&1 || status=$?
	if [ $status = 0 ] || [ $status -gt 2 ]; then
		fail "$what: status $status, not refused: $(head -n 1 log)"
	elif ! grep -qiE "$text" log; then
		fail "$what: refused without saying /$text/: $(head -n 1 log)"
	fi
}

q_img() { quiet qemu-img "$@" || { fail "$* (qemu-img itself)"; return 1; }; }

# q_io IMAGE COMMAND...: qemu-io commands, each one argument.
q_io() {
	local image=$1 command args=()
	shift
	for command in "$@"; do args+=(-c "$command"); done
	quiet qemu-io -f qcow2 "${args[@]}" "$image" || fail "qemu-io $image $*"
}

cow_random() { "$COW_RANDOM" "${random_flags[@]}" "$@"; }
cow_io() { "$COW_IO" "${io_flags[@]}" "$@"; }

# clean WHAT IMAGE: no error and no leak, for QEMU and for us.
clean() {
	must "$1: qemu-img check" qemu-img check -f qcow2 "$2"
	must "$1: cowblk check" "$COWBLK" check "$2"
}

# same WHAT IMAGE RAW: QEMU and the engine both read in the image what RAW holds.
same() {
	must "$1: qemu-img compare" qemu-img compare -f qcow2 -F raw "$2" "$3"
	must "$1: cow_io convert" cow_io --read-only "$2" convert read-back
	cmp -s read-back "$3" || fail "$1: the engine reads something else than QEMU: $(cmp read-back "$3" 2>&1)"
	rm -f read-back
}

# reads WHAT IMAGE RAW: the engine reads in the image what RAW holds.
reads() {
	must "$1: cow_io convert" cow_io --read-only "$2" convert read-back
	cmp -s read-back "$3" || fail "$1: the engine reads something else: $(cmp read-back "$3" 2>&1)"
	rm -f read-back
}

# shadow IMAGE RAW: the content as QEMU reads it.
shadow() { q_img convert -f qcow2 -O raw "$1" "$2"; }

# poke FILE OFFSET HEXBYTES: overwrites bytes.
poke() {
	local hex=$3 out=
	while [ -n "$hex" ]; do
		out="$out\\x${hex:0:2}"
		hex=${hex:2}
	done
	printf "%b" "$out" | dd of="$1" bs=1 seek=$(($2)) conv=notrunc status=none
}

# peek FILE OFFSET LENGTH: hex.
peek() { od -An -v -tx1 -j $(($2)) -N $(($3)) "$1" | tr -d ' \n'; }

# dice BOUND: sets `dice`; a small generator of its own, so that a seed repeats.
rng=$SEED
dice() {
	rng=$(((rng * 1103515245 + 12345) & 0x7fffffff))
	dice=$(((rng >> 8) % $1))
}

# one_of WORD...: sets `word`.
one_of() {
	dice $#
	shift $dice
	# shellcheck disable=SC2034 # its callers use it
	word=$1
}

finish() {
	if [ "$failures" != 0 ]; then
		echo "$name: $failures failures" >&2
		exit 1
	fi
	echo "$name: passed"
	exit 0
}
