# SPDX-License-Identifier: MIT
"""bench/run's program: makes the plan, has a kernel run it, counts, reports."""

import argparse
import json
import os
import platform
import signal
import sys
import time

from . import count, jobs, kernel, micro, peers, report

MIB = 1 << 20


def arguments():
    parser = argparse.ArgumentParser(
        prog="bench/run", description="cowblk side by side with qemu-nbd and a loop device, in one kernel.")
    parser.add_argument("--rounds", type=int, help="times everything is measured, interleaved (default 5; quick 3)")
    parser.add_argument("--seconds", type=float, help="length of a run (default 4; quick 2)")
    parser.add_argument("--jobs", default="", metavar="FILTER", help="parts of job names, by commas (see --list)")
    parser.add_argument("--peers", default="cowblk,qemu-nbd,loop", metavar="LIST",
                        help="by commas; each NAME[@PROGRAM][ OPTION...]; ratios are the first's (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="few jobs, short runs, small images")
    parser.add_argument("--fs", default="ext4", choices=["ext4", "xfs", "btrfs", "tmpfs"],
                        help="file system under the images (default %(default)s, on a disk of its own)")
    parser.add_argument("--kernel", default="auto", choices=["auto", "uml", "vm", "running"],
                        help="kernel to measure in (default %(default)s)")
    parser.add_argument("--cpus", default="1,2", metavar="LIST",
                        help="CPUs of the test kernel, one boot for each number (default %(default)s)")
    parser.add_argument("--cowblk", default="", metavar="PATH", help="the program (default: as built)")
    parser.add_argument("--out", default="", metavar="DIR",
                        help="where results go (default: bench-results in the build folder)")
    parser.add_argument("--build", default="build", metavar="DIR", help=argparse.SUPPRESS)
    parser.add_argument("--no-count", action="store_true", help="leave out the counts of host requests")
    parser.add_argument("--count-only", action="store_true",
                        help="only the counts of host requests; needs no kernel and no root")
    parser.add_argument("--micro", action="store_true", help="the engine's own cost of a request, too")
    parser.add_argument("--list", action="store_true", help="list the jobs")
    return parser.parse_args()


def make_plan(args):
    if args.peers and not args.count_only:
        for spec in args.peers.split(","):
            peers.make(spec, "cowblk")   # says now which name is wrong
    chosen = jobs.select([p for p in args.jobs.split(",") if p], args.quick)
    if not chosen:
        raise ValueError(f"--jobs {args.jobs}: no such job; see --list")
    return {
        "jobs": [job.name for job in chosen],
        "peers": args.peers.split(","),
        "rounds": args.rounds or (3 if args.quick else 5),
        "seconds": args.seconds or (2 if args.quick else 4),
        "cpus": [int(word) for word in args.cpus.split(",")],
        "fs": args.fs,
        "full_bytes": (256 if args.quick else 1024) * MIB,
        "fresh_bytes": 256 * MIB,
        "cowblk": args.cowblk or os.path.join(os.path.abspath(args.build), "cowblk"),
    }


def plan_for(plan, cpus):
    """One boot. With one CPU a job per queue is the same as one job: left out, unless nothing else was asked for."""
    chosen = [name for name in plan["jobs"] if cpus > 1 or not jobs.BY_NAME[name].per_queue]
    return dict(plan, cpus=cpus, jobs=chosen or plan["jobs"])


def environment(plan):
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host_kernel": platform.release(),
        "cpu": models[0] if models else platform.machine(),
        "host_cpus": os.cpu_count(),
        "qemu": kernel.first_line(["qemu-nbd", "--version"]),
        "fio": kernel.first_line(["fio", "--version"]),
        "cowblk": kernel.first_line([plan["cowblk"], "--version"]),
        "commit": kernel.first_line(["git", "-C", os.path.dirname(__file__), "describe", "--always", "--dirty"]),
    }


def list_jobs():
    for job in jobs.JOBS:
        print(f"{job.name:30} {'quick ' if job.quick else '      '} {job.title} (image: {job.state})")
    return 0


def interrupt(*unused):
    raise KeyboardInterrupt


def main():
    signal.signal(signal.SIGTERM, interrupt)   # what was measured by then is reported
    args = arguments()
    if args.list:
        return list_jobs()
    plan = make_plan(args)
    out = os.path.abspath(args.out or os.path.join(args.build, "bench-results"))
    os.makedirs(out, exist_ok=True)
    load = os.getloadavg()[0]
    results = {"environment": environment(plan), "plan": plan, "runs": [], "counts": [], "micro": []}
    if not args.no_count:
        results["counts"] = count.run_all(os.path.abspath(args.build), out)
    if args.micro:
        results["micro"] = micro.run_all(os.path.abspath(args.build))
    if not args.count_only:
        for cpus in plan["cpus"]:
            facts, runs = kernel.run_plan(plan_for(plan, cpus), args.kernel, out)
            facts["complete"] = facts["complete"] and results["environment"].get("complete", True)
            results["environment"].update(facts)
            results["runs"] += runs
            if not facts["complete"]:
                break
    results["environment"]["load"] = [load, os.getloadavg()[0]]
    with open(os.path.join(out, "results.json"), "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
    return report.write(results, out)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError, kernel.KernelError) as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(1)
