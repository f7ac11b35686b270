# SPDX-License-Identifier: MIT
"""Host requests for 256 random guest requests and one FLUSH: what does not depend on the machine.

cowblk's engine is counted by bench/count.c before the system calls; QEMU by strace of qemu-io. Both from the opened to the
closed image. For QEMU, opening is subtracted: a run without requests and without FLUSH, which only reads.
"""

import json
import os
import random
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

MIB = 1 << 20
DISK_BYTES = 256 * MIB
CLUSTER_BYTES = 65536
NR_REQUESTS = 256
DEPTHS = (1, 32)
FIELDS = ("writes", "flushes", "bytes_written", "reads", "punches")


@dataclass(frozen=True)
class Case:
    name: str
    title: str
    request: str = "write"
    length_bytes: int = 4096


CASES = [
    Case("plain", "4 KiB write, empty image"),
    Case("preallocated", "4 KiB write, preallocated"),
    Case("snapshot", "4 KiB write, after a snapshot"),
    Case("compressed", "4 KiB write, over compressed"),
    Case("overlay", "4 KiB write, over a backing file"),
    Case("discard", "64 KiB discard", "discard", CLUSTER_BYTES),
]


def run_all(build, out):
    """List of one dictionary for each case, depth and program; with 'error' where it could not be counted, 'refused'
    where the program says that it does not do such images."""
    counter = os.path.join(build, "bench", "bench-count")
    programs = {"cowblk": lambda *args: count_cowblk(counter, *args), "qemu": count_qemu}
    counts = []
    with tempfile.TemporaryDirectory(prefix="count-", dir=out) as directory:
        for case in CASES:
            pristine = prepare(case, directory)
            for depth in DEPTHS:
                counts += [count_one(case, depth, name, how, pristine) for name, how in programs.items()]
            os.unlink(pristine)
    return counts


def count_one(case, depth, name, how, pristine):
    entry = {"case": case.name, "title": case.title, "depth": depth, "program": name}
    try:
        entry.update(how(case, depth, pristine))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        words = str(getattr(error, "stderr", None) or error).strip()[-300:]
        entry["refused" if "not supported" in words else "error"] = words
    return entry


# ---- images ----

def prepare(case, directory):
    """The image before the requests; overlay's backing file stands beside it."""
    path = os.path.join(directory, f"{case.name}.qcow2")
    raw = os.path.join(directory, "raw")
    if not os.path.exists(raw):
        with open(raw, "wb") as file:
            for _ in range(DISK_BYTES // MIB):
                file.write((os.urandom(64) + bytes(192)) * (MIB // 256))
    if case.name == "plain":
        qemu_img("create", "-f", "qcow2", path, str(DISK_BYTES))
    elif case.name == "overlay":
        qemu_img("create", "-f", "qcow2", "-b", raw, "-F", "raw", path)
    else:
        flags = ["-c"] if case.name == "compressed" else []
        qemu_img("convert", *flags, "-f", "raw", "-O", "qcow2", raw, path)
    if case.name == "snapshot":
        qemu_img("snapshot", "-c", "bench", path)
    return path


def qemu_img(command, *args):
    quiet = ["-q"] if command != "convert" else []
    subprocess.run(["qemu-img", command, *quiet, *args], check=True, capture_output=True, text=True)


def offsets(case):
    """One in each of 256 clusters, the same for all."""
    rng = random.Random(1)
    clusters = rng.sample(range(DISK_BYTES // CLUSTER_BYTES), NR_REQUESTS)
    steps = CLUSTER_BYTES // case.length_bytes
    return [cluster * CLUSTER_BYTES + rng.randrange(steps) * case.length_bytes for cluster in clusters]


class Scratch:
    """A copy to be used up, beside the original (a relative backing name stays right)."""

    def __init__(self, pristine):
        self.path = pristine + ".run"
        self.pristine = pristine

    def __enter__(self):
        shutil.copyfile(self.pristine, self.path)
        return self.path

    def __exit__(self, *unused):
        os.unlink(self.path)


def check(path):
    subprocess.run(["qemu-img", "check", "-q", path], check=True, capture_output=True, text=True)


# ---- cowblk ----

def count_cowblk(counter, case, depth, pristine):
    with Scratch(pristine) as path:
        done = subprocess.run([counter, path, case.request, str(case.length_bytes), str(depth)], check=True,
                              input="\n".join(map(str, offsets(case))), capture_output=True, text=True, timeout=120)
        check(path)
        counts = json.loads(done.stdout)
    return {**counts["at_close"], "at_flush": counts["at_flush"]}


# ---- QEMU ----

CALLS = {"pwrite64": "writes", "pwritev": "writes", "pwritev2": "writes", "write": "writes", "pread64": "reads",
         "preadv": "reads", "preadv2": "reads", "fdatasync": "flushes", "fsync": "flushes", "fallocate": "punches"}


def count_qemu(case, depth, pristine):
    full, base = (run_qemu(case, depth, pristine, where) for where in (offsets(case), []))
    return {field: full[field] - base[field] for field in FIELDS}


def run_qemu(case, depth, pristine, where):
    with Scratch(pristine) as path, tempfile.NamedTemporaryFile("r", dir="/dev/shm") as trace:
        calls = ",".join(call for call in CALLS if call != "write")
        subprocess.run(["strace", "-f", "-qq", "-o", trace.name, "-e", f"trace={calls}",
                        "qemu-io", "-f", "qcow2", "-t", "none", "-i", "threads", "-d", "unmap",
                        *qemu_io_commands(case, depth, where), path],
                       check=True, capture_output=True, text=True, timeout=300)
        check(path)
        return parse_trace(trace)


def qemu_io_commands(case, depth, where):
    verb = {"write": "aio_write -q -P 17" if depth > 1 else "write -q -P 17", "discard": "discard -q"}[case.request]
    commands = []
    for nr, offset in enumerate(where, 1):
        commands.append(f"{verb} {offset} {case.length_bytes}")
        if depth > 1 and nr % depth == 0:
            commands.append("aio_flush")
    if where:
        commands += ["aio_flush", "flush"]
    return [word for command in commands or ["length"] for word in ("-c", command)]


def parse_trace(trace):
    """One line a call; a call that was interrupted by another thread's stands in two, the second has the result."""
    counts = dict.fromkeys(FIELDS, 0)
    for line in trace:
        match = re.match(r"\d+ +(?:<\.\.\. )?(\w+).* = (-?\d+)", line)
        if not match or match[1] not in CALLS or int(match[2]) < 0:
            continue
        field = CALLS[match[1]]
        counts[field] += 1
        if field == "writes":
            counts["bytes_written"] += int(match[2])
    return counts
