# bash completion for cowblk. SPDX-License-Identifier: MIT
# The program itself knows what fits (daemon/options/complete.h); the names of files are the shell's.
_cowblk()
{
	local line=${COMP_LINE:0:COMP_POINT} words=() word space cur cut i
	# bash has cut the line at each = and :, the program wants it as it is typed.
	for ((i = 0; i <= COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		space=${line%%[^[:blank:]]*}
		line=${line#"$space"}
		[ ${#word} -le ${#line} ] || word=$line
		line=${line#"$word"}
		if [ -z "$space" ] && [ "$i" -gt 1 ]; then
			words[-1]+=$word
		else
			words+=("$word")
		fi
	done
	cur=${words[-1]}
	# What bash leaves alone of the word.
	cut=
	case $COMP_WORDBREAKS in *=*) cut=${cur%"${cur##*=}"} ;; esac
	case ${cur#"$cut"} in *:*) case $COMP_WORDBREAKS in *:*) cut=${cur%"${cur##*:}"} ;; esac ;; esac

	local found kind kept
	mapfile -t found < <("$1" complete "${words[@]:1}" 2>/dev/null)
	[ ${#found[@]} -gt 0 ] || return
	read -r kind kept <<<"${found[-1]}"
	unset 'found[-1]'
	COMPREPLY=()
	for word in "${found[@]}"; do
		word=${word%%$'\t'*}
		[[ $word != *= ]] || compopt -o nospace
		COMPREPLY+=("${word#"$cut"}")
	done
	case $kind in
	files) kind=-f ;;
	folders) kind=-d ;;
	*) return ;;
	esac
	# readline does it best: quotes, ~, and the rest. Only beside other words it is done here.
	compopt -o filenames -o default
	[ $kind = -f ] || compopt -o dirnames +o default
	if [ ${#COMPREPLY[@]} -gt 0 ] || { [ "$kept" -gt 0 ] && [ -z "$cut" ]; }; then
		mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen $kind -P "${cur:${#cut}:kept-${#cut}}" -- "${cur:kept}")
	fi
}
complete -F _cowblk cowblk
