# shellcheck shell=bash
# Sourced by matrix.prepare and matrix.sh: what a row of matrix.py means.
MATRIX_BYTES=4194816 # no whole cluster of any size

# row_load ROW: sets the row's variables, and from them: options (of qemu-img create), target (how QEMU opens the image), secret (what
# QEMU needs for it), given (cowblk attach's options).
row_load()
{
	eval "$1"
	options=cluster_size=$cluster,refcount_bits=$bits,compat=$compat,extended_l2=$extended,lazy_refcounts=$lazy
	options+=,preallocation=$preallocation
	target=driver=qcow2,file.filename=image
	secret=() given=()
	[ "$compression" = zlib ] || options+=,compression_type=$compression
	[ "$data" = none ] || { options+=,data_file=data; given+=(--data-root .); }
	[ "$data" != raw ] || options+=,data_file_raw=on
	case $backing in
	none) ;;
	raw) options+=,backing_file=raw.raw,backing_fmt=raw ;;
	*) options+=,backing_file=$backing.qcow2,backing_fmt=qcow2 ;;
	esac
	case $attach in
	plain) ;;
	compress) given+=(--compress) ;;
	*) given+=(--detect-zeroes="$attach") ;;
	esac
	[ "$encryption" != none ] || return 0
	secret=(--object "secret,id=s,file=key")
	given+=(--key-file key)
	options+=,encrypt.format=$encryption,encrypt.key-secret=s
	target+=,encrypt.format=$encryption,encrypt.key-secret=s
	[ "$encryption" != luks ] || options+=,encrypt.iter-time=10
	[ "$encryption" != aes ] || given+=(--write-legacy-aes)
}
