#!/usr/bin/env python3
"""floors.py SOURCE includes | calls BUILD | self: what may know what.

A folder may include from, and call into, itself and what its row of FLOORS names. `includes` reads the sources; `calls` reads the
objects of a build with nm: an undefined symbol that another object defines is a call. Inside a folder neither makes a circle.
There are no exceptions. A folder has MOST_SOURCES sources at most, and `struct cow_image` is named on IMAGE_FLOORS only.
Prints what is wrong and ends with 1."""
import collections
import os
import re
import subprocess
import sys

PUBLIC = {"engine/" + name for name in """
    life/image.h life/live.h life/live_bitmap.h life/live_resize.h life/image_memory.h life/freeze.h life/info.h request/kind.h request/queue.h
    request/inspect.h create/create.h check/check.h snapshot/snapshot.h snapshot/snapshot_list.h snapshot/snapshot_select.h bitmap/bitmap.h bitmap/dirty.h edit/amend.h edit/amend_keys.h edit/compact.h edit/resize.h crypt/secret.h
    crypt/luks.h crypt/luks_change.h crypt/luks_format.h loop/guest.h loop/loop.h loop/loop_plain.h loop/loop_uring.h host/file.h host/lock.h host/path.h host/system.h base/assert.h base/container.h base/error.h base/log.h base/mutex.h
    base/number.h base/pages.h base/result.h tool/disk.h tool/walk.h tool/compare.h tool/convert.h tool/convert_target.h
    tool/backing_commit.h tool/backing_rebase.h tool/disk_map.h tool/lane.h tool/measure.h tool/concat.h tool/salvage.h tool/bitmap_copy.h tool/rate.h tool/each.h tool/convert_stream.h""".split()}
ENGINE = {
    "base": "", "host": "base", "format": "base", "loop": "base host", "crypt": "base host format loop", "compress": "base loop core",
    "core": "base host format loop", "meta": "base host format loop core", "space": "base host format loop core meta",
    "check": "base host format loop core", "create": "base host format loop core crypt", "edit": "base host format loop core crypt check compress",
    "snapshot": "base host format loop core edit", "bitmap": "base host format loop core meta edit",
    "image": "base host format loop core meta space compress crypt bitmap",
    "request": "base host format loop core meta space compress crypt bitmap image",
    "life": "base host format loop core meta space compress crypt bitmap image request check edit snapshot",
    "tool": "base host format loop core crypt create edit bitmap image request life",
}
DAEMON = {"holders": "", "device": "holders", "control": "", "server": "holders device control",
          "options": "control", "client": "holders device control server options",
          "cli": "holders device control server options client"}
UAPI = {"engine/format", "engine/crypt", "engine/compress", "daemon/device"}
FLOORS = {"engine/" + name: {"engine/" + low for low in row.split()} for name, row in ENGINE.items()}
FLOORS.update({"daemon/" + name: {"daemon/" + low for low in row.split()} for name, row in DAEMON.items()})
# Tests that stand beside the program they test may look into it. The benchmarks' host is the tests'.
TESTS = {"tests": {"engine", "uapi", "tests"}, "tests/unit": {"daemon", "engine", "uapi", "tests"}, "bench": {"bench", "engine", "uapi", "tests"}}
MOST_SOURCES = 24
IMAGE_FLOORS = {"engine/image", "engine/request", "engine/life", "engine/tool"}
KNOWS_IMAGE = re.compile(r"\bstruct cow_image\b")
# What the floors alone would let through: folders or sources without their ends, an include, why not.
NEVER = (
    (("engine/check", "engine/create", "engine/edit", "engine/snapshot"), re.compile(r'#\s*include\s*"engine/loop/task\.h"'),
     "a closed image is changed in a straight line, without tasks"),
    (("engine", "daemon/holders", "daemon/device"), re.compile(r"#\s*include\s*<(?:json-c/|argp\.h)"),
     "JSON and arguments are the commands' and the server's"),
    (tuple("engine/tool/" + name for name in "backing_commit backing_rebase chain_level compare convert disk disk_map lane measure walk".split()),
     re.compile(r'#\s*include\s*"engine/host/system\.h"'),
     "tools work on the caller's host, the simulator's too"),
    (("engine/format", "engine/crypt/crypt", "engine/meta", "engine/space", "engine/request"), re.compile(r"#\s*include\s*<pthread\.h>"),
     "locks are base/mutex.h's, and the engine has no threads"),
)
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.M)


def folder(name):
    return os.path.dirname(name)


def why_not(name, target, public):
    """Why name may not know target, or None. public: the headers that the daemon may include, or None for calls."""
    here, there = folder(name), folder(target)
    top = name.split("/")[0]
    if top in ("tests", "bench"):
        row = max((part for part in TESTS if (name + "/").startswith(part + "/")), key=len)
        return None if target.split("/")[0] in TESTS[row] else f"{row} may not know {there}"
    if there == "uapi":
        return None if here in UAPI or here == "uapi" else f"{here} may not know uapi"
    if here == there or there in FLOORS.get(here, ()):
        return None
    if top == "daemon" and there.startswith("engine/"):
        if public is None or target in public or there == "engine/format":
            return None
        return f"{target} is not public"
    return f"{here} may not know {there}"


def find_circle(edges):
    """A circle as a list, or None."""
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


def check(pairs, kind, public):
    """Yields what is wrong with pairs of (source, target)."""
    edges = {}
    for name, target in sorted(set(pairs)):
        why = why_not(name, target, public)
        if why:
            yield f"{kind} {name} {target}: {why}"
        if folder(name) == folder(target) and (kind == "calls" or name.endswith(".h")):
            edges.setdefault(name, set()).add(target)
    circle = find_circle(edges)
    while circle:
        yield f"{kind} make a circle: " + " -> ".join(circle)
        edges[circle[-2]].discard(circle[-1])
        circle = find_circle(edges)


def check_folders(names):
    """A folder of more sources has two jobs; the name of a file says which it is."""
    counts = collections.Counter(folder(name) for name in names if name.startswith(("engine/", "daemon/")))
    for where, count in sorted(counts.items()):
        if count > MOST_SOURCES:
            yield f"{where}: {count} sources, more than {MOST_SOURCES}"
    counts = collections.Counter(os.path.basename(name) for name in names if name.startswith(("engine/", "daemon/")))
    for name, count in sorted(counts.items()):
        if count > 1:
            yield f"{name}: {count} files have that name"


def check_image(name, text):
    """An open image is state that knows its parts; no part below it knows it."""
    if name.startswith("engine/") and folder(name) not in IMAGE_FLOORS and KNOWS_IMAGE.search(text):
        yield f"{name}: names struct cow_image, which stands above it"


def check_never(name, text):
    for folders, include, why in NEVER:
        if name.startswith(tuple(start + end for start in folders for end in "/.")) and include.search(text):
            yield f"{name}: includes what it may not know: {why}"


def tracked(root, *ends):
    ask = ["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(ask, capture_output=True, check=True).stdout.decode().split("\0")
    return sorted(name for name in names if name.endswith(ends) and os.path.isfile(os.path.join(root, name)))


def includes(root):
    known = set(tracked(root, ".h"))
    for name in tracked(root, ".c", ".h"):
        with open(os.path.join(root, name), encoding="utf-8") as file:
            text = file.read()
        for found in INCLUDE.finditer(text):
            for at in (found[1], os.path.normpath(os.path.join(folder(name), found[1]))):
                if at in known:
                    yield name, at
                    break


def objects(build):
    """(source, object file) of engine and daemon in a build by CMake."""
    for target in ("cowengine", "cowblk"):
        top = os.path.join(build, "CMakeFiles", target + ".dir")
        for where, _, names in os.walk(top):
            for name in names:
                if name.endswith(".c.o"):
                    path = os.path.join(where, name)
                    yield os.path.relpath(path, top)[:-2], path


def calls(root, build):
    here = set(tracked(root, ".c"))
    found = [(source, path) for source, path in objects(build) if source in here]
    defined, wanted = {}, {}
    for source, path in found:
        out = subprocess.run(["nm", "-P", path], capture_output=True, check=True).stdout.decode()
        for line in out.splitlines():
            symbol, kind = line.split()[:2]
            if kind in "UW":
                wanted.setdefault(source, set()).add(symbol)
            elif kind.isupper():
                defined[symbol] = source
    for source, symbols in wanted.items():
        for symbol in symbols:
            if symbol in defined and defined[symbol] != source:
                yield source, defined[symbol]


def self_check():
    for kind, pair in (("includes", ("engine/format/map.c", "engine/request/op.h")), ("includes", ("uapi/a.h", "engine/format/map.h")),
                       ("includes", ("engine/meta/cache.c", "engine/image/state.h")), ("includes", ("engine/request/op.c", "daemon/cli/commands.h")),
                       ("includes", ("daemon/cli/main.c", "engine/meta/cache.h")), ("includes", ("daemon/device/device.c", "daemon/cli/commands.h")),
                       ("includes", ("tests/sim/run.c", "daemon/cli/commands.h")), ("calls", ("engine/space/alloc.c", "engine/request/op.c")),
                       ("calls", ("engine/base/error.c", "engine/loop/loop.c"))):
        if not list(check([pair], kind, PUBLIC if kind == "includes" else None)):
            yield f"{pair[0]} {kind} {pair[1]}, and the rule is silent"
    if not list(check([("engine/meta/a.c", "engine/meta/b.c"), ("engine/meta/b.c", "engine/meta/a.c")], "calls", None)):
        yield "a circle of calls is not seen"
    if not list(check([("engine/meta/a.h", "engine/meta/b.h"), ("engine/meta/b.h", "engine/meta/a.h")], "includes", PUBLIC)):
        yield "a circle of includes is not seen"
    if not list(check_folders([f"engine/meta/{i}.c" for i in range(MOST_SOURCES + 1)])):
        yield "a folder with too many sources is not seen"
    if not list(check_folders(["engine/meta/a.c", "engine/space/a.c"])):
        yield "two files of one name are not seen"
    for name, text in (("engine/edit/a.c", '#include "engine/loop/task.h"'), ("daemon/device/a.c", "#include <json-c/json.h>"),
                       ("engine/meta/a.h", "#include <pthread.h>")):
        if not list(check_never(name, text)) or list(check_never("daemon/cli/a.c", text)):
            yield f"{name} {text}, and the rule is silent, or speaks of cli"
    if not list(check_image("engine/space/alloc.h", "int f(struct cow_image *image);")) or \
       list(check_image("engine/space/alloc.h", "struct cow_image_geometry *g;")):
        yield "struct cow_image below its floor is not seen, or another is taken for it"
    if list(check([("engine/request/op.c", "engine/format/map.h"), ("daemon/cli/main.c", "engine/life/image.h")], "includes", PUBLIC)):
        yield "an include in the right direction is not let through"


def main():
    root, rule = sys.argv[1:3]
    if rule == "self":
        said = list(self_check())
    else:
        pairs = list(includes(root)) if rule == "includes" else list(calls(root, sys.argv[3]))
        said = list(check(pairs, rule, PUBLIC if rule == "includes" else None))
        if rule == "includes":
            said += check_folders(tracked(root, ".c"))
            for name in tracked(root, ".c", ".h"):
                with open(os.path.join(root, name), encoding="utf-8") as file:
                    text = file.read()
                said += list(check_image(name, text)) + list(check_never(name, text))
        if len(pairs) < 200:
            said.append(f"only {len(pairs)} {rule} were found: the check does not see the sources")
    print("\n".join(said) or f"{rule}: nothing to say")
    sys.exit(1 if said else 0)


main()
