#!/usr/bin/env python3
"""rules.py SOURCE RULE: one rule about the sources; prints what breaks it, with file and line, and ends with 1."""
import os
import re
import subprocess
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.M)
# Which folders a folder's files may include from: the outside depends on the inside, never the reverse.
FOLDERS = {
    "uapi": {"uapi"},
    "engine/base": {"engine/base"},
    "engine": {"engine", "engine/base", "uapi"},
    "daemon": {"daemon", "engine", "engine/base", "uapi"},
    "bench": {"bench", "engine", "engine/base", "uapi"},
    "tests": {"tests", "engine", "engine/base", "uapi"},
}
# In the engine, from the inside out. A module includes its own level's modules or lower ones; what is not named here is above.
LEVELS = [
    {"format", "format_bitmap", "geometry", "dirty"},
    {"loop", "host", "task", "lock", "table", "map", "cache", "inflight", "epoch", "alloc", "refill", "release", "refcount",
     "quarantine", "writeback"},
]
# The public header's constants and types are for all; a module's body, but not its header, may know the image that holds it.
PUBLIC = "engine/image.h"
WHOLE = "engine/image_impl.h"
# Tests that stand beside the program they test may look into it.
MAY_ALSO = {"tests/unit": {"daemon", "tests/sim"}}
MAX_LINES = 600
BINARY = (".png", ".qcow2", ".gz", ".zst")


class Source:
    def __init__(self, root):
        self.root = root

    def files(self, *ends):
        ask = ["git", "-C", self.root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(ask, capture_output=True, check=True).stdout.decode().split("\0")
        names = [name for name in names if name and os.path.isfile(os.path.join(self.root, name))]
        return sorted(name for name in names if name.endswith(ends) or not ends)

    def text(self, name):
        with open(os.path.join(self.root, name), encoding="utf-8", errors="replace") as file:
            return file.read()

    def includes(self):
        """(file, line, included file as a name in the repository) of every include of our own."""
        known = set(self.files(".h"))
        for name in self.files(".c", ".h"):
            text = self.text(name)
            for found in INCLUDE.finditer(text):
                for at in (found[1], os.path.normpath(os.path.join(os.path.dirname(name), found[1]))):
                    if at in known:
                        yield name, text.count("\n", 0, found.start(1)) + 1, at
                        break


def folder(name):
    return max((part for part in FOLDERS if name.startswith(part + "/")), key=len, default=None)


def allowed(name, target):
    here, there = folder(name), folder(target)
    if here is None or there in FOLDERS[here]:
        return True
    return any(name.startswith(part + "/") and (there in also or any(target.startswith(one + "/") for one in also))
               for part, also in MAY_ALSO.items())


def level(module):
    return next((n for n, modules in enumerate(LEVELS) if module in modules), len(LEVELS))


def module(name):
    return os.path.splitext(os.path.basename(name))[0]


def find_cycle(edges):
    """A cycle of headers as a list, or None."""
    state, path = {}, []

    def visit(node):
        state[node] = "open"
        path.append(node)
        for after in sorted(edges.get(node, ())):
            if state.get(after) == "open":
                return path[path.index(after):] + [after]
            if after not in state:
                found = visit(after)
                if found:
                    return found
        path.pop()
        state[node] = "done"
        return None

    for start in sorted(edges):
        if start not in state:
            found = visit(start)
            if found:
                return found
    return None


def check_includes(pairs):
    edges = {}
    for name, line, target in pairs:
        if not allowed(name, target):
            yield f"{name}:{line}: includes {target}: {folder(name)} may not know {folder(target)}"
        if target == PUBLIC or (target == WHOLE and name.endswith(".c")):
            continue
        if folder(name) == folder(target) == "engine" and level(module(name)) < level(module(target)):
            yield f"{name}:{line}: includes {target}, which is further out"
        if name.endswith(".h"):
            edges.setdefault(name, set()).add(target)
    cycle = find_cycle(edges)
    if cycle:
        yield "a cycle of includes: " + " -> ".join(cycle)


def rule_includes(source):
    pairs = list(source.includes())
    if len(pairs) < 50:
        yield f"only {len(pairs)} includes were found: the check does not see the sources"
    yield from check_includes(pairs)


def rule_lengths(source):
    for name in source.files(".c", ".h", ".py", ".sh"):
        lines = source.text(name).count("\n")
        if lines > MAX_LINES:
            yield f"{name}: {lines} lines, more than {MAX_LINES}: it has two jobs"


# Of this machine or of its network: none of anyone else's business. Pieces, so that this file passes its own rule.
PRIVATE = re.compile("|".join((
    r"(?<![\w.$}])/wor" r"k/", r"/hom" r"e/[a-z]+/", r"(?<![\w~])/roo" r"t/(?!\.cache)",
    r"\b(?:10|192\.168)(?:\.\d{1,3}){2,3}\b", r"https?://[\w.-]*(?:mirror|proxy|artifact)[\w.-]*",
    r"deb\.debian\.or" r"g", r"snapshot\.debian\.or" r"g")))


def check_private(name, text):
    for number, line in enumerate(text.splitlines(), 1):
        if PRIVATE.search(line):
            yield f"{name}:{number}: names a private path or host: {line.strip()[:80]}"


def rule_private(source):
    for name in source.files():
        if not name.endswith(BINARY):
            yield from check_private(name, source.text(name))


def rule_licenses(source):
    for name in source.files(".c", ".h"):
        if "SPDX-License-Identifier: MIT" not in source.text(name)[:200]:
            yield f"{name}:1: no SPDX line"


def rule_self(_source):
    """The rules must find what they are for."""
    broken = [("engine/map.c", 1, "engine/op.h"), ("engine/map.h", 1, "engine/image_impl.h"), ("engine/op.c", 1, "daemon/cmd.h"), ("uapi/a.h", 1, "engine/map.h"),
              ("engine/format.c", 1, "engine/cache.h"), ("engine/base/be.h", 1, "engine/loop.h")]
    for pair in broken:
        if not list(check_includes([pair])):
            yield f"{pair[0]} includes {pair[2]}, and the rule is silent"
    if not list(check_includes([("engine/a.h", 1, "engine/b.h"), ("engine/b.h", 1, "engine/a.h")])):
        yield "a cycle is not seen"
    if list(check_includes([("engine/op.c", 1, "engine/map.h"), ("daemon/main.c", 1, "engine/image.h")])):
        yield "an include in the right direction is not let through"
    for line in ("cd /wor" "k/main", "uri http://some" "mirror.example/debian"):
        if not list(check_private("x", line)):
            yield f"{line}: the rule is silent"


def main():
    root, rule = sys.argv[1:]
    said = list(globals()["rule_" + rule](Source(root)))
    print("\n".join(said) or f"{rule}: nothing to say")
    sys.exit(1 if said else 0)


main()
