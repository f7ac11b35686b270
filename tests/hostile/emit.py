#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""emit.py DIR: the table's broken images for a test on a device: DIR/NUMBER/broken with the files that it refers to, and DIR/list.

A line of the list, separated by tabs: NUMBER, "refused" | "fails" | "reads", the message, the row's name. Refused: attach says the message.
Fails: it is attached, reading all of it meets the flaw, and the message is logged. Reads: all of it can be read.
"""
import os
import shutil
import sys

from images import Image, make_all
import rows

BESIDE = {"over": "plain", "outside": "outside.raw"}  # what a base refers to


def expectation(name, info, opened):
    if opened is not None:
        return "refused", info if opened == rows.SAME else opened
    return ("fails", rows.MET_LATER[name]) if name in rows.MET_LATER else ("reads", "-")


def main():
    folder = os.path.abspath(sys.argv[1])
    bases = os.path.join(folder, "bases")
    os.mkdir(bases)
    bases = make_all(bases)
    with open(os.path.join(folder, "list"), "w") as listing:
        for number, (name, base, source, info, _, opened) in enumerate(rows.TABLE):
            row = os.path.join(folder, str(number))
            os.mkdir(row)
            if base in BESIDE:
                shutil.copy(BESIDE[base], row)
            shutil.copy(bases[base], os.path.join(row, "broken"))
            image = Image(os.path.join(row, "broken"))
            rows.compile_row(source)(image)
            image.save()
            print(number, *expectation(name, info, opened), name, sep="\t", file=listing)


main()
