#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Images broken at random: our check and qemu-img's must agree, and what we repaired must be clean for both.

Where they may differ, and why:
  - clusters with two owners of different kinds: QEMU counts references only and is content when the refcounts are right;
  - a COPIED flag on an entry without a cluster: QEMU ignores it;
  - subcluster bits of entries that QEMU does not look at;
  - a snapshot table cut short by the file's end, which QEMU reads as ending in zeros.
What may not be: QEMU finds an error and we do not; a crash, a hang; a change by a check without repair; an image that we call
repaired and QEMU does not.

against_qemu.py [--seed N] [--count N]
"""
import argparse
import os
import random
import shutil
import subprocess

from images import COMPRESSED, COPIED, OFFSET_MASK, Image, make_all, run_with_qemu, scratch

COWBLK = os.environ["COWBLK"]
BASES = ("plain", "small", "wide", "old", "snap", "over", "comp", "subs", "maps", "outside")
STRICTER = (" is used as ", "snapshot table entry", "COPIED flag without a cluster", "subclusters", "reserved bits set")


def run(*command):
    p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    return p.returncode, p.stdout.decode(errors="replace")


# ---- what breaks an image ----

def tables(image):
    entries = [image.get(image.l1 + 8 * i) & OFFSET_MASK for i in range(image.header("l1_size"))]
    return [off for off in entries if 0 < off < len(image.bytes)]


def some_cluster(image, dice):
    return dice.randrange(max(1, len(image.bytes) // image.cluster)) * image.cluster


def used_entry(image, dice, step):
    """Offset of an L2 entry, one in use if it is found quickly."""
    table = dice.choice(tables(image) or [image.l1])
    for _ in range(50):
        at = table + dice.randrange(image.cluster // step) * step
        if image.get(at):
            break
    return at


def break_refcount(image, dice):
    at = image.refblock + dice.randrange(min(image.cluster, 4 + len(image.bytes) // image.cluster * 8))
    image.put(at, dice.choice([0, 1, 2, 0xFF, dice.randrange(256)]), 1)


def break_refblock(image, dice):
    image.bytes[image.refblock:image.refblock + image.cluster] = bytes(image.cluster)


def break_reftable(image, dice):
    at = image.reftable + 8 * dice.randrange(4)
    image.put(at, dice.choice([0, image.get(at) ^ 1 << dice.randrange(64), some_cluster(image, dice), image.refblock]))


def break_l1(image, dice):
    at = image.l1 + 8 * dice.randrange(max(1, image.header("l1_size")))
    old = image.get(at)
    image.put(at, dice.choice([0, old ^ 1 << dice.randrange(64), old ^ COPIED if old else 0, some_cluster(image, dice)]))


def break_l2(image, dice):
    at = used_entry(image, dice, 16 if image.header("incompatible_features") & 16 else 8)
    old = image.get(at)
    image.put(at, dice.choice([0, 1, old ^ 1 << dice.randrange(64), old ^ COPIED, dice.getrandbits(64),
                               some_cluster(image, dice) | COPIED, some_cluster(image, dice),
                               COMPRESSED | some_cluster(image, dice) + dice.randrange(512)]))


def break_snapshots(image, dice):
    at = image.header("snapshots_offset") + dice.randrange(150)
    if image.header("snapshots_offset") and at < len(image.bytes):
        image.bytes[at] ^= 1 << dice.randrange(8)


def break_header(image, dice):
    field = dice.choice(["refcount_table_offset", "refcount_table_clusters", "nb_snapshots", "snapshots_offset"])
    image.set_header(field, dice.choice([0, 1, some_cluster(image, dice), image.header(field) + image.cluster]))


def break_end(image, dice):
    if dice.random() < 0.5:
        image.bytes += bytes(dice.randrange(3 * image.cluster))
    else:
        del image.bytes[-dice.randrange(1, 2 * image.cluster):]


BREAKERS = (break_refcount, break_refblock, break_reftable, break_l1, break_l2, break_l2, break_l2, break_snapshots,
            break_header, break_end)


# ---- comparing ----

def compare(path, tally):
    """None, or what is wrong."""
    image = Image(path)
    before = bytes(image.bytes)
    ours, text = run(COWBLK, "check", path)
    theirs, their_text = run("qemu-img", "check", "-f", "qcow2", path)
    if ours not in (0, 1, 2, 3, 63):
        return f"check ended with {ours}: {text[-500:]}"
    if bytes(Image(path).bytes) != before:
        return "check without repair changed the image"
    if ours == theirs:
        tally["agree"] += 1
    elif ours == 2 and theirs in (0, 3) and any(word in text for word in STRICTER):
        tally["stricter"] += 1
    elif ours in (1, 2, 63) and theirs in (1, 2):
        tally["agree that it is bad"] += 1
    else:
        return f"we say {ours}, QEMU says {theirs}\n{text[:400]}\n{their_text[:400]}"
    return repair(path, ours, text, tally)


def repair(path, found, findings, tally):
    if found not in (2, 3):
        return None
    if found == 3:
        status, text = run(COWBLK, "check", "--repair", "leaks", path)
        if status or run("qemu-img", "check", "-f", "qcow2", path)[0]:
            return f"leaks are not repaired: {status} {text[:400]}"
    status, text = run(COWBLK, "check", "--repair", "all", path)
    again, after = run(COWBLK, "check", path)
    theirs, their_text = run("qemu-img", "check", "-f", "qcow2", path)
    if status not in (0, 2, 3) or again != status:
        return f"repair says {status}, the check after it {again}\n{text[:400]}\n{after[:400]}"
    if status == 0 and theirs:
        return f"repaired, but QEMU says {theirs}: {their_text[:400]}\nfound before: {findings[:400]}"
    tally["repaired" if status == 0 else "beyond repair"] += 1
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=150)
    arguments = parser.parse_args()
    tally = {key: 0 for key in ("agree", "stricter", "agree that it is bad", "repaired", "beyond repair")}
    failures = 0
    with scratch() as folder:
        bases = make_all(folder)
        path = os.path.join(folder, "broken")
        for seed in range(arguments.seed, arguments.seed + arguments.count):
            dice = random.Random(seed)
            base = dice.choice(BASES)
            shutil.copy(bases[base], path)
            image = Image(path)
            breakers = dice.choices(BREAKERS, k=dice.choice([1, 1, 1, 2, 4]))
            for breaker in breakers:
                if 9 <= image.header("cluster_bits") <= 21 and len(image.bytes) > image.cluster:
                    breaker(image, dice)
            image.save()
            wrong = compare(path, tally)
            if wrong:
                failures += 1
                print(f"seed {seed} ({base}: {', '.join(b.__name__ for b in breakers)}): {wrong}")
    print(", ".join(f"{key}: {value}" for key, value in tally.items()) + f", failures: {failures}")
    return 1 if failures else 0


if __name__ == "__main__":
    run_with_qemu(main)
