# SPDX-License-Identifier: MIT
"""Runs in the kernel under test: python3 -m cowbench.inside PLAN. Prints a line for each result as it comes, so that what
was measured before a kernel died is kept; MARK tells these lines from a console's other words."""

import json
import os
import subprocess
import sys

from . import images, jobs, peers

MARK = "cowbench: "
FIO_KINDS = ("read", "write", "trim")


def prepare_directory(plan):
    """The file system under the images: on a disk of its own, or memory. Returns the directory."""
    directory = plan["directory"]
    os.makedirs(directory, exist_ok=True)
    if plan["fs"] == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=90%", "cowbench", directory], check=True)
    elif plan["fs"] != "here":
        options = {"ext4": ["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"], "xfs": ["-q"], "btrfs": ["-q"]}
        disk = os.environ["COW_DISKS"].split()[0]
        subprocess.run([f"mkfs.{plan['fs']}", *options[plan["fs"]], disk], check=True)
        subprocess.run(["mount", disk, directory], check=True)
    return directory


def measure(job, peer, store, plan, round_nr):
    """One run. Returns the result's fields; an error of the peer is a result too."""
    path = store.get(peer, job.state)
    if path is None:
        return {"skipped": f"{peer.format} has no state '{job.state}'"}
    try:
        device = peer.attach(path)
        command = job.fio(device, store.size(job.state), plan["seconds"], plan["cpus"], 1 + round_nr)
        result = fio(command, plan["seconds"])
        peer.detach()
        result.update(check(peer, path, job))
        store.put(path, job.state)
        return result
    except (peers.PeerError, subprocess.SubprocessError, ValueError) as error:
        return {"error": str(error)}


def fio(command, seconds):
    before = cpu_seconds()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
                          timeout=120 + 10 * seconds)
    busy = cpu_seconds() - before
    if done.returncode:
        raise ValueError(f"fio: status {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
    data = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
    if data["error"]:
        raise ValueError(f"fio: error {data['error']}")
    used = [data[kind] for kind in FIO_KINDS if data[kind]["total_ios"]]
    ios = sum(kind["total_ios"] for kind in used)
    slowest = max(used, key=lambda kind: kind["clat_ns"].get("mean", 0))
    percentiles = slowest["clat_ns"].get("percentile", {})
    return {
        "iops": sum(kind["iops"] for kind in used),
        "bytes_per_second": sum(kind["bw_bytes"] for kind in used),
        "ios": ios,
        "p50_us": percentiles.get("50.000000", 0) / 1000,
        "p99_us": percentiles.get("99.000000", 0) / 1000,
        "cpu_us_per_io": busy * 1e6 / ios,
    }


def cpu_seconds():
    """Time that all CPUs were busy, from the kernel's counters."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = [int(field) for field in file.readline().split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def check(peer, path, job):
    """A fast engine that breaks the image has no result. Not after each read."""
    if peer.format != "qcow2" or job.rw in ("read", "randread"):
        return {}
    done = subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], capture_output=True, text=True, check=False)
    return {} if done.returncode == 0 else {"error": f"qemu-img check: status {done.returncode}: {done.stderr[-300:]}"}


def facts():
    name = os.uname()
    return {"kernel": f"{name.sysname} {name.release} {name.version}", "cpus_online": os.cpu_count()}


def main(plan_path):
    with open(plan_path, encoding="utf-8") as file:
        plan = json.load(file)
    subprocess.run(["modprobe", "-q", "-a", "ublk_drv", "nbd", "loop"], check=False, stderr=subprocess.DEVNULL)
    store = images.Images(prepare_directory(plan), plan["full_bytes"], plan["fresh_bytes"])
    todo = [job for job in jobs.JOBS if job.name in plan["jobs"]]
    runners = [peers.make(spec, plan["cowblk"]) for spec in plan["peers"]]
    emit({"facts": facts()})
    for round_nr in range(plan["rounds"]):
        for job in todo:
            for peer in rotated(runners, round_nr):
                result = measure(job, peer, store, plan, round_nr)
                emit({"cpus": plan["cpus"], "round": round_nr, "job": job.name, "peer": peer.spec, **result})
                clean(peer)


def rotated(items, count):
    """Nobody is always first."""
    count %= len(items)
    return items[count:] + items[:count]


def clean(peer):
    """After an error: no device may stay and slow the next one down."""
    try:
        peer.detach()
    except peers.PeerError:
        peer.device = None


def emit(line):
    print("\n" + MARK + json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
