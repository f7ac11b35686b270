#!/usr/bin/env python3
"""hacking.py SOURCE BUILD plain | fuzz: runs every command that stands in a box of docs/HACKING.md; those of the fuzzers in a build that
has them, the others in a plain one. In a folder of its own, with a copy of the tree, and the build by links. A command that stands
in a sentence, where nobody runs it, is an error. With `device` the commands are printed that tests/device/requests.sh runs on one.

Not run to the end is what is a test by itself, or builds everything: then what the command names must be there (ninja says what it
would do, ctest which tests it would run). A command of a kind that is not known here is an error. Ends with 1 if any command fails, or
if a command with a mistake does not."""
import os
import re
import shutil
import subprocess
import sys
import tempfile

LIMIT_S = 100
# What other tests run as it stands: the command, the file that has it, and how it is written there.
ELSEWHERE = {
    "tests/install build test": (".ci/run", '"$source/tests/install" build test'),
    "tests/run": (".ci/run", 'run "$clone/tests/run"'),
    "tests/kernel/boot -- uname -a": ("tests/device/status", '"$boot" -- '),
    "cpack --config build/dev/CPackConfig.cmake -G DEB -B build/package": ("tests/package/deb", 'cpack --config "$build/CPackConfig.cmake" -G DEB -B '),
    "cmake --install build/dev": ("tests/package/uninstall", 'cmake --install "$build" '),
}
PROGRAMS = ("valgrind", "callgrind_annotate", "journalctl", "grep")  # Debian's, as they stand
ON_A_DEVICE = ("cowblk", "kill", "gdb", "cat")
# Mistakes that must be noticed.
BROKEN = (("-L interop", "-L interops"), ("-R lint_manpage", "-R lint_manpages"), ("run unit_map", "run unit_mop"), ("run fio 2", "run fio 9"),
          ("tests/run ", "tests/runs "), ("list --help", "list --halp"), ("boot -w", "boot -y"), ("--seed 4711 --print", "--seeds 4711 --print"),
          ("run --dry-run", "run --dry-runs"), ("device_overlay", "device_underlay"),
          ("dev uninstall", "dev uninstalls"), ('"copy: publish"', '"copy: publishes"'),
          ("--write flush", "--write flash"))


def commands(text):
    """The lines in the boxes, without what is said of them."""
    for box in re.findall(r"^```\n(.*?)^```$", text, re.M | re.S):
        for line in box.splitlines():
            command = re.sub(r"\s\s*#.*", "", line).strip()
            if command:
                yield command


def in_sentences(text):
    """The commands outside the boxes: a program's name and more, in `...`."""
    for words in re.findall(r"`([^`]+)`", re.sub(r"^```\n.*?^```$", "", text, flags=re.M | re.S)):
        program = next((word for word in words.split() if "=" not in word), "")
        if " " in words and (program == "cowblk" or "/" in program or shutil.which(program)):
            yield words


def link_all(source, to, but=()):
    os.makedirs(to, exist_ok=True)
    for name in os.listdir(source):
        if name not in but:
            os.symlink(os.path.join(source, name), os.path.join(to, name))


class Runner:
    def __init__(self, source, build, work):
        self.source, self.build, self.work = source, build, work
        self.tree, self.fresh = os.path.join(work, "tree"), os.path.join(work, "fresh")
        # patch follows no links.
        shutil.copytree(source, self.tree, ignore=lambda where, names: {"build", ".git"} if where == source else ())
        link_all(source, self.fresh, ("build", ".git"))
        # ctest keeps what it did last in Testing: the one that runs us has that.
        link_all(build, os.path.join(self.tree, "build/dev"), ("Testing",))
        os.symlink(os.path.join(build, "cowblk"), os.path.join(self.tree, "build/cowblk"))
        fuzz = os.path.join(self.tree, "build/fuzz/tests/fuzz")
        os.makedirs(fuzz)
        for name in os.listdir(os.path.join(build, "tests/fuzz")) if os.path.isdir(os.path.join(build, "tests/fuzz")) else ():
            if name.startswith("fuzz_"):
                os.symlink(os.path.join(build, "tests/fuzz", name), os.path.join(fuzz, name))
        self.tests = None

    def read(self, name):
        with open(os.path.join(self.source, name), encoding="utf-8") as file:
            return file.read()

    def shell(self, command, where, status=0):
        """What is wrong, or None; and what it said."""
        try:
            done = subprocess.run(["bash", "-c", command], cwd=where, capture_output=True, text=True, errors="replace", timeout=LIMIT_S,
                                  check=False, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return f"not over after {LIMIT_S} s", ""
        said = done.stdout + done.stderr
        return (None if done.returncode == status else f"status {done.returncode}: {said.strip()[-300:]}"), said

    def has_test(self, name):
        if self.tests is None:
            self.tests = self.shell("ctest --test-dir build/dev -N", self.tree)[1]
        # The tests of the variants are there only when tests/run has asked for them.
        return None if re.search(rf"Test +#\d+: {re.escape(name)}$", self.tests, re.M) else f"there is no test {name}"

    def configure(self, command):
        wrong, _ = self.shell(re.sub(r"\bninja\b", "ninja -n", command), self.fresh)
        return wrong

    def ctest(self, command):
        if " -L " not in command:
            return self.shell(command + " --no-tests=error", self.tree)[0]
        wrong, said = self.shell(command + " -N", self.tree)
        return wrong or (None if re.search(r"Total Tests: [1-9]", said) else "it would run no test")

    def one_test(self, command):
        """tests/run NAME, with words in the environment that tests/kernel knows."""
        words = command.split()
        known = self.read("tests/kernel/boot") + self.read("tests/kernel/vm")
        for word in words[:-2]:
            key, value = word.split("=")
            if key not in known or (key == "COW_KERNEL" and value not in known):
                return f"tests/kernel knows no {word}"
        return self.has_test(words[-1])

    def run(self, command):
        """What is wrong, or None."""
        program = next(word for word in command.split() if "=" not in word)
        if command in ELSEWHERE:
            name, text = ELSEWHERE[command]
            return None if text in self.read(name) else f"{name} does not run it any more"
        if program == "cmake":
            return self.configure(command)
        if program == "ninja":
            return self.shell(re.sub(r"(-C \S+)", r"\1 -t query", command), self.tree)[0]
        if program == "ctest":
            return self.ctest(command)
        if program == "tests/run":
            return self.one_test(command)
        if program == "tests/device/run":
            return self.has_test("device_" + "_".join(command.split(" tests/device/run ")[1].split()))
        if "--shrink" in command:
            wrong, said = self.shell(command, self.tree, 1)
            return wrong or (None if "nothing to shrink" in said else "a seed that passes was shrunk")
        if program in PROGRAMS or program.startswith(("build/", "tests/", "bench/")):
            return self.shell(command, self.tree)[0]
        return "nobody knows how to run it"


def of_kind(command, kind):
    return kind == ("device" if command.split()[0] in ON_A_DEVICE else "fuzz" if "fuzz" in command else "plain")


def self_check(runner, all_commands):
    for right, wrong in BROKEN:
        command = next((c for c in all_commands if right in c), None)
        if not command:
            yield f"no command has '{right}' any more: bring the list of mistakes up to date"
        elif not runner.run(command.replace(right, wrong)):
            yield f"{command.replace(right, wrong)}: the mistake is not noticed"


def check_places(runner, text):
    """Where the commands stand that are not run here."""
    yield from (f"`{words}` stands in a sentence, where nobody runs it: put it into a box" for words in in_sentences(text))
    if list(in_sentences("`cat x` `X=1 tests/run y` `a b`\n```\ncat y\n```\n`cat`")) != ["cat x", "X=1 tests/run y"]:
        yield "commands in sentences are not found"
    if wrong := runner.has_test("device_requests"):
        yield f"nobody runs the commands for a device: {wrong}"


def main():
    source, build, kind = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2]), sys.argv[3]
    if kind == "device":
        with open(os.path.join(source, "docs/HACKING.md"), encoding="utf-8") as file:
            print("\n".join(command for command in commands(file.read()) if of_kind(command, kind)))
        return
    work = tempfile.mkdtemp()
    try:
        runner = Runner(source, build, work)
        found = [command for command in commands(runner.read("docs/HACKING.md")) if of_kind(command, kind)]
        said = [f"{command}: {wrong}" for command in found for wrong in [runner.run(command)] if wrong]
        if kind == "plain":
            said += check_places(runner, runner.read("docs/HACKING.md"))
            said += self_check(runner, found)
        if len(found) < (3 if kind == "fuzz" else 20):
            said.append(f"only {len(found)} commands were found")
    finally:
        shutil.rmtree(work)
    print("\n".join(said) or f"{len(found)} commands work")
    sys.exit(1 if said else 0)


main()
