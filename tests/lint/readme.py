#!/usr/bin/env python3
"""readme.py SOURCE BUILD: what the tables of tests/README.md and tests/sim/README.md say is there.

Each file of "What is tested where" exists, each pattern of its commands (-R, -L) matches at least one test of the build, and each test
and each file of a test is in a row. The bugs of the simulator's table are those of tests/sim/bugs."""
import glob
import os
import re
import sys

# Of other builds and other kernels: what they run is in the rows.
NO_ROW = re.compile(r"device_(vm|vm_newest|boot_fails)$|(asan|tsan|clang|coverage)_|fuzz_")


def tests_of(folder):
    """name -> labels, of all tests that ctest would find in a build: its own files, as it writes down what it looks for."""
    with open(os.path.join(folder, "CTestTestfile.cmake"), encoding="utf-8") as file:
        text = file.read()
    tests = {name: "" for name in re.findall(r"^add_test\(\[=\[(.*?)\]=\]", text, re.M)}
    for name, labels in re.findall(r"^set_tests_properties\(\[=\[(.*?)\]=\] .*?LABELS \"(.*?)\"", text, re.M):
        tests[name] = labels
    for below in re.findall(r'^subdirs\("(.*?)"\)', text, re.M):
        tests.update(tests_of(os.path.join(folder, below)))
    return tests


def rows_of(text, heading):
    """The rows below a heading, as lists of cells; the heads of tables and their lines are left out."""
    part = text.split("\n## " + heading, 1)[1].split("\n## ", 1)[0]
    rows = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("\\|", "|") for cell in row] for row in rows[2:]]


def files_of(source, cell):
    """(word, its files) for each word of a cell that is set in `...`: a folder goes on for those that follow."""
    folder = ""
    for word in re.findall(r"`([^`]*)`", cell):
        here = os.path.join(source, "tests", word)
        if "/" in word:
            folder = os.path.dirname(word)
        elif not glob.glob(here) and not os.path.isdir(os.path.join(source, word)):
            here = os.path.join(source, "tests", folder, word)
        elif not glob.glob(here):
            here = os.path.join(source, word)
        yield word, [name for end in ("", ".c", ".py", ".sh") for name in glob.glob(here + end)]


def commands_of(cell):
    """(option, pattern) of each command of a cell"""
    for command in re.findall(r"`([^`]*)`", cell):
        yield from ((option, pattern.strip("'")) for option, pattern in re.findall(r"-([RL]) ('[^']*'|\S+)", command))


def check_rows(source, rows, tests):
    files, run = set(), set()
    for what, where, commands in rows:
        for word, found in files_of(source, where):
            files.update(os.path.relpath(name, source) for name in found)
            if not found:
                yield f"tests/README.md: {what}: there is no {word}"
        for option, pattern in commands_of(commands):
            found = {name for name, labels in tests.items() if re.search(pattern, name if option == "R" else labels)}
            run |= found
            if not found:
                yield f"tests/README.md: {what}: -{option} {pattern} would run no test"
        for word in re.findall(r"`(tests/[^\s`]+)", commands):
            if not os.path.isfile(os.path.join(source, word)):
                yield f"tests/README.md: {what}: there is no {word}"
    for name in sorted(set(tests) - run):
        if not NO_ROW.match(name):
            yield f"tests/README.md: no row's command runs {name}"
    yield from check_files(source, files)


def check_files(source, said):
    there = glob.glob(os.path.join(source, "tests/unit/test_*.c")) + glob.glob(os.path.join(source, "tests/device/*.sh"))
    there += [name for name in glob.glob(os.path.join(source, "tests/interop/*")) if os.access(name, os.X_OK) and "." not in os.path.basename(name)]
    for name in sorted(os.path.relpath(name, source) for name in there):
        if name not in said and name != "tests/device/lib.sh":
            yield f"tests/README.md: {name} is in no row"


def check_bugs(rows, there):
    said = [row[0] for row in rows]
    yield from (f"tests/sim/README.md: no row for the bug {name}" for name in sorted(there - set(said)))
    yield from (f"tests/sim/README.md: there is no bug {name}" for name in said if name not in there)
    yield from (f"tests/sim/README.md: {name} has two rows" for name in sorted({name for name in said if said.count(name) > 1}))


def self_check(source, rows, tests):
    """A mistake of each kind is noticed."""
    without = [row for row in rows if "test_map" not in row[1]]
    if not any("is in no row" in line for line in check_rows(source, without, tests)):
        yield "readme: a row that goes is not noticed"
    for mistake, said in ((["x", "`unit/test_nothing`", ""], "there is no"), (["x", "", "`-R unit_nothing`"], "would run no test"),
                          (["x", "", "`tests/nothing`"], "there is no")):
        if not any(said in line for line in check_rows(source, rows + [mistake], tests)):
            yield f"readme: {mistake} is not noticed"
    if len(list(check_bugs([["a"], ["b"], ["b"]], {"b", "c"}))) != 3:
        yield "readme: the bugs of the simulator's table are not looked at"


def main():
    source, build = (os.path.abspath(word) for word in sys.argv[1:])
    with open(os.path.join(source, "tests/README.md"), encoding="utf-8") as file:
        rows = rows_of(file.read(), "What is tested where")
    with open(os.path.join(source, "tests/sim/README.md"), encoding="utf-8") as file:
        bugs = rows_of(file.read(), "Does it have teeth?")
    tests = tests_of(build)
    there = {os.path.basename(name)[:-len(".patch")] for name in glob.glob(os.path.join(source, "tests/sim/bugs/*.patch"))}
    said = [*check_rows(source, rows, tests), *check_bugs(bugs, there), *self_check(source, rows, tests)]
    print("\n".join(said) or f"{len(rows)} rows, {len(tests)} tests, {len(there)} bugs")
    sys.exit(1 if said else 0)


main()
