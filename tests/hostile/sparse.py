#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A small image that pretends to be huge: a file of 4 TiB of holes, a refcount table of 8 MiB with all but one block missing. A check
must take seconds and little memory; a file beyond the stated limit is refused."""
import os
import resource
import shutil
import subprocess
import sys

from images import Image, create, scratch

COWBLK = os.environ["COWBLK"]
SECONDS, MEMORY_BYTES = 20, 1 << 30


def limit():
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    if not os.environ.get("COW_TEST_SANITIZED"):  # their shadow memory is huge
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def check(path):
    p = subprocess.run([COWBLK, "check", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=limit)
    return p.returncode, p.stdout.decode(errors="replace")


def make(path):
    create(path, "1M", "cluster_size=512", "refcount_bits=64")
    image = Image(path)
    far = 1 << 33
    entry = bytes(image.bytes[image.reftable:image.reftable + 512])
    image.set_header("refcount_table_offset", far)
    image.set_header("refcount_table_clusters", (8 << 20) // 512)
    image.save()
    with open(path, "r+b") as f:
        f.seek(far)
        f.write(entry)
        f.truncate(1 << 42)


def main():
    failures = 0
    with scratch() as folder:
        path = os.path.join(folder, "sparse")
        os.chdir(folder)
        make(path)
        status, text = check(path)
        if status != 2 or "16384 errors" not in text:  # the table's own clusters
            failures += 1
            print(f"4 TiB: status {status}: {text[-300:]}")
        try:
            os.truncate(path, 15 << 40)
        except OSError as e:
            print(f"a file of 15 TiB: {e.strerror}: not tried")
        else:
            status, text = check(path)
            if status != 1 or "more than can be checked" not in text:
                failures += 1
                print(f"15 TiB: status {status}: {text[-300:]}")
    print(f"{failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    if not shutil.which("qemu-img"):
        print("qemu-img is missing: skipped")
        sys.exit(77)
    sys.exit(main())
