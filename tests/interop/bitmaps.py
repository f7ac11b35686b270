#!/usr/bin/env python3
"""bitmaps.py exact DUMP SIZE GRANULARITY BEFORE WRITTEN: DUMP's extents are those of BEFORE and what WRITTEN says, in whole granules.
bitmaps.py covers DUMP SIZE BEFORE AFTER: two raw files differ nowhere but in DUMP's extents.
bitmaps.py map FILE: the dirty extents in `qemu-img map --output=json` of an NBD export with its x-dirty-bitmap, as lines.
bitmaps.py list OURS THEIRS: `cowblk bitmap list --json` says what `qemu-img info --output=json` says.
Extents are lines "OFFSET LENGTH"; so is WRITTEN."""
import json
import sys


def extents(name):
    with open(name, encoding="ascii") as file:
        return [tuple(map(int, line.split())) for line in file]


def granules(pairs, size, unit):
    found = set()
    for offset, length in pairs:
        if length:
            found.update(range(offset // unit, (min(offset + length, size) - 1) // unit + 1))
    return found


def exact(dump, size, unit, before, written):
    size, unit, pairs = int(size), int(unit), extents(dump)
    assert all(o % unit == 0 and ((o + n) % unit == 0 or o + n == size) for o, n in pairs), "extents are no whole granules"
    assert all(a[0] + a[1] < b[0] for a, b in zip(pairs, pairs[1:])), "extents are not apart, or not in order"
    want = granules(extents(before) + extents(written), size, unit)
    have = granules(pairs, size, unit)
    assert have == want, f"{len(want - have)} granules are missing, {len(have - want)} too many: {sorted(want ^ have)[:8]}"


def covers(dump, size, before, after):
    dirty = granules(extents(dump), int(size), 512)
    with open(before, "rb") as a, open(after, "rb") as b:
        for sector in range(int(size) // 512):
            assert a.read(512) == b.read(512) or sector in dirty, f"sector {sector} has changed and is not dirty"


def show_map(name):
    runs = []
    with open(name, encoding="ascii") as file:
        for one in json.load(file):
            if one["data"]:
                continue
            if runs and sum(runs[-1]) == one["start"]:
                runs[-1] = (runs[-1][0], runs[-1][1] + one["length"])
            else:
                runs.append((one["start"], one["length"]))
    print("".join(f"{offset} {length}\n" for offset, length in runs), end="")


def state(flags):
    return "inconsistent" if "in-use" in flags else "enabled" if "auto" in flags else "disabled"


def same_list(ours, theirs):
    with open(ours, encoding="utf-8") as a, open(theirs, encoding="utf-8") as b:
        have, want = json.load(a), json.load(b)["format-specific"]["data"].get("bitmaps", [])
    want = [{"name": one["name"], "granularity": one["granularity"], "state": state(one["flags"])} for one in want]
    assert have == want, (have, want)


def main():
    run = {"exact": exact, "covers": covers, "map": show_map, "list": same_list}[sys.argv[1]]
    try:
        run(*sys.argv[2:])
    except AssertionError as error:
        sys.exit(f"bitmaps.py {sys.argv[1]}: {error}")


main()
