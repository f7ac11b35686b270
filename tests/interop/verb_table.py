"""What the script `verbs` does to a world of images: each verb with what must come of it."""
import hashlib
import json
import os
import re
import subprocess
import time

from chains import COWBLK, Failure, Image, padded, run

# What cowblk alone refuses, and why: docs/QEMU-IMG.md.
OURS_REFUSES = [
    ("commit", "dirty bitmaps|would show behind|internal snapshots|external data file|has a data file"),
    ("rebase", "internal snapshots"),
    ("resize", "external data file|dirty bitmaps|would show|version 2 cannot say|multiple of 512"),
    ("amend", "dirty bitmaps|zero clusters|snapshot"),
]
# What QEMU alone refuses.
QEMU_REFUSES = [("resize", "v2 image which has snapshots")]  # to the size that it has


def listed(table, verb, text):
    return any(verb == one and re.search(pattern, text) for one, pattern in table)


class Step:
    """One verb: ours in the world, QEMU's in a copy of it beforehand."""

    def __init__(self, world, tally):
        self.w, self.tally, self.rng = world, tally, world.rng
        self.before = world.fingerprints()
        self.only_named = False  # another backing file by its name: no write, so no bitmap knows of it
        self.copy = world.dir + ".theirs"

    def both(self, verb, ours, theirs=None):
        """Runs both. Returns whether ours succeeded; self.twin: whether QEMU's did, too."""
        self.w.log.append("    cowblk " + " ".join(ours))
        self.w.copy_to(self.copy)
        status, out, err = run([COWBLK, *ours], self.w.dir)
        self.out, self.err, self.twin = out, err, False
        if status not in (0, 1, 2) or (status and (not err.strip() or len(err.strip().splitlines()) > 1)):
            raise Failure(f"status {status}: {err.strip() or 'not a word'}")
        other, text = None, ""
        if theirs is not None:
            self.w.log[-1] += "    # qemu-img " + " ".join(theirs)
            other, text, wrong = run(["qemu-img", *theirs], self.copy)
            text = (wrong or text).strip()
        self.twin = status == 0 and other == 0
        how = "done" if status == 0 else "refused: " + re.sub(r"\S*\d\S*", "*", err.strip())[:110]
        if other is not None and (status == 0) != (other == 0):
            how = ("QEMU alone refuses: " + re.sub(r"\d+", "*", text)[:150]) if status == 0 else "we alone refuse: " + how[9:]
            if not listed(QEMU_REFUSES if status == 0 else OURS_REFUSES, verb, text if status == 0 else err):
                self.tally[verb, "UNLISTED " + how] += 1
                raise Failure(f"{how} ({(text if status == 0 else err).strip()})")
        self.tally[verb, how] += 1
        if status:
            self.w.log[-1] += "\n        " + err.strip()
            self.settle({i.name for i in self.w.images.values() if i.name in ours})  # opened, it may have its bitmaps stored again
        return status == 0

    def settle(self, writable=(), expect=None, loose=(), gone=()):
        """Nothing but `writable` has changed, images show what they must (what they did, where `expect` and `loose` say nothing),
        of the loose ones what QEMU's verb has made of them."""
        w, now, expect = self.w, self.w.fingerprints(), expect or {}
        changed = {n for n in self.before.keys() | now.keys() if self.before.get(n) != now.get(n)}
        if changed - set(writable):
            raise Failure(f"changed: {' '.join(sorted(changed - set(writable)))}")
        for name in w.images:
            if not changed & set().union(*[i.files() for i in w.chain(name)]) and name not in expect and name not in loose:
                continue
            old, snaps = expect.get(name, w.content.get(name)), w.snapshots.get(name)
            was, recording = w.content.get(name), w.dirty.get(name, {})
            w.look(name)
            if name in changed and was is not None and not self.only_named:
                recorded(w, name, was, recording)
            new = w.content[name]
            if name in loose:
                old = w.read(name, self.copy) if self.twin else new
            if new != old:
                raise Failure(f"{name} shows something else {difference(new, old)}")
            if name not in loose and name not in gone and w.snapshots[name] != snaps:
                raise Failure(f"{name}: snapshots changed")
            agree(w, name)


def recorded(w, name, was, recording):
    """What has changed is dirty in each bitmap that recorded it."""
    new = w.content[name]
    for bitmap_, _ in recording.items():
        if bitmap_ not in w.dirty[name]:
            continue
        seen = bytearray(was)
        for at, n in w.dirty[name][bitmap_]:
            seen[at:at + n] = new[at:at + n]
        if len(seen) == len(new) and seen != new:
            raise Failure(f"{name}: bitmap {bitmap_} has not recorded {difference(seen, new)}")


def difference(new, old):
    if len(new) != len(old):
        return f"({len(new)} bytes, not {len(old)})"
    at = next(i for i, (a, b) in enumerate(zip(new, old)) if a != b)
    return f"(at {at}: {new[at]}, not {old[at]})"


def agree(w, name):
    """Both read it, find it clean, and map it alike."""
    ours = w.read_ours(name)
    if ours != w.content[name]:
        raise Failure(f"{name}: the engine reads something else than QEMU {difference(ours, w.content[name])}")
    if w.images[name].fmt == "qcow2":
        status, out, err = w.qemu("check", name)
        if status:
            raise Failure(f"{name}: qemu-img check: status {status}: {(out + err)[:600]}")
        status, out, err = w.cowblk("check", name)
        if status:
            raise Failure(f"{name}: check: status {status}: {(out + err)[:600]}")
    theirs = w.qemu("map", name, "--output=json")
    ours = w.cowblk("map", "--output=json", *w.ours(name))
    if ours[0] or theirs[0] or plain_map(ours[1], w.content[name]) != plain_map(theirs[1], w.content[name]):
        raise Failure(f"{name}: map differs:\n{ours[1] or ours[2]}{theirs[1] or theirs[2]}")


def plain_map(text, content):
    """Without what a tool may find out or not: that what is stored reads as zeros, where that is true."""
    runs = []
    for run_ in json.loads(text):
        start, n = run_["start"], run_["length"]
        if run_["zero"] and any(content[start:start + n]):
            raise Failure(f"map: no zeros: {run_}")
        if run_["data"]:
            run_["zero"] = "?"
        last = runs[-1] if runs else None
        goes_on = last and last["start"] + last["length"] == start and last.get("offset", 0) + last["length"] == run_.get("offset", 0)
        if goes_on and {**last, "start": 0, "length": 0, "offset": 0} == {**run_, "start": 0, "length": 0, "offset": 0}:
            last["length"] += n
        else:
            runs.append(run_)
    return runs


def same_info(w, name, s):
    ours, theirs = w.info(name), w.info(name, s.copy)
    if ours != theirs:
        raise Failure(f"{name}: info differs: " + "; ".join(f"{k}: {ours.get(k)}, {theirs.get(k)}" for k in ours.keys() | theirs.keys()
                                                           if ours.get(k) != theirs.get(k)))


def killed(w, tally, name, args):
    """The same in a copy, killed somewhere: the image shows what it did, and has leaks at worst; then it can be done again."""
    if w.rng.random() > 0.3:
        return
    copy = w.dir + ".killed"
    w.copy_to(copy)
    child = subprocess.Popen([COWBLK, *args], cwd=copy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(w.rng.choice([0.002, 0.005, 0.01, 0.02, 0.04]))
    child.kill()
    done = child.wait() == 0
    for _ in range(200):  # the kernel may take a moment to let the ring's files go, and their locks
        status, out, err = w.qemu("check", name, cwd=copy)
        if "lock" not in err:
            break
        time.sleep(0.02)
    if status not in (0, 3):
        raise Failure(f"{' '.join(args)}: killed: check: status {status}: {(out + err)[:600]}")
    if not done and w.read(name, copy) != w.content[name]:
        raise Failure(f"{' '.join(args)}: killed: {name} shows something else")
    tally["killed", f"{args[0]}: {'too late' if done else 'check ' + str(status)}"] += 1
    if not done:
        status, out, err = run([COWBLK, *args], copy)
        if status not in (0, 1) or w.read(name, copy) != w.content[name]:
            raise Failure(f"{' '.join(args)}: killed, again: status {status}: {err}")


# ---- verbs that change an image ----


def forget(w, name):
    w.images.pop(name)
    w.content.pop(name, None)
    w.snapshots.pop(name, None)


def rebase(w, tally):
    image, s = w.some(), Step(w, tally)
    name, how = image.name, w.rng.random()
    flags = ["--data-root", "."] if image.data else []
    targets = [i for i in w.images if i != name and i not in w.above(name)]
    base = None if how < 0.15 or not targets else w.rng.choice(targets)
    key = ["--key-file", "key"] if w.locked(name) or base and w.locked(base) else []
    words = ["-b", base, "-F", w.images[base].fmt] if base else ["-b", ""]
    if how > 0.9 and image.data != "raw":
        done = s.both("rebase -u", ["rebase", "-q", "-u", *words, name],
                      None if image.encrypted else ["rebase", "-q", "-u", "-f", "qcow2", *words, name])
        if done:
            image.parent, s.only_named = base, True
            if s.twin:
                same_info(w, name, s)
            s.settle(image.files(), loose=[name, *w.above(name)])
        return
    if how > 0.85 and w.above(name):
        base = w.rng.choice(w.above(name) + [name])
        if s.both("rebase in a circle", ["rebase", "-q", *key, *flags, "-b", base, "-F", w.images[base].fmt, name]):
            raise Failure("an image on itself")
        return
    theirs = None if key else ["rebase", "-q", "-f", "qcow2", *words, name]
    if not key:
        killed(w, tally, name, ["rebase", "-q", *flags, *words, name])
    if s.both("rebase", ["rebase", "-q", *key, *flags, *words, name], theirs):
        image.parent = base
        s.settle(image.files())


def commit(w, tally):
    tops = [i for i in w.images.values() if i.parent]
    if not tops:
        return
    image = w.rng.choice(tops)
    s, name, below = Step(w, tally), image.name, [i.name for i in w.chain(image.name)[1:]]
    base = w.rng.choice(below)
    flags = ["-b", base] if base != below[0] or w.rng.random() < 0.3 else []
    keep = ["-d"] if w.rng.random() < 0.3 else []
    root = ["--data-root", "."] if w.images[base].data else []
    args = w.theirs(name)
    theirs = None if w.locked(name) else ["commit", "-q", *args[:-1], *flags, *keep, name]
    show, old = w.content[name], w.content[base]
    if theirs:
        killed(w, tally, name, ["commit", "-q", *root, *flags, *keep, name])
    if not s.both("commit", ["commit", "-q", *w.key(name), *root, *flags, *keep, name], theirs):
        return
    written = w.images[base].files() | (set() if flags or keep else image.files())
    between = below[:below.index(base)]
    loose = {base, *between, *w.above(base)} - {name, *w.above(name)}
    if keep and not flags or flags:  # what is above it is of use no more where snapshots look through
        loose |= set()
    expect = {name: w.content[name]}
    # Larger than before: what it shows behind its old end is zeros, in what is above it, too.
    if s.twin and w.read(base, s.copy)[: len(show)] != show:
        s.twin = False  # QEMU has lost something itself
    s.settle(written, expect, loose, gone=loose | {name})
    if w.content[base] != show + old[len(show):]:
        raise Failure(f"{base} does not show what {name} did {difference(w.content[base], show + old[len(show):])}")


def resize(w, tally):
    image, s = w.some(), Step(w, tally)
    size = w.draw_size(image.cluster) + w.rng.choice([0, 512])
    args = w.theirs(image.name)
    done = s.both("resize", ["resize", "-q", "--shrink", image.name, str(size)],
                  ["resize", "-q", "--shrink", *args, str(size)])
    if done:
        old = w.content[image.name]
        if image.encrypted and len(old) < size:  # what is preallocated decrypts to noise, with QEMU, too
            s.settle(image.files(), {}, [image.name, *w.above(image.name)])
            return
        s.settle(image.files(), {image.name: old[:size] + bytes(max(size - len(old), 0))}, w.above(image.name))


def amend(w, tally):
    image, s = w.some(), Step(w, tally)
    option = w.rng.choice(["compat=1.1", "compat=0.10", "lazy_refcounts=on", "lazy_refcounts=off"])
    args = w.theirs(image.name)
    if s.both("amend", ["amend", "-q", "-o", option, image.name], ["amend", "-q", *args[:-1], "-o", option, args[-1]]):
        s.settle(image.files())
        if s.twin:
            same_info(w, image.name, s)
        image.version = 2 if option == "compat=0.10" else 3 if option == "compat=1.1" else image.version


def compact(w, tally):
    image, s = w.some(), Step(w, tally)
    args = ["compact", "-q", *w.rng.choice([[], [], ["--zeroes"], ["-c"], ["-c"], ["-c", "--zeroes"]]), image.name]
    if not image.encrypted:
        killed(w, tally, image.name, args)
    if s.both("compact", args):
        s.settle(image.files())


def snapshot(w, tally):
    image, s = w.some(), Step(w, tally)
    name, ids = image.name, w.list_snapshots(image.name)
    args = w.theirs(name, spelled=True)
    verb = w.rng.choice("cad") if ids else "c"
    what = "s" + str(len(w.log)) if verb == "c" else w.rng.choice(list(ids))
    called = what if verb == "c" else ids[what]  # by its id QEMU deletes none
    ours, theirs = ["snapshot", "-q", "-" + verb, called, name], ["snapshot", "-q", *args[:-1], "-" + verb, called, args[-1]]
    old = dict(w.snapshots[name])
    if not s.both("snapshot -" + verb, ours, theirs):
        return
    loose = [name, *w.above(name)] if verb == "a" else []
    s.settle(image.files(), loose=loose, gone=[name])
    new = w.snapshots[name]
    if verb == "c":
        (made,) = new.keys() - old.keys()
        if new.pop(made) != hashlib.sha1(w.content[name]).digest():
            raise Failure("the new snapshot shows something else")
        w.look(name)
    elif verb == "d":
        old.pop(what)
    elif old[what] != hashlib.sha1(w.content[name]).digest():
        raise Failure("the snapshot's content is not there")
    if {k: v for k, v in w.snapshots[name].items() if k in old} != old:
        raise Failure("another snapshot changed")
    if s.twin:
        same_info(w, name, s)


def bitmap(w, tally):
    image, s = w.some(), Step(w, tally)
    name = image.name
    told = w.info(name)["format-specific"]["data"].get("bitmaps", [])
    names = [b["name"] for b in told if "in-use" not in b["flags"]]
    verb = w.rng.choice(["add", "add", "remove", "clear", "enable", "disable", "merge"]) if names else "add"
    what = w.rng.choice(names) if verb != "add" and names else "b" + str(w.rng.randrange(20))
    args, tail, more = w.theirs(name, alone=True), [], []
    if verb == "add":
        grain = w.rng.choice([512, 4096, 65536, 1 << 20])
        more, tail = ["-g", str(grain)], ["-g", str(grain)]
    if verb == "merge":
        other = w.rng.choice(names)
        ours, theirs = ["bitmap", "-q", "merge", name, what, other], ["bitmap", "--merge", other, *args, what]
    else:
        ours, theirs = ["bitmap", "-q", verb, *more, name, what], ["bitmap", "--" + verb, *tail, *args, what]
    if not s.both("bitmap " + verb, ours, theirs):
        return
    image.bitmaps = True
    s.settle(image.files())
    if s.twin:
        same_info(w, name, s)
        for one in w.info(name)["format-specific"]["data"].get("bitmaps", []):
            mine = run([COWBLK, "bitmap", "dump", name, one["name"]], w.dir)
            other = run([COWBLK, "bitmap", "dump", name, one["name"]], s.copy)
            if mine != other:
                raise Failure(f"bitmap {one['name']} differs: {mine}, {other}")


def repair(w, tally):
    """After a crash of QEMU's, perhaps."""
    image = w.some()
    name, how = image.name, w.rng.choice(["leaks", "all"])
    if w.leaf(name) and w.rng.random() < 0.7:
        how = "all"  # with lazy refcounts more than leaks may be left
        w.log.append(f"    crash of {name}")
        w.scribble(image, crash=True)
        w.content[name] = w.read(name)
    s = Step(w, tally)
    args = w.theirs(name)
    if s.both("check -r", ["check", "-q", "-r", how, name], ["check", "-q", "-r", how, *args]):
        s.settle(image.files())
        agree(w, name)


def scribble(w, tally):
    image = w.some()
    if not w.leaf(image.name):
        return
    ours = not image.data and w.rng.random() < 0.5
    w.log.append(f"    write to {image.name} {'by the engine' if ours else 'by QEMU'}")
    (w.scribble_ours if ours else w.scribble)(image)
    w.look(image.name)
    agree(w, image.name)
    tally["write", "done"] += 1


# ---- verbs that make one, or only look ----


def convert(w, tally):
    rng = w.rng
    source = w.some(qcow2=False)
    s, name, out = Step(w, tally), source.name, f"c{len(w.log)}"
    target = Image(out, rng.choice(["raw", "qcow2", "qcow2"]))
    ids = w.list_snapshots(name)
    snap = rng.choice(list(ids)) if ids and rng.random() < 0.6 else None
    flags, twin = [], True
    if snap:
        flags += ["-l", f"snapshot.id={snap}"]
    if rng.random() < 0.4:
        flags += ["-S", rng.choice(["0", "4k", "64k", "512"])]
    if rng.random() < 0.4:
        flags += ["-m", str(rng.randrange(1, 17))]
    chain = [i.name for i in w.chain(name)[1:]]
    if target.fmt == "qcow2":
        if chain and rng.random() < 0.5:
            target.parent = rng.choice(chain)
            flags += ["-B", target.parent, "-F", w.images[target.parent].fmt]
            twin = target.parent == chain[0]
        w.images[out] = target
        options = w.options(target)
        if target.version == 3 and rng.random() < 0.15:
            target.encrypted, twin = True, False
            options += ",encrypt.format=luks,encrypt.iter-time=10"
        flags += ["-o", options]
        if not target.data and not target.encrypted and "preallocation" not in target.options and rng.random() < 0.3:
            flags.append("-c")
        if source.bitmaps and target.version == 3 and not snap and rng.random() < 0.7:
            flags += ["--bitmaps", "--skip-broken-bitmaps"]
            target.bitmaps = True
    w.images[out] = target
    args = w.theirs(name)
    key = ["--key-file", "key"] if w.locked(name) or w.locked(out) else []
    twin = twin and not (target.parent and w.locked(target.parent))
    theirs = ["convert", "-q", *args[:-1], "-O", target.fmt, *flags, args[-1], out] if twin else None
    done = s.both("convert", ["convert", "-q", "-f", source.fmt, "-O", target.fmt, *key, *flags, name, out], theirs)
    if not done:
        forget(w, out)
        return
    want = padded(w.content[name])
    if snap:
        want = w.read_snapshot(name, snap)
    got = w.read(out)
    if padded(got) != padded(want):
        raise Failure(f"{out} shows something else {difference(got, want)}")
    if target.bitmaps and s.twin:
        same_info(w, out, s)
        if w.dirty_parts(out).keys() == w.dirty[name].keys() and w.dirty_parts(out) != w.dirty[name]:
            raise Failure(f"{out}: other bitmaps: {w.dirty_parts(out)}, {w.dirty[name]}")
    finish_new(w, s, out, target)


def finish_new(w, s, out, target):
    s.settle(target.files(), expect={out: w.read(out)}, gone=[out])
    if len(w.images) > 7 or w.rng.random() < 0.6:
        for file in target.files():
            os.unlink(w.path(file))
        forget(w, out)


def fill(w, tally):
    """convert -n: onto an image that is there."""
    rng = w.rng
    source = w.some(qcow2=False)
    rest = [i for i in w.images.values() if i.name not in [c.name for c in w.chain(source.name)]]
    if not rest:
        return
    target = rng.choice(rest)
    if source.name in w.above(target.name):
        return
    s = Step(w, tally)
    args = w.theirs(source.name)
    root = ["--data-root", "."] if target.data else []
    key = ["--key-file", "key"] if w.locked(source.name) or w.locked(target.name) else []
    theirs = None if w.locked(target.name) else ["convert", "-q", "-n", *args[:-1], "-O", target.fmt, args[-1], target.name]
    old, new = w.content[target.name], padded(w.content[source.name])
    done = s.both("convert -n", ["convert", "-q", "-n", *root, *key, "-f", source.fmt, "-O", target.fmt, source.name, target.name],
                  theirs)
    if not done:
        return
    loose = [target.name, *w.above(target.name)]
    s.twin = s.twin and target.fmt == "qcow2"
    s.settle(target.files(), loose=loose)
    got = w.content[target.name]
    if got[: len(new)] != new:
        raise Failure(f"{target.name} shows something else {difference(got[:len(new)], new)}")
    if got[len(new):] not in (old[len(new):], bytes(len(got) - len(new))):
        raise Failure(f"{target.name}: what lies behind is neither what it was nor zeros")


def compare(w, tally):
    a, b = w.some(qcow2=False), w.some(qcow2=False)
    if w.locked(a.name) or w.locked(b.name):
        return
    strict = ["-s"] if w.rng.random() < 0.4 else []
    words = ["compare", *strict, "-f", a.fmt, "-F", b.fmt, a.name, b.name]
    w.log.append("    " + " ".join(words))
    ours, theirs = run([COWBLK, *words], w.dir), run(["qemu-img", *words], w.dir)
    same = ours[0] == theirs[0] and (strict or ours[1] == theirs[1])
    tally["compare", f"{'-s ' if strict else ''}status {ours[0]}" + ("" if same else " DIFFERS")] += 1
    if not same:
        raise Failure(f"ours {ours}, QEMU's {theirs}")


def measure(w, tally):
    image = w.some(qcow2=False)
    copy = Image("measured")
    w.options(copy, data=False)
    words = ["-O", "raw"] if w.rng.random() < 0.2 else ["-O", "qcow2", "-o", copy.options]
    ids = w.list_snapshots(image.name)
    if ids and w.rng.random() < 0.5:
        words += ["-l", w.rng.choice(list(ids))]
    args = w.theirs(image.name)
    theirs = run(["qemu-img", "measure", "--output=json", *args[:-1], *words, args[-1]], w.dir)
    ours = w.cowblk("measure", "--output=json", *words, *w.ours(image.name))
    w.log.append("    measure " + " ".join(words + [image.name]))
    tally["measure", f"status {ours[0]}"] += 1
    if ours[0] or theirs[0]:
        raise Failure(f"ours {ours}, QEMU's {theirs}")
    mine, other = json.loads(ours[1]), json.loads(theirs[1])
    if mine["required"] < other["required"]:  # clusters that are the host's holes were not taken for zeros
        tally["measure", "less than QEMU"] += 1
        mine["required"] = other["required"]
    if mine != other:
        raise Failure(f"ours {ours}, QEMU's {theirs}")


VERBS = [rebase] * 5 + [commit] * 5 + [resize, resize, amend, amend, compact, compact, snapshot, snapshot, bitmap, bitmap] + \
    [repair, scribble, scribble] + [convert] * 4 + [fill, fill, compare, measure]


def step(w, tally):
    w.rng.choice(VERBS)(w, tally)
    w.before = None
