# SPDX-License-Identifier: MIT
"""Has a plan run in the kernel to be measured: the running one, or a User-Mode Linux one booted by tests/kernel/boot."""

import json
import os
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
MINUTE = 60


class KernelError(Exception):
    pass


def first_line(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0] if done.stdout else ""


def boot_script():
    """The script that boots a kernel. COWBLK_BOOT names another."""
    for path in (os.environ.get("COWBLK_BOOT"), os.path.join(ROOT, "tests/kernel/boot"),
                 os.path.join(ROOT, "../shared/uml/boot")):
        if path and os.access(path, os.X_OK):
            return path
    raise KernelError("no kernel to boot: tests/kernel/boot is missing: use --kernel running on a kernel with ublk")


def running_kernel_will_do():
    return os.geteuid() == 0 and os.path.exists("/dev/ublk-control")


def run_plan(plan, which, out):
    """Returns (facts, runs). What was measured before a failure is returned too, with a word on standard error."""
    if which == "auto":
        which = "running" if running_kernel_will_do() else "uml"
    with tempfile.TemporaryDirectory(prefix="cowbench-") as work:
        plan_path, results_path = os.path.join(work, "plan.json"), os.path.join(work, "results")
        plan = dict(plan, directory=os.path.join(work, "mnt") if which == "running" else "/mnt/cowbench",
                    disk="/dev/ubda")
        if which == "running" and plan["fs"] != "tmpfs":
            plan.update(fs="here", directory=os.path.join(out, "images"))
        with open(plan_path, "w", encoding="utf-8") as file:
            json.dump(plan, file)
        inside = ["/usr/bin/env", "PYTHONDONTWRITEBYTECODE=1", f"PYTHONPATH={os.path.dirname(HERE)}", "/usr/bin/python3", "-m",
                  "cowbench.inside", plan_path, results_path]
        command = inside if which == "running" else boot(plan, work) + inside
        status = supervise(command, limit_seconds(plan))
        lines = read_lines(results_path)
    if not lines:
        raise KernelError(f"nothing was measured: status {status} of {' '.join(command[:8])} ...")
    if status:
        print(f"bench: stopped early: status {status}: results are partial", file=sys.stderr)
    facts = dict(lines[0].get("facts", {}), kernel_kind=which, complete=status == 0)
    return facts, [line for line in lines if "job" in line]


def boot(plan, work):
    disk = os.path.join(work, "disk")
    with open(disk, "wb") as file:
        file.truncate(8 * plan["full_bytes"] + (1 << 30))
    memory = "6G" if plan["fs"] == "tmpfs" else "2G"
    return [boot_script(), "-c", str(plan["cpus"]), "-m", memory, "-d", disk, "--"]


def limit_seconds(plan):
    runs = plan["rounds"] * len(plan["jobs"]) * len(plan["peers"])
    return 5 * MINUTE + runs * (20 + 5 * plan["seconds"])


def supervise(command, seconds):
    """Runs it with progress on standard error if that is a terminal. A kernel that hangs is ended."""
    verbose = sys.stderr.isatty() or os.environ.get("COWBENCH_VERBOSE")
    sink = sys.stderr if verbose else subprocess.DEVNULL
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True) as child:
        try:
            return child.wait(seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
            return 124


def read_lines(path):
    try:
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return []
