#!/usr/bin/env python3
"""manpage.py COWBLK MANPAGE: each command and each option that --help shows stands in the command's section of the man page, and the
man page has none that no command has. Prints what is missing and ends with 1."""
import re
import subprocess
import sys

OPTION = re.compile(r"^ +(?:-(\w), )?--([a-z][a-z-]+)", re.M)
COMMAND = re.compile(r"^  (\w+) +\w", re.M)
FOR_ALL = {"help", "usage", "version"}
# Described once for all commands.
COMMON = {"quiet", "output", "format", "force-share", "progress"}
# Of other programs, in examples.
FOREIGN = {"now"}


def help_of(cowblk, *words):
    return subprocess.run([cowblk, *words, "--help"], capture_output=True, text=True, check=True, timeout=60).stdout


def collect(cowblk):
    """{command: {long option: short one or None}}"""
    commands = COMMAND.findall(help_of(cowblk).split("Commands:")[1].split("Options:")[0])
    return {name: {long: short or None for short, long in OPTION.findall(help_of(cowblk, name)) if long not in FOR_ALL}
            for name in commands}


def plain(text):
    """Without font changes and macros: the words as they are read."""
    text = re.sub(r"\\f[A-Z]", "", text).replace(r"\-", "-").replace(r"\ ", " ")
    return re.sub(r'^\.(?:[A-Z]+) ?', "", text, flags=re.M).replace('"', "")


def sections(man):
    """{heading of a subsection, as words: its source}"""
    parts = re.split(r"^\.S[SH] (.*)\n", man, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


def wanted(man, commands):
    found = sections(man)
    synopsis = plain(found.get("SYNOPSIS", ""))
    shared = plain(found.get("Passphrases", ""))
    common = plain(found.get("Common options", ""))
    for name, options in commands.items():
        if not re.search(rf"^cowblk {name}\b", synopsis, re.M):
            yield f"{name}: not in the SYNOPSIS"
        if name not in found:
            yield f"{name}: has no section"
            continue
        body = plain(found[name])
        for long, short in options.items():
            if long in COMMON:
                if not re.search(rf"--{long}(?![a-z-])", common) or (short and not re.search(rf"(?m)^-{short}\s*,\s*--{long}", common)):
                    yield f"{name}: --{long} is not among the common options"
                continue
            where = shared if long.startswith("key-") else body
            if not re.search(rf"--{long}(?![a-z-])", body) or not re.search(rf"--{long}(?![a-z-])", where):
                yield f"{name}: --{long} is not described"
            elif short and not re.search(rf"(?m)^-{short}\s*,\s*--{long}(?![a-z-])", body):
                yield f"{name}: -{short} is not beside --{long}"


def unknown(man, commands):
    known = FOR_ALL | FOREIGN | {long for options in commands.values() for long in options}
    for long in sorted(set(re.findall(r"--([a-z][a-z-]+)", plain(man))) - known):
        yield f"--{long}: no command has it"


def check(man, commands):
    return list(wanted(man, commands)) + list(unknown(man, commands))


def check_self(man, commands):
    """The check must see what is missing."""
    broken = {
        "an option that goes": man.replace(r"\-\-no\-discard", r"\-\-discard"),
        "a short option that goes": man.replace(r"\-r ", r"\-x "),
        "a common option that goes": man.replace(r"\-\-force\-share", r"\-\-force"),
        "a command that goes": man.replace(".SS detach", ".SS retach"),
        "a way to give keys that goes": re.sub(r"(?s)\.SS Passphrases.*?(?=\.SH)", "", man),
    }
    for what, text in broken.items():
        if text == man or not check(text, commands):
            yield f"{what} is not noticed"


def main():
    cowblk, path = sys.argv[1:3]
    commands = collect(cowblk)
    with open(path, encoding="utf-8") as file:
        man = file.read()
    said = check(man, commands) + list(check_self(man, commands))
    if len(commands) < 7 or sum(map(len, commands.values())) < 40:
        said.append("the commands and their options were not all found")
    print("\n".join(said) or f"{len(commands)} commands, {sum(map(len, commands.values()))} options")
    sys.exit(1 if said else 0)


main()
