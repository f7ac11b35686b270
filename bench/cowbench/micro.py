# SPDX-License-Identifier: MIT
"""What the engine itself costs a request, over a host of memory (bench/micro.c): nanoseconds, and instructions where
valgrind is installed. Instructions hardly depend on the machine: a regression shows."""

import json
import os
import re
import shutil
import subprocess
import sys

CASES = ("read-4k", "write-4k", "read-512k", "write-512k", "first-write-4k", "first-write-512k", "discard-64k")
NR_REQUESTS = 8000
NR_TRACED = 4000


def run_all(build):
    program = os.path.join(build, "bench", "bench-micro")
    return [measure(program, case) for case in CASES]


def measure(program, case):
    try:
        entry = json.loads(output([program, case, str(NR_REQUESTS)])[0])
        entry["instructions_per_request"] = instructions(program, case)
        return entry
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return {"case": case, "error": str(getattr(error, "stderr", None) or error).strip()[-200:]}


def output(command):
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return done.stdout, done.stderr


def instructions(program, case):
    """None without valgrind. The guest's data is not copied, so this is the engine and little else."""
    if not shutil.which("valgrind"):
        return None
    said = output(["valgrind", "--tool=callgrind", "--toggle-collect=measured", "--callgrind-out-file=/dev/null",
                   program, case, str(NR_TRACED)])[1]
    match = re.search(r"Collected\s*:\s*(\d+)", said)
    if not match:
        print(f"bench: {case}: callgrind counted nothing", file=sys.stderr)
    return round(int(match[1]) / NR_TRACED) if match else None
