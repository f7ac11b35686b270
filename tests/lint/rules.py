#!/usr/bin/env python3
"""rules.py SOURCE RULE: one rule about the sources; prints what breaks it, with file and line, and ends with 1."""
import os
import re
import subprocess
import sys

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


# They take signs and spaces, and wrap around: engine/base/number.h. What the kernel or an image says is read otherwise.
NUMBERS = re.compile(r"\b(?:strtou?ll?|strtoumax|strtoimax|sscanf|ato(?:i|l|ll))\s*\(")


def check_numbers(name, text):
    for number, line in enumerate(text.splitlines(), 1):
        if NUMBERS.search(line):
            yield f"{name}:{number}: read numbers with engine/base/number.h: {line.strip()[:80]}"


def rule_numbers(source):
    for name in source.files(".c", ".h"):
        if name.startswith("daemon/"):
            yield from check_numbers(name, source.text(name))


# These give back the status that they are given, for a `return` in one line.
GIVE_BACK = {"cow_error_set", "cow_error_no_memory", "cow_cmd_fail", "cow_cmd_fail_ambiguous", "cow_ask_fail", "cow_named_fail", "cow_ask_show_error",
             "cow_core_fail", "cow_core_corrupt"}


def check_results(name, text):
    for number, line in enumerate(text.splitlines(), 1):
        found = re.match(r"(?:extern )?int (cow_\w+)\(", line)
        if found and found[1] not in GIVE_BACK:
            yield f"{name}:{number}: {found[1]}() needs COW_MUST_CHECK (engine/base/result.h)"


def rule_results(source):
    texts = {name: source.text(name) for name in source.files(".h") if name.startswith(("engine/", "daemon/"))}
    for name, text in texts.items():
        yield from check_results(name, text)
    for function in sorted(GIVE_BACK):
        if not any(re.search(rf"^(?:extern )?int {function}\(", text, re.M) for text in texts.values()):
            yield f"tests/lint/rules.py: {function}() gives nothing back any more: drop its exception"


# Asserts of what must hold, in each folder but format, which only reads and writes bytes: a ratchet:
# a folder's number only grows, and in all there is one in a hundred lines.
ASSERTS = {"base": 1, "bitmap": 14, "check": 7, "compress": 3, "core": 6, "create": 3, "crypt": 3, "edit": 19, "host": 0, "image": 4,
           "life": 39, "loop": 14, "meta": 29, "request": 45, "snapshot": 9, "space": 56, "tool": 19}
LINES_FOR_AN_ASSERT = 100


def count_asserts(texts):
    return sum(len(re.findall(r"^\s+cow_assert\(", text, re.M)) for text in texts)


def check_asserts(folders):
    """folder -> its sources"""
    for folder, texts in sorted(folders.items()):
        count = count_asserts(texts)
        if folder not in ASSERTS:
            yield f"engine/{folder}: it stands not in ASSERTS (tests/lint/rules.py)"
        elif count < ASSERTS[folder]:
            yield f"engine/{folder}: {count} asserts; there were {ASSERTS[folder]}: what must hold is still to be said"
    lines = sum(text.count("\n") for texts in folders.values() for text in texts)
    count = sum(map(count_asserts, folders.values()))
    if lines > LINES_FOR_AN_ASSERT * count:
        yield f"engine: {count} asserts in {lines} lines: at least one in {LINES_FOR_AN_ASSERT}: say what must hold in what is new"


def rule_asserts(source):
    folders = {}
    for name in source.files(".c"):
        if name.startswith("engine/") and not name.startswith("engine/format/"):
            folders.setdefault(os.path.dirname(name)[len("engine/"):], []).append(source.text(name))
    yield from check_asserts(folders)


NOTE_LINES = 150
SECTION = re.compile(r"^/\* ---- (.*?) ---- \*/$", re.M)


def check_notes(name, text):
    """A long source opens with its note; where that lists the sections, they are those."""
    lines = text.split("\n")
    if len(lines) >= NOTE_LINES and not lines[1].startswith("/*"):
        yield f"{name}:2: no note: see which header? which sections, in which order?"
    note = " ".join(text.split("*/")[1].replace("\n * ", " ").replace("/*", "").split())
    listed = re.fullmatch(r"See [\w.]+ In this order: (.*)\.", note)
    if listed and listed[1].split("; ") != SECTION.findall(text):
        yield f"{name}:2: the note lists other sections than there are: " + "; ".join(SECTION.findall(text))


def rule_notes(source):
    for name in source.files(".c"):
        if name.startswith(("engine/", "daemon/")):
            yield from check_notes(name, source.text(name))


MUTEX = "engine/base/mutex.h"
BARE_LOCK = re.compile(r"\bpthread_(?:mutex|spin|rwlock)_\w+|\bpthread_cond_(?:timed|clock)?wait\b|\bstruct cow_mutex\b|\bPTHREAD_MUTEX_INITIALIZER\b")
LOCK = re.compile(r"\bstruct cow_mutex_(\w+) \w+;")
# Where the analysis is off, and why.
NO_ANALYSIS = {
    "cow_cache_get": "a slot goes out with the lock held", "cow_cache_put": "and comes back", "cow_cache_put_dirty": "and comes back", "slots_now": "the only thread that changes them asks",
    "stand_on_pass": "while a pass runs nobody changes who runs", "stand_on_running": "the same of a release",
    "write_slots": "what a dead daemon left is nobody else's", "cow_core_snapshots_off": "changes under a freeze only",
}


def check_locks(name, text):
    """NAME_locked() says which lock, so that Clang refuses a call without it. A lock is one of the kinds of mutex.h, and what stands
    below it, up to an empty line, says that it is guarded."""
    for found in re.finditer(r"^(?:static )?[\w *]*?\b(\w+_locked)\([^;{}]*?\)(?:\s*COW_\w+)?\s*\{", text, re.M):
        said = rf"\b{found[1]}\([^;{{}}]*?\)\s*COW_REQUIRES\("
        if not re.search(said, text):
            yield f"{name}:{line_of(text, found)}: {found[1]}() needs COW_REQUIRES ({MUTEX})"
    for found in BARE_LOCK.finditer(text):
        yield f"{name}:{line_of(text, found)}: {found[0]}: a lock is of a kind of {MUTEX}, so that Clang knows its data"
    for found in re.finditer(r"^COW_NO_ANALYSIS\s+[\w *]*?\b(\w+)\(", text, re.M):
        if found[1] not in NO_ANALYSIS:
            yield f"{name}:{line_of(text, found)}: {found[1]}() is not analysed: say why in NO_ANALYSIS (tests/lint/rules.py)"
    for found in LOCK.finditer(text):
        yield from check_guarded(name, line_of(text, found), found[1], text[found.end():])


def line_of(text, found):
    return text.count("\n", 0, found.start()) + 1


def check_guarded(name, line, kind, after):
    block = re.split(r"\n\s*\n|\n\}", after, 1)[0]
    members = [member.strip() for member in COMMENT.sub("", block).split(";") if member.strip()]
    own = [member for member in members if not re.search(r"\b_?[Aa]tomic|\bpthread_cond_t\b", member)]
    for member in own:
        if not re.search(rf"COW_(?:PT_)?GUARDED_BY\({kind}\)", member):
            yield f"{name}:{line}: below the lock stands `{' '.join(member.split())}`: COW_GUARDED_BY({kind}), or an empty line before it"


def check_kinds(text, users):
    """Each kind of mutex.h is there, and guards something."""
    kinds = re.findall(r"^\tX\(x, (\w+)\)", text, re.M)
    for kind in kinds:
        if not any(kind in LOCK.findall(user) or f"struct cow_mutex_{kind} " in user for user in users):
            yield f"{MUTEX}: nobody has a lock of the kind {kind}"
        if not any(f"GUARDED_BY({kind})" in user for user in users):
            yield f"{MUTEX}: locks of the kind {kind} guard nothing"
    if len(kinds) < 10:
        yield f"{MUTEX}: only {len(kinds)} kinds were found: the check does not see them"


def rule_locks(source):
    texts = {name: source.text(name) for name in source.files(".c", ".h") if name.startswith(("engine/", "daemon/")) and name != MUTEX}
    for name, text in texts.items():
        yield from check_locks(name, text)
    for function in sorted(NO_ANALYSIS):
        if not any(re.search(rf"^COW_NO_ANALYSIS\s+[\w *]*?\b{function}\(", text, re.M) for text in texts.values()):
            yield f"tests/lint/rules.py: {function}() is analysed: drop its exception"
    yield from check_kinds(source.text(MUTEX), texts.values())


COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
OTHERS_FILES = {"file-posix.c", "linux/ublk_cmd.h", "include/uapi/linux/ublk_cmd.h"}


def check_comments(name, text, identifiers, files):
    """What a comment names must be there: cow_ names in the code, files in the tree (by the end of their path). A thread or a program
    is no person."""
    for comment in COMMENT.finditer(text):
        person = re.search(r"\b(?:[Hh]e|[Hh]im|[Hh]is|himself|[Ss]he|herself)\b", comment[0])
        if person:
            yield f"{name}:{text.count(chr(10), 0, comment.start() + person.start()) + 1}: `{person[0]}`: say who, or what"
        for found in re.finditer(r"\b((?:cow|COW)_\w*\w)(?<!_)\b(?!\*)|(?<![\w*/.-])((?:[\w-]+/)*[\w-]+\.(?:c|h|py|sh|md))\b(?!\.)", comment[0]):
            symbol, path = found.groups()
            if symbol not in identifiers if symbol else path not in files and path not in OTHERS_FILES:
                number = text.count("\n", 0, comment.start() + found.start()) + 1
                yield f"{name}:{number}: a comment names {symbol or path}, which is not there"


def rule_comments(source):
    texts = {name: source.text(name) for name in source.files(".c", ".h")}
    identifiers = set()
    for text in texts.values():
        identifiers.update(re.findall(r"\w+", COMMENT.sub(" ", text)))
    files = set()
    for name in source.files():
        parts = name.split("/")
        files.update("/".join(parts[i:]) for i in range(len(parts)))
    for name, text in texts.items():
        yield from check_comments(name, text, identifiers, files)


PLACEHOLDER = re.compile(r"NAME|FILE_VERB")


def check_pages(name, text, identifiers, files):
    """What a page names in `...` must be there, too."""
    for words in re.findall(r"`([^`\n]+)`", text):
        for symbol, path in re.findall(r"\b((?:cow|COW)_\w*\w)(?<!_)\b(?!\*)|(?<![\w*/.<-])((?:[\w-]+/)*[\w-]+\.(?:c|h|py|sh|md|patch))\b(?!\.)", words):
            if not PLACEHOLDER.search(symbol + path) and (symbol not in identifiers if symbol else path not in files):
                yield f"{name}: `{words}` names {symbol or path}, which is not there"


def rule_pages(source):
    identifiers, files, pages = set(), set(), source.files(".md")
    for name in source.files():
        parts = name.split("/")
        files.update("/".join(parts[i:]) for i in range(len(parts)))
        if not name.endswith(BINARY + (".md",)):
            identifiers.update(re.findall(r"\w+", source.text(name)))
    for name in pages:
        yield from check_pages(name, source.text(name), identifiers, files)
    if len(pages) < 5:
        yield f"only {len(pages)} pages were found"


def rule_self(_source):
    """The rules must find what they are for."""
    for line in ("cd /wor" "k/main", "uri http://some" "mirror.example/debian"):
        if not list(check_private("x", line)):
            yield f"{line}: the rule is silent"
    for line in ("n = strtoul(text, NULL, 10);", 'sscanf(name, "ublkb%u", &id)', "atoi(argv[1])"):
        if not list(check_numbers("x", line)):
            yield f"{line}: the rule is silent"
    if not list(check_results("x.h", "int cow_file_close(struct cow_file *file);")):
        yield "an unmarked result is not noticed"
    if list(check_results("x.h", "COW_MUST_CHECK int cow_file_close(struct cow_file *file);\nint cow_error_set(int error);")):
        yield "a marked result is taken for an unmarked one"
    for text, wrong in (("static void f_locked(int a)\n{", 1), ("static void f_locked(int a) COW_REQUIRES(k, a);\nstatic void f_locked(int a)\n{", 0),
                        ("\tpthread_mutex_t lock;", 1), ("\tstruct cow_mutex lock;", 1), ("\tpthread_cond_wait(&a, &b);", 1),
                        ("COW_NO_ANALYSIS\nstatic void f(int a)\n{", 1), ("\tstruct cow_mutex_gate lock;\n\tint a; /* b; */\n\n\tint c;\n};", 1),
                        ("\tstruct cow_mutex_gate lock;\n\tint a COW_GUARDED_BY(gate);\n\tatomic_bool b;\n\n\tint c;\n};", 0),
                        ("\tstruct cow_mutex_gate lock;\n\tint a COW_GUARDED_BY(other);\n};", 1)):
        if len(list(check_locks("x.c", text))) != wrong:
            yield f"{text}: {wrong} faults of locks expected"
    if len(list(check_kinds("".join(f"\tX(x, k{i})\n" for i in range(10)), [f"struct cow_mutex_k{i} l;\nint a COW_GUARDED_BY(k{i});" for i in range(9)]))) != 2:
        yield "a kind of lock that is not there is not noticed"
    if [len(list(check_pages("x.md", text, {"cow_a"}, {"b/c.h"}))) for text in ("`cow_a` `b/c.h` `cow_NAME` d.h", "`cow_d(b/d.h)`")] != [0, 2]:
        yield "what pages name is not looked for"
    one = "\tcow_assert(a);\n"
    for folders, said in (({"core": [one]}, f"there were {ASSERTS['core']}"), ({"core": ["/* cow_assert(a); */\n" * 2]}, "0 asserts"), ({"new": [one]}, "stands not"),
                          ({"core": [one * ASSERTS["core"] + "\n" * 1000]}, "at least one in")):
        if not any(said in line for line in check_asserts(folders)):
            yield f"asserts: nothing is said of {said}"
    if list(check_asserts({"core": [one * ASSERTS["core"]]})):
        yield "asserts: enough of them are too few"


def main():
    root, rule = sys.argv[1:]
    said = list(globals()["rule_" + rule](Source(root)))
    print("\n".join(said) or f"{rule}: nothing to say")
    sys.exit(1 if said else 0)


main()
