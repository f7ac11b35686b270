# SPDX-License-Identifier: MIT
"""The table of fio jobs. A job is what fio does, on an image in a given state.

Two kinds of work. Where the image stays as it is (reads, writes in place), a job runs for a time. Where the work uses
the image up (first writes, copies after a snapshot, discards) every peer gets the same fixed work on a fresh image:
otherwise the faster peer would run out of it, and do the easier rest.
"""

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Job:
    name: str
    title: str
    state: str             # a key of images.STATES
    rw: str                # fio's
    block_bytes: int
    depth: int = 32
    per_queue: bool = False  # one fio job per CPU instead of one
    work: int = 0          # I/Os for each second asked for; 0: run by time
    numjobs: int = 1
    sync_every: int = 0    # one fdatasync after so many writes
    quick: bool = False    # part of --quick

    @property
    def unit(self):
        return "MB/s" if self.block_bytes >= 128 * KIB and "trim" not in self.rw else "IOPS"

    def jobs(self, cpus):
        return cpus if self.per_queue else self.numjobs

    def fio(self, device, device_bytes, seconds, cpus, seed):
        """The command line. size and offsets are per fio job."""
        jobs = self.jobs(cpus)
        args = ["fio", "--output-format=json", f"--name={self.name}", f"--filename={device}", "--direct=1",
                "--ioengine=io_uring", f"--rw={self.rw}", f"--bs={self.block_bytes}", f"--iodepth={self.depth}",
                f"--numjobs={jobs}", "--group_reporting=1", "--randrepeat=1", f"--randseed={seed}",
                "--allow_file_create=0"]
        if self.rw == "randrw":
            args.append("--rwmixread=70")
        if self.sync_every:
            args.append(f"--fdatasync={self.sync_every}")
        share = device_bytes // jobs // self.block_bytes * self.block_bytes
        args += [f"--size={share}", f"--offset_increment={share}"]
        if not self.work:
            return args + ["--time_based=1", f"--runtime={seconds}"]
        ios = min(max(int(self.work * seconds) // jobs, 64), share // self.block_bytes)
        return args + [f"--io_size={ios * self.block_bytes}", "--end_fsync=1"]


def _both(name, title, state, rw, block_bytes, **more):
    """The job alone, and once per queue."""
    quick = more.pop("quick", False)
    return [Job(name, title, state, rw, block_bytes, quick=quick, **more),
            Job(name + "-mq", title + ", a job per queue", state, rw, block_bytes, per_queue=True, **more)]


JOBS = [
    *_both("randread-4k", "4 KiB random read", "full", "randread", 4 * KIB, quick=True),
    *_both("randwrite-4k", "4 KiB random write", "full", "randwrite", 4 * KIB, quick=True),
    *_both("randrw-4k", "4 KiB random 70/30", "full", "randrw", 4 * KIB),
    Job("randread-4k-qd1", "4 KiB random read, depth 1", "full", "randread", 4 * KIB, depth=1),
    Job("randwrite-4k-qd1", "4 KiB random write, depth 1", "full", "randwrite", 4 * KIB, depth=1),
    *_both("read-128k", "128 KiB sequential read", "full", "read", 128 * KIB, depth=16),
    *_both("write-128k", "128 KiB sequential write", "full", "write", 128 * KIB, depth=16),
    *_both("read-512k", "512 KiB sequential read", "full", "read", 512 * KIB, depth=8, quick=True),
    *_both("write-512k", "512 KiB sequential write", "full", "write", 512 * KIB, depth=8, quick=True),
    *_both("empty-randwrite-4k", "4 KiB random first write", "empty", "randwrite", 4 * KIB, work=1024),
    Job("empty-randwrite-4k-sync", "4 KiB random first write, FLUSH each 256", "empty", "randwrite", 4 * KIB, work=1024,
        sync_every=256, quick=True),
    *_both("empty-write-512k", "512 KiB sequential first write", "empty", "write", 512 * KIB, depth=8, work=64),
    Job("empty-randread-4k", "4 KiB random read, empty", "empty", "randread", 4 * KIB),
    *_both("snapshot-randwrite-4k", "4 KiB random write after a snapshot", "snapshot", "randwrite", 4 * KIB, work=256),
    Job("snapshot-randwrite-4k-sync", "4 KiB random write after a snapshot, FLUSH each 256", "snapshot", "randwrite",
        4 * KIB, work=256, sync_every=256, quick=True),
    Job("discard-64k", "64 KiB random discard", "fresh", "randtrim", 64 * KIB, numjobs=4, work=512, quick=True),
    Job("discard-1m", "1 MiB sequential discard", "fresh", "trim", MIB, numjobs=4, work=64),
]

BY_NAME = {job.name: job for job in JOBS}


def select(patterns, quick):
    """Jobs whose name contains one of the patterns; all (or the quick ones) without a pattern."""
    if patterns:
        return [job for job in JOBS if any(p in job.name for p in patterns)]
    return [job for job in JOBS if job.quick or not quick]
