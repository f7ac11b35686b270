#!/usr/bin/env python3
"""matrix.py: rows of options such that every pair of values that can stand together does so in some row. One row a line, as
shell assignments. The same rows every time."""
import itertools
import random

VALUES = {
    "cluster": ["512", "4096", "65536", "2097152"],
    "bits": ["1", "16", "64"],
    "compat": ["1.1", "0.10"],
    "extended": ["off", "on"],
    "lazy": ["off", "on"],
    "compression": ["zlib", "zstd"],
    "preallocation": ["off", "metadata", "falloc", "full"],
    "encryption": ["none", "luks", "aes"],
    "data": ["none", "plain", "raw"],
    "backing": ["none", "raw", "larger", "smaller"],
    "attach": ["plain", "compress", "unmap", "on"],
}
NAMES = list(VALUES)
CANDIDATES = 40


def allowed(row):
    """False if what is chosen so far cannot stand together; what is not chosen yet may still be anything."""
    def clash(one, *others):
        return all(name in row and (row[name] in values) for name, values in (one,) + others)

    return not (
        clash(("compat", ["0.10"]), ("bits", ["1", "64"])) or clash(("compat", ["0.10"]), ("extended", ["on"])) or
        clash(("compat", ["0.10"]), ("lazy", ["on"])) or clash(("compat", ["0.10"]), ("compression", ["zstd"])) or
        clash(("compat", ["0.10"]), ("data", ["plain", "raw"])) or
        clash(("extended", ["on"]), ("cluster", ["512", "4096"])) or
        clash(("data", ["raw"]), ("backing", ["raw", "larger", "smaller"])) or
        clash(("data", ["raw"]), ("encryption", ["luks", "aes"])) or
        clash(("preallocation", ["metadata", "falloc", "full"]), ("backing", ["raw", "larger", "smaller"]),
              ("extended", ["off"])) or
        clash(("attach", ["compress"]), ("encryption", ["luks", "aes"])) or
        clash(("attach", ["compress"]), ("data", ["plain", "raw"])))


def complete(row, dice):
    """The row with values for all names, or None."""
    rest = [name for name in NAMES if name not in row]
    if not allowed(row) or not rest:
        return dict(row) if allowed(row) else None
    name = dice.choice(rest)
    for value in dice.sample(VALUES[name], len(VALUES[name])):
        found = complete({**row, name: value}, dice)
        if found:
            return found
    return None


def pairs_of(row):
    return {((a, row[a]), (b, row[b])) for a, b in itertools.combinations(NAMES, 2)}


def rows():
    dice = random.Random(4711)
    wanted = [((a, x), (b, y)) for a, b in itertools.combinations(NAMES, 2) for x in VALUES[a] for y in VALUES[b]]
    left = {pair for pair in wanted if complete(dict(pair), dice)}
    for pair in wanted:
        if pair in left:
            best = max((complete(dict(pair), dice) for _ in range(CANDIDATES)), key=lambda row: len(pairs_of(row) & left))
            left -= pairs_of(best)
            yield best


for found in rows():
    print(" ".join(f"{name}={found[name]}" for name in NAMES))
