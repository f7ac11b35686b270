#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Broken images, one field each: what info, check and opening for writing say, word for word, and that the image is unchanged.

rows.py holds the table. `table.py --print` prints it anew with what is said now; read every line before taking it over.
"""
import hashlib
import os
import shutil
import subprocess
import sys

from images import Image, make_all, run_with_qemu, scratch
import rows

COWBLK, COW_IO = os.environ["COWBLK"], os.environ["COW_IO"]


def run(*command):
    p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60)
    return p.returncode, p.stdout.decode(errors="replace").strip()


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def strip(text, path):
    """The message without the program's name and the path."""
    for prefix in ("cowblk: ", "cow_io: ", "open: ", path + ": ", "cannot open: "):
        if text.startswith(prefix):
            text = text[len(prefix):]
    return text.replace(os.path.dirname(path) + "/", "")


def say(path):
    """What info, check and opening for writing say of an image; each must leave it as it is."""
    status, text = run(COWBLK, "info", path)
    info = strip(text, path) if status else None
    status, text = run(COWBLK, "check", path)
    check = (status, strip(text.split("\n")[0], path))
    before = digest(path)
    status, text = run(COW_IO, path, "size")
    opened = strip(text, path) if status else None
    if opened is None:
        return info, check, None, True
    return info, check, opened, digest(path) == before


def look(base, break_it, path):
    shutil.copy(base, path)
    image = Image(path)
    break_it(image)
    image.save()
    before = digest(path)
    said = say(path)
    if said[2] is not None and digest(path) != before:
        return said[:3] + (False,)
    return said


def print_rows(bases, path):
    for name, base, source, *_ in rows.TABLE:
        info, check, opened, unchanged = look(bases[base], rows.compile_row(source), path)
        same = (lambda text: "SAME" if text == info and text is not None else repr(text))
        checked = f"({check[0]}, {same(check[1])})"
        print(f"    ({name!r}, {base!r}, {source!r},\n     {info!r},\n     {checked}, {same(opened)}),"
              + ("" if unchanged else "  # CHANGED"))


def main():
    failures = 0
    with scratch() as folder:
        bases = make_all(folder)
        path = os.path.join(folder, "broken")
        if sys.argv[1:] == ["--print"]:
            print_rows(bases, path)
            return 0
        for name, base in bases.items():
            if run(COWBLK, "check", base)[0]:
                print(f"{name}: a sound image is not clean: {run(COWBLK, 'check', base)[1]}")
                failures += 1
        for name, base, source, info, check, opened in rows.TABLE:
            said = look(bases[base], rows.compile_row(source), path)
            wanted = (info, (check[0], info if check[1] == rows.SAME else check[1]),
                      info if opened == rows.SAME else opened, True)
            if said != wanted:
                failures += 1
                print(f"{name}:\n  wanted {wanted}\n  got    {said}")
    print(f"{len(rows.TABLE)} broken images, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    run_with_qemu(main)
