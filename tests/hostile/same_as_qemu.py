#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Sound images of every kind: `info --json` and `check --json` say what qemu-img's JSON says, field by field."""
import json
import os
import shutil
import subprocess

from images import create, make_all, qemu_io, run as must, run_with_qemu, scratch

COWBLK = os.environ["COWBLK"]
# QEMU counts the data file's space too; we do not open what an image refers to.
DIFFERENT = {("info", "outside"): {"actual-size"}}


def make_more(folder):
    create("esxts", "4M", "encrypt.format=luks", "encrypt.key-secret=s", "encrypt.iter-time=10",
           "encrypt.cipher-mode=cbc", "encrypt.ivgen-alg=essiv", "encrypt.ivgen-hash-alg=sha256", secret=True)
    create("aes", "4M", "encrypt.format=aes", "encrypt.key-secret=s", secret=True)
    create("lazy", "4M", "lazy_refcounts=on", "refcount_bits=8")
    create("nothing", "0")
    create("huge", "64T")
    create("large", "64M", "cluster_size=2M")
    qemu_io("large", "write 3M 7M", "write -z 20M 9M", "discard 4M 2M")
    must("qemu-img", "snapshot", "-c", "1", "large")
    must("qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", "plain", "zstd")
    os.mkdir("sub")
    create("sub/over", "4M", backing="../plain")
    shutil.copy("plain", "allocated")
    qemu_io("allocated", "write -z 0 128k", "write 3M 64k", "write 1M 64k")
    return {name: os.path.join(folder, name) for name in
            ("esxts", "aes", "lazy", "nothing", "huge", "large", "zstd", "sub/over", "allocated")}


def load(*command):
    p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    return p.returncode, json.loads(p.stdout) if p.stdout else p.stderr.decode()


def compare(what, name, path):
    """Number of differences."""
    ours = load(COWBLK, what, "--json", path)
    theirs = load("qemu-img", what, "--output=json", "-f", "qcow2", path)
    if ours[0] != theirs[0] or not isinstance(ours[1], dict):
        print(f"{what} {name}: {ours} is not {theirs}")
        return 1
    wrong = [key for key in sorted(set(ours[1]) | set(theirs[1]))
             if ours[1].get(key) != theirs[1].get(key) and key not in DIFFERENT.get((what, name), ())]
    for key in wrong:
        print(f"{what} {name}: {key}: {ours[1].get(key)} is not {theirs[1].get(key)}")
    return len(wrong)


def main():
    failures = compared = 0
    with scratch() as folder:
        images = make_all(folder)
        images.update(make_more(folder))
        for name, path in images.items():
            failures += compare("info", name, path)
            compared += 1
            if name in ("luks", "esxts", "aes"):  # qemu-img wants the passphrase for a check
                continue
            failures += compare("check", name, path)
            compared += 1
    print(f"{compared} compared, {failures} differences")
    return 1 if failures else 0


if __name__ == "__main__":
    run_with_qemu(main)
