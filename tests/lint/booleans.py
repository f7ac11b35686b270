#!/usr/bin/env python3
"""booleans.py SOURCE: no call says true or false to a parameter that is a bare bool: `open_kind(e, file, true)` does not say what is
asked for, an enum or a function of another name does. Of all functions, static ones too, and of the functions that a struct holds.
A bool that is somebody's already (a variable, a comparison) may be handed on. Prints what is wrong and ends with 1."""
import os
import re
import sys

FOLDERS = ("engine", "daemon", "bench", "uapi")
# The parameter is a value to be kept, not a choice of what to do.
VALUES = {
    "put_bool": "a boolean of JSON",
}
PARAMETERS = r"\(((?:[^(){};]|\([^(){};]*\))*)\)"
DECLARED = re.compile(r"(?:\b(\w+)|\(\*(?:const )?(\w+)\))\s*" + PARAMETERS + r"\s*(?:COW_\w+\s*(?:\([^()]*\))?\s*|__attribute__\s*\(\(.*?\)\)\s*)*[;{,)]")


def plain(text):
    """A source without comments and strings, line by line as it was."""
    return re.sub(r"/\*.*?\*/|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)+'", lambda found: '""' + "\n" * found.group().count("\n"), text, flags=re.S)


def split(arguments):
    """At the commas that are in no parentheses."""
    parts, depth = [""], 0
    for letter in arguments:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def takers(text):
    """(function, the places of its parameters that are bools), of the functions and pointers to functions that text declares."""
    for function, pointer, parameters in DECLARED.findall(text):
        places = {i for i, one in enumerate(split(parameters)) if re.fullmatch(r"(?:const )?bool(?: \w+)?", one)}
        if places:
            yield function or pointer, places


def calls(text, function):
    """(line, arguments) of each call, through a struct's member too."""
    for found in re.finditer(rf"\b{function}\s*\(", text):
        depth, end = 1, found.end()
        while depth and end < len(text):
            depth += (text[end] == "(") - (text[end] == ")")
            end += 1
        yield text.count("\n", 0, found.start()) + 1, split(text[found.end():end - 1])


def check(texts):
    """texts: name -> source. A static function is its file's, the others are everybody's."""
    everybody = {}
    for text in texts.values():
        for function, places in takers(text):
            if not re.search(rf"^static\b[^;{{}}()]*\b{function}\s*\(", text, re.M):
                everybody.setdefault(function, set()).update(places)
    for name, text in sorted(texts.items()):
        for function, places in sorted({**everybody, **dict(takers(text))}.items()):
            for line, arguments in calls(text, function) if function not in VALUES else ():
                for said in sorted(arguments[i] for i in places if i < len(arguments) and arguments[i] in ("true", "false")):
                    yield f"{name}:{line}: {function}() is told {said}, which does not say what is asked: make it two functions, or an enum"


def sources(root):
    for top in FOLDERS:
        for where, _, names in os.walk(os.path.join(root, top)):
            for name in sorted(names):
                if name.endswith((".c", ".h")):
                    path = os.path.join(where, name)
                    with open(path, encoding="utf-8") as file:
                        yield os.path.relpath(path, root), plain(file.read())


def self_check():
    own = "static int a(int b,\n\t     bool c)\n{\n}\n"
    for faults, *texts in ((1, own + "x = a(f(1, 2),\n\ttrue);"), (0, own + "x = a(1, one == two);"), (0, own + 'x = a(1, is("true"));'),
                           (0, own + "/* a(1, true) */"), (1, "COW_MUST_CHECK int cow_a(bool);", "b = cow_a(false) + 1;"),
                           (1, "struct s {\n\tint (*drain)(int loop, bool wait);\n};", "s->drain(1, true);"), (0, own, "a(1, true);"),
                           (1, "static void a(int b, bool c) COW_REQUIRES(d->lock);\nvoid e(void)\n{\n\ta(1, true);\n}\n")):
        said = list(check({f"{i}.c": plain(text) for i, text in enumerate(texts)}))
        if len(said) != faults:
            yield f"{texts}: {faults} faults expected: {said}"


def main():
    said, texts = list(self_check()), dict(sources(sys.argv[1]))
    said += check(texts)
    known = {function for text in texts.values() for function, _ in takers(text)}
    if len(known) < 15:
        said.append(f"only {len(known)} functions that take a bool were found: the check does not see the sources")
    said += [f"no function {name}() takes a bool any more: drop its exception" for name in sorted(set(VALUES) - known)]
    print("\n".join(said) or f"booleans: nothing to say of {len(known)} functions")
    sys.exit(1 if said else 0)


main()
