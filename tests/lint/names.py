#!/usr/bin/env python3
"""names.py SOURCE BUILD | self: a function that other files call is declared in the header of the file that defines it, and its
name says that file. It is cow_NAME_..., and NAME is of the file's name (cow_chain_... or cow_level_... in chain_level.c), the
folder's, or that of a struct that the file's header defines. The function of a step says what the step is called: "copy: look" is
copy_look(), all that a debugger, perf and a log show. No function takes a bool that changes what a call means; none is there
for nobody. Reads the objects of a build with nm. Prints what is wrong and ends with 1."""
import os
import re
import subprocess
import sys

# Where a page for all of them is worth more than one for each. The reason stands behind it.
DECLARED = {
    "daemon/cli/cmd_": "daemon/cli/commands.h",  # one signature, and main.c has the table
    "engine/life/open": "engine/life/image.h",  # the public face of an image
    "engine/life/close": "engine/life/image.h",
    "engine/life/files": "engine/life/image.h",
    "engine/life/image_health": "engine/life/image.h",
}
# Folders whose files are the verbs of one thing.
SUBJECT = {"engine/life": "image"}  # an image's life


# These take a truth that is somebody's already. All others say in words what a call means: two functions, or an enum.
TAKE_BOOL = {
    "cow_ask_snapshot": "an option as it was typed", "cow_list_requests": "the same", "cow_interrupt_progress": "the same",
    "cow_params_fill": "a property of the device", "cow_delta_mark_one": "the value that is set",
}


MOST_PARAMETERS = 6
TAKE_MANY = {
    "cow_queue_submit": "each request: nothing is copied twice", "cow_data_read": "the same", "cow_op_submit_rw": "the same",
    "cow_io_prep_rw": "the same",
    "cow_luks_derive": "PBKDF2, as OpenSSL has it", "cow_snapshots_decode": "a table, its place, and what it gives",
    "cow_path_open_typed": "as openat() and what may be opened", "cow_fsfreeze_prepare": "told once, by one caller",
}


def prototypes(text):
    """A header without comments, directives and bodies."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    text = re.sub(r"^\s*#(?:.*\\\n)*.*$", "", text, flags=re.M)
    before = None
    while before != text:  # bodies of inline functions
        before, text = text, re.sub(r"\{[^{}]*\}", ";", text)
    return re.sub(r"__attribute__\s*\(\(.*?\)\)(?=\s*;)", "", text)


def check_bools(name, text):
    for function, arguments in re.findall(r"\b(cow_\w+)\s*\(([^;]*)\)[^;()]*;", prototypes(text)):
        if re.search(r"\bbool \w", arguments) and function not in TAKE_BOOL:
            yield f"{name}: {function}() takes a bool, which says nothing where it is called: make it two functions, or an enum"


def check_parameters(name, text):
    for function, arguments in re.findall(r"\b(cow_\w+)\s*\(((?:[^(){};]|\([^()]*\))*)\)[^;(){}]*;", prototypes(text)):
        count = re.sub(r"\([^()]*\)", "", arguments).count(",") + 1
        if count > MOST_PARAMETERS and function not in TAKE_MANY:
            yield f"{name}: {function}() takes {count} parameters, more than {MOST_PARAMETERS}: make them a struct"


def check_exceptions(texts):
    """Each is still needed."""
    text = "\n".join(texts)
    for table, check_one in ((TAKE_BOOL, check_bools), (TAKE_MANY, check_parameters)):
        kept, needed = dict(table), set()
        table.clear()
        for fault in check_one("", text):
            needed.add(re.search(r"(cow_\w+)\(\)", fault)[1])
        table.update(kept)
        yield from (f"tests/lint/names.py: {name}() needs no exception any more: drop it" for name in sorted(set(table) - needed))


def declarations(text):
    """Names of the functions and objects that a header declares."""
    text = prototypes(text)
    names = set(re.findall(r"\b(cow_\w+)\s*\((?=[^;{]*\)[^;{()]*;)", text))
    return names | set(re.findall(r"\bextern\b[^;(]*?\b(cow_\w+)\s*(?:\[[^;]*)?;", text))


def structs(text):
    return re.findall(r"\b(?:struct|enum|union) cow_(\w+) \{", text)


def prefixes(source, header):
    """What may follow cow_ in the names of source."""
    words = os.path.basename(source)[:-2].split("_")
    found = {"_".join(words[a:b]) for a in range(len(words)) for b in range(a + 1, len(words) + 1)}
    found |= {os.path.basename(os.path.dirname(source)), SUBJECT.get(os.path.dirname(source))} - {None}
    found |= set(structs(header))
    return found | {name + "s" for name in found} | {name[:-1] for name in found if name.endswith("s")}


STEP = re.compile(r'\bstruct cow_step \w+\s*=\s*\{\s*"([^"]*)",\s*(\w+)\s*\}')


def check_steps(source, text, seen):
    """seen: step functions of all files so far."""
    for name, function in STEP.findall(text):
        wanted = name.replace("l2 table", "l2table").replace(": ", "_").replace(" ", "_")
        if function != wanted and (name, function) != ("read", "read_map"):  # read() is the C library's
            yield f"{source}: the step \"{name}\" is {function}(): call it {wanted}()"
        if function in seen:
            yield f"{source}: {function}() is a step of {seen[function]} as well"
        seen[function] = source


def check(source, symbols, headers):
    """headers: name -> text of all headers."""
    own = [source[:-2] + ".h"] + [to for start, to in DECLARED.items() if source.startswith(start)]
    text = "".join(headers.get(name, "") for name in own)
    declared, allowed = declarations(text), prefixes(source, text)
    for symbol in sorted(symbols):
        if symbol not in declared:
            yield f"{source}: {symbol}() is not declared in {own[-1]}"
        if not any((symbol + "_").startswith(f"cow_{name}_") for name in allowed):
            yield f"{source}: {symbol}() does not say its file: cow_{os.path.basename(source)[:-2]}_..."
    for name, text in sorted(headers.items()):
        if name not in own:
            for symbol in sorted(symbols & declarations(text)):
                yield f"{name}: declares {symbol}() of {source}"


def defined(root, build):
    """(source, names that it defines for others) of engine and daemon in a build by CMake."""
    for target in ("cowengine", "cowblk"):
        top = os.path.join(build, "CMakeFiles", target + ".dir")
        for where, _, names in os.walk(top):
            for name in names:
                source = os.path.relpath(os.path.join(where, name), top)[:-2]
                if name.endswith(".c.o") and os.path.isfile(os.path.join(root, source)):
                    out = subprocess.run(["nm", "-gP", "--defined-only", os.path.join(where, name)], capture_output=True, check=True)
                    symbols = {line.split()[0] for line in out.stdout.decode().splitlines()}
                    yield source, {symbol for symbol in symbols if symbol.startswith("cow_")}


def wanted(build):
    """What any object of the build asks for: programs, tests and benchmarks too."""
    names = set()
    for where, below, files in os.walk(build):
        below[:] = [name for name in below if not name.startswith("variant-")]  # the same sources once more
        objects = [os.path.join(where, name) for name in files if name.endswith(".c.o")]
        if objects:
            out = subprocess.run(["nm", "-AuP"] + objects, capture_output=True, check=True)
            names.update(line.split(": ", 1)[1].split()[0] for line in out.stdout.decode().splitlines() if ": " in line)
    return names


def texts(root, end):
    for top in ("engine", "daemon"):
        for where, _, names in os.walk(os.path.join(root, top)):
            for name in names:
                if name.endswith(end):
                    path = os.path.join(where, name)
                    with open(path, encoding="utf-8") as file:
                        yield os.path.relpath(path, root), file.read()


def self_check():
    head = {"engine/meta/cache.h": "struct cow_slot {\n};\n/* cow_cache_c(); */\nint cow_cache_a(int (*f)(int), int b);\nvoid cow_slot_b(void);\n",
            "engine/meta/table.h": "void cow_cache_d(void) __attribute__((cold));\nstatic inline int cow_table_x(void)\n{\n\treturn cow_cache_a(0, 1);\n}\n"}
    for symbol, wrong in (("cow_cache_a", 0), ("cow_slot_b", 0), ("cow_cache_c", 1), ("cow_cache_d", 2), ("cow_other_e", 2)):
        said = list(check("engine/meta/cache.c", {symbol}, head))
        if len(said) != wrong:
            yield f"{symbol}: {wrong} faults expected: {said}"
    for text, wrong in (("int cow_a(int a, int b, int c, int d, int e, int (*f)(int, int), int g);", 1), ("int cow_a(int a, int (*f)(int, int, int, int, int, int));", 0)):
        if len(list(check_parameters("x.h", text))) != wrong:
            yield f"{text}: {wrong} faults expected"
    for text, wrong in (("int cow_a(int b, bool c);", 1), ("int cow_a(int b, bool *c);", 0), ("void cow_delta_mark_one(bool one);", 0)):
        if len(list(check_bools("x.h", text))) != wrong:
            yield f"{text}: {wrong} faults expected"
    for text, wrong in (('{ "a: b", a_b }', 0), ('{ "a: b", b }', 1), ('{ "a: c", a_c }', 1)):
        if len(list(check_steps("x.c", "static const struct cow_step s = " + text, {"a_c": "y.c"}))) != wrong:
            yield f"{text}: {wrong} faults expected"


def main():
    said = list(self_check())
    if sys.argv[1] != "self":
        root, build = sys.argv[1:3]
        known, count = dict(texts(root, ".h")), 0
        used = wanted(build)
        for source, symbols in sorted(defined(root, build)):
            said += check(source, symbols, known)
            said += [f"{source}: nobody else uses {symbol}: make it static, or drop it" for symbol in sorted(symbols - used)]
            count += len(symbols)
        seen = {}
        for source, text in sorted(texts(root, ".c")):
            said += check_steps(source, text, seen)
        for name, text in sorted(known.items()):
            said += check_bools(name, text)
            said += check_parameters(name, text)
        said += check_exceptions(known.values())
        if len(seen) < 50:
            said.append(f"only {len(seen)} steps were found: the check does not see the sources")
        if count < 500:
            said.append(f"only {count} names were found: the check does not see the objects")
    print("\n".join(said) or "names: nothing to say")
    sys.exit(1 if said else 0)


main()
