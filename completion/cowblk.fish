# fish completion for cowblk. SPDX-License-Identifier: MIT
# The program itself knows what fits (daemon/options/complete.h); the names of files are the shell's.
function __cowblk_complete
    set -l words (commandline -opc)
    set -l program $words[1]
    set -e words[1]
    set -l typed (commandline -ct)
    set -l found (command $program complete $words "$typed" 2>/dev/null)
    test (count $found) -gt 0; or return
    set -l last (string split ' ' -- $found[-1])
    set -e found[-1]
    test (count $found) -gt 0; and printf '%s\n' $found
    set -l kept (string sub -l $last[2] -- "$typed")
    set -l rest (string sub -s (math $last[2] + 1) -- "$typed")
    switch $last[1]
        case files
            for line in (__fish_complete_path "$rest")
                printf '%s\n' "$kept$line"
            end
        case folders
            for line in (__fish_complete_directories "$rest")
                printf '%s\n' "$kept$line"
            end
    end
end
complete -c cowblk -f -a '(__cowblk_complete)'
