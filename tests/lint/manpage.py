#!/usr/bin/env python3
"""manpage.py COWBLK FOLDER: the pages say what the program says, and groff has nothing to say of them.

Each command has a page with its summary and its usage, as --help shows them, and each option with its short name and its value; the
page of the program names each command's. No page has an option that no command has. What is read here is what man shows. Prints what is
missing and ends with 1."""
import glob
import os
import re
import shutil
import subprocess
import sys

OPTION = re.compile(r"^ +(?:-(\w), )?--([a-z][a-z-]+)(?:=(\S+))?", re.M)
FOR_ALL = {"help", "usage", "version"}
# Described once for all commands: their pages only name them.
COMMON = {"quiet", "output", "format", "force-share", "progress"}
# Of other programs, in examples.
FOREIGN = {"now"}
WIDE = dict(os.environ, ARGP_HELP_FMT="rmargin=400,usage-indent=12", LC_ALL="C.UTF-8")


def help_of(cowblk, *words):
    return subprocess.run([cowblk, *words, "--help"], capture_output=True, text=True, check=True, timeout=60, env=WIDE).stdout


class Command:
    def __init__(self, cowblk, name, summary):
        text = help_of(cowblk, name)
        self.name, self.summary = name, summary
        self.usage = [line.strip() for line in re.findall(r"^(?:Usage:|  or:) (.*)$", text, re.M)]
        self.options = [(short, long, value) for short, long, value in OPTION.findall(text) if long not in FOR_ALL]


def commands_of(cowblk):
    part = help_of(cowblk).split("Commands:")[1].split("Options:")[0]
    return [Command(cowblk, name, summary) for name, summary in re.findall(r"^  (\w+) +(\S.*)$", part, re.M)]


def render(text):
    """(what man shows, on very long lines; what groff complains of)"""
    done = subprocess.run(["groff", "-man", "-t", "-Tascii", "-P-cbou", "-rLL=2000n", "-rHY=0", "-ww"], input=text, capture_output=True, text=True,
                          check=False, timeout=60)
    said = [line for line in done.stderr.splitlines() if "man.local" not in line] # a file of the system's, which may be missing
    return re.sub(r"(?m)^(.*?)\s+$", r"\1", done.stdout), said


def sections(shown):
    parts = re.split(r"(?m)^([A-Z][A-Z ]+)$", shown)
    return dict(zip(parts[1::2], parts[2::2]))


def check_command(command, shown):
    page, name = sections(shown), "cowblk-" + command.name
    said = " ".join(page.get("NAME", "").split())
    if said != f"{name} - {command.summary}":
        yield f"{name}: NAME is '{said}', not '{command.summary}'"
    synopsis = [line.strip() for line in page.get("SYNOPSIS", "").splitlines() if line.strip()]
    if synopsis != command.usage:
        yield f"{name}: the SYNOPSIS is not the usage: {synopsis}, not {command.usage}"
    options = page.get("OPTIONS", "")
    shared = re.search(r"As in cowblk\(1\):(.*)", options)
    for short, long, value in command.options:
        first = f"-{short}, " if short else ""
        beside = re.search(rf"(?m)^ +(?:.*, )?{re.escape(first)}--{long}(=\S+)?(?=[ ,]|$)", options)
        if long in COMMON and shared and re.search(rf"{re.escape(first)}--{long}[,.]", shared[1]):
            continue
        if not beside:
            yield f"{name}: {first}--{long} is not described"
        elif value and not long.startswith("key-") and beside[1] != "=" + value:
            yield f"{name}: --{long} takes {value}, not {beside[1]}"


def check_main(commands, shown):
    page = sections(shown)
    for command in commands:
        if not re.search(rf"cowblk-{command.name}\(1\)\s+{re.escape(command.summary)}\.", page.get("COMMANDS", ""), re.I):
            yield f"cowblk: {command.name} is not among the COMMANDS, with its summary"
        for _, long, value in command.options:
            where = "PASSPHRASES" if long.startswith("key-") else "COMMON OPTIONS"
            wanted = f"--{long}=" + value if value and where == "PASSPHRASES" else "--" + long
            if (long in COMMON or where == "PASSPHRASES") and not re.search(rf"{re.escape(wanted)}(?![a-z-])", page.get(where, "")):
                yield f"cowblk: {wanted} is not among the {where}"


def check(commands, sources):
    known = FOR_ALL | FOREIGN | {long for command in commands for _, long, _ in command.options}
    wanted = {"cowblk": None, **{"cowblk-" + command.name: command for command in commands}}
    for name in sorted(set(wanted) ^ set(sources)):
        yield f"{name}: " + ("there is no page" if name in wanted else "no command has that name")
    for name in sorted(set(wanted) & set(sources)):
        shown, said = render(sources[name])
        yield from (f"{name}: {line}" for line in said)
        yield from check_command(wanted[name], shown) if wanted[name] else check_main(commands, shown)
        for long in sorted(set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", shown)) - known):
            yield f"{name}: --{long}: no command has it"
        for page in re.findall(r"cowblk-(\w+)\(1\)", shown):
            if "cowblk-" + page not in wanted:
                yield f"{name}: there is no cowblk-{page}(1)"


def check_self(commands, sources):
    """The check must see what is missing."""
    for page, what, old, new in (
            ("cowblk-attach", "an option that goes", r"\-\-no\-discard", r"\-\-no\-dis"), ("cowblk-attach", "a short option that goes", r"\-r ", r"\-x "),
            ("cowblk-attach", "another value", r"\fBcopy\fR|", r"\fBkopy\fR|"), ("cowblk-check", "a common option that goes", r"\-\-progress", r"\-\-now"),
            ("cowblk", "a common option that goes", r"\-\-force\-share", r"\-\-force"), ("cowblk", "a command that goes", r"cowblk\-detach", "cowblk"),
            ("cowblk", "a way to give keys that goes", ".SH PASSPHRASES", ".SH WORDS"), ("cowblk-list", "another synopsis", r"[\fIDEVICE", r"\fIDEVICE"),
            ("cowblk-map", "another summary", "where", "how"), ("cowblk-map", "a macro that there is not", ".TP\n", ".TB\n")):
        broken = {"cowblk": sources["cowblk"], page: sources[page].replace(old, new)}
        few = [command for command in commands if page in ("cowblk", "cowblk-" + command.name)]
        before = set(check(few, {"cowblk": sources["cowblk"], page: sources[page]}))
        if broken[page] == sources[page] or not set(check(few, broken)) - before:
            yield f"{what} is not noticed"


def main():
    cowblk, folder = sys.argv[1:3]
    if not shutil.which("groff"):
        print("skipped: no groff")
        sys.exit(77)
    commands, sources = commands_of(cowblk), {}
    for path in glob.glob(os.path.join(folder, "*.1")):
        with open(path, encoding="utf-8") as file:
            sources[os.path.basename(path)[:-2]] = file.read()
    said = list(check(commands, sources))
    if not said:
        said = list(check_self(commands, sources))
    count = sum(len(command.options) for command in commands)
    if len(commands) < 16 or count < 100:
        said.append("the commands and their options were not all found")
    print("\n".join(said) or f"{len(commands)} commands, {count} options")
    sys.exit(1 if said else 0)


main()
