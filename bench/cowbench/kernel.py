# SPDX-License-Identifier: MIT
"""Has a plan run in the kernel to be measured, which tests/kernel/boot chooses and boots."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading

from . import inside

HERE = os.path.dirname(os.path.abspath(__file__))
BOOT = os.path.join(os.path.dirname(os.path.dirname(HERE)), "tests/kernel/boot")
PYTHON = "/usr/bin/python3"
MINUTE = 60
VERBOSE = bool(os.environ.get("COWBENCH_VERBOSE"))


class KernelError(Exception):
    pass


def first_line(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0] if done.stdout else ""


def run_plan(plan, which, out):
    """Returns (facts, runs). What was measured before a failure is returned too, with a word on standard error."""
    environment = dict(os.environ) if which == "auto" else dict(os.environ, COW_KERNEL=which)
    running = environment.get("COW_KERNEL") == "running"
    kind = subprocess.run([BOOT, "-w"], env=environment, capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory(prefix="boot-", dir=out) as work:
        plan = dict(plan, directory=os.path.join(work, "images") if running else "/mnt/cowbench")
        if running and plan["fs"] != "tmpfs":
            plan["fs"] = "here"
        plan_path = os.path.join(work, "plan.json")
        with open(plan_path, "w", encoding="utf-8") as file:
            json.dump(plan, file)
        command = boot(plan, plan_path, None if running else os.path.join(work, "disk"))
        status, lines = supervise(command, environment, limit_seconds(plan))
    if not lines:
        raise KernelError(f"nothing was measured: status {status} of {' '.join(command)}: COWBENCH_VERBOSE=1 shows why")
    if status:
        print(f"bench: stopped early: status {status}: results are partial", file=sys.stderr)
    facts = dict(lines[0].get("facts", {}), kernel_kind=kind, complete=status == 0)
    return facts, [line for line in lines if "job" in line]


def boot(plan, plan_path, disk):
    """The command. A VM has only the files that it is given: Python and this program among them."""
    options = ["-c", str(plan["cpus"]), "-m", "6G" if plan["fs"] == "tmpfs" else "2G"]
    if disk:
        with open(disk, "wb") as file:
            file.truncate(8 * plan["full_bytes"] + (1 << 30))
        options += ["-d", disk]
    for path in (PYTHON, sysconfig.get_path("stdlib"), HERE, plan_path, plan["cowblk"]):
        options += ["-f", path]
    return [BOOT, *options, "--", "/usr/bin/env", "PYTHONDONTWRITEBYTECODE=1", f"PYTHONPATH={os.path.dirname(HERE)}",
            PYTHON, "-m", "cowbench.inside", plan_path]


def limit_seconds(plan):
    runs = plan["rounds"] * len(plan["jobs"]) * len(plan["peers"])
    return 5 * MINUTE + runs * (20 + 5 * plan["seconds"])


def supervise(command, environment, seconds):
    """Runs it; returns its status and the results that it printed. A kernel that hangs is ended."""
    lines = []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", env=environment, start_new_session=True) as child:
        alarm = threading.Timer(seconds, end, [child])
        alarm.start()
        try:
            for text in child.stdout:
                take(text.rstrip(), lines)
        except KeyboardInterrupt:
            end(child)
        finally:
            alarm.cancel()
    return child.returncode, lines


def take(text, lines):
    """A line of the console: a result, or somebody's words."""
    before, mark, rest = text.partition(inside.MARK)
    try:
        line = json.loads(rest) if mark else None
    except ValueError:
        line = None
    if line is None:
        if VERBOSE and text:
            print(text, file=sys.stderr)
        return
    lines.append(line)
    if "job" in line and (VERBOSE or sys.stderr.isatty()):
        shown = line.get("error") or line.get("skipped") or f"{line['iops']:.0f} IOPS"
        where = f"{line['cpus']} CPUs, round {line['round'] + 1}"
        print(f"{where}  {line['job']:28} {line['peer']:12} {shown}", file=sys.stderr)


def end(child):
    """The boot script takes its kernel along when it is told to stop."""
    os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
