# SPDX-License-Identifier: MIT
"""Sound images made by QEMU's tools, and a view of one that knows where its structures are and overwrites single fields."""
import os
import shutil
import struct
import subprocess
import sys
import tempfile

OFFSET_MASK = 0x00FFFFFFFFFFFE00
COPIED = 1 << 63
COMPRESSED = 1 << 62
# Making a LUKS image wants a fine clock and an idle machine, or this: see interop/steady_clock.c.
STEADY_CLOCK = os.path.join(os.path.dirname(os.path.realpath(os.environ["COWBLK"])), "tests/interop/steady_clock.so")

HEADER = {  # field: (offset, bytes)
    "magic": (0, 4), "version": (4, 4), "backing_file_offset": (8, 8), "backing_file_size": (16, 4),
    "cluster_bits": (20, 4), "size": (24, 8), "crypt_method": (32, 4), "l1_size": (36, 4),
    "l1_table_offset": (40, 8), "refcount_table_offset": (48, 8), "refcount_table_clusters": (56, 4),
    "nb_snapshots": (60, 4), "snapshots_offset": (64, 8), "incompatible_features": (72, 8),
    "compatible_features": (80, 8), "autoclear_features": (88, 8), "refcount_order": (96, 4),
    "header_length": (100, 4), "compression_type": (104, 1),
}
EXTENSIONS = {
    "backing_format": 0xE2792ACA, "feature_names": 0x6803F857, "bitmaps": 0x23852875, "crypto": 0x0537BE77,
    "data_file": 0x44415441,
}


def scratch():
    """A folder for one test's images, as a context."""
    return tempfile.TemporaryDirectory(prefix="cowblk-hostile.", dir=os.environ.get("COW_TEST_DIR"))


def run_with_qemu(main):
    """Ends with the status of main(), or with 77 where QEMU's tools are not."""
    if not shutil.which("qemu-img") or not shutil.which("qemu-io"):
        print("qemu-img or qemu-io is missing: skipped")
        sys.exit(77)
    sys.exit(main())


class Image:
    def __init__(self, path):
        self.path = path
        with open(path, "rb") as f:
            self.bytes = bytearray(f.read())

    def save(self):
        with open(self.path, "wb") as f:
            f.write(self.bytes)

    def get(self, offset, size=8):
        return int.from_bytes(self.bytes[offset:offset + size], "big")

    def put(self, offset, value, size=8):
        self.bytes[offset:offset + size] = (value & ((1 << (8 * size)) - 1)).to_bytes(size, "big")

    def header(self, field):
        return self.get(*HEADER[field])

    def set_header(self, field, value):
        offset, size = HEADER[field]
        self.put(offset, value, size)

    @property
    def cluster(self):
        return 1 << self.header("cluster_bits")

    @property
    def l1(self):
        return self.header("l1_table_offset")

    @property
    def reftable(self):
        return self.header("refcount_table_offset")

    @property
    def refblock(self):
        return self.get(self.reftable)

    @property
    def l2(self):
        return self.get(self.l1) & OFFSET_MASK

    @property
    def end(self):
        """The first cluster behind the file."""
        return (len(self.bytes) + self.cluster - 1) // self.cluster * self.cluster

    def l2_entry(self, idx):
        return self.l2 + idx * 8

    def data(self, idx):
        return self.get(self.l2_entry(idx)) & OFFSET_MASK

    def extension(self, name):
        """Offset of its data."""
        at = self.header("header_length") if self.header("version") >= 3 else 72
        while True:
            kind, length = self.get(at, 4), self.get(at + 4, 4)
            if kind == EXTENSIONS[name]:
                return at + 8
            assert kind, "no such extension"
            at += 8 + (length + 7) // 8 * 8

    def snapshot(self, idx):
        """Offset of its entry in the snapshot table."""
        at = self.header("snapshots_offset")
        for _ in range(idx):
            size = 40 + self.get(at + 36, 4) + self.get(at + 12, 2) + self.get(at + 14, 2)
            at += (size + 7) // 8 * 8
        return at

    def bitmap_directory(self):
        return self.get(self.extension("bitmaps") + 16)


def run(*command, env=None):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=env)


def create(path, size, *options, backing=None, secret=False):
    command = ["qemu-img", "create", "-q", "-f", "qcow2"]
    if secret:
        command += ["--object", "secret,id=s,data=abc"]
    if backing:
        command += ["-b", backing, "-F", "qcow2"]
    if options:
        command += ["-o", ",".join(options)]
    assert os.path.exists(STEADY_CLOCK), f"no {STEADY_CLOCK}: build everything"
    run(*command, path, size, env=dict(os.environ, LD_PRELOAD=STEADY_CLOCK) if secret else None)


def qemu_io(path, *commands):
    args = [word for c in commands for word in ("-c", c)]
    run("qemu-io", "-f", "qcow2", *args, path)


def make_all(folder):
    """Every base image, small; returns {name: path}. The current directory becomes `folder`: names in headers are relative."""
    os.chdir(folder)
    create("plain", "4M")
    qemu_io("plain", "write -P 1 0 256k", "write -z 1M 64k", "write -P 2 2M 64k")
    create("small", "1M", "cluster_size=512", "refcount_bits=1")
    qemu_io("small", "write -P 1 0 64k", "write -P 2 512k 33k")
    create("wide", "4M", "cluster_size=4k", "refcount_bits=64")
    qemu_io("wide", "write -P 1 0 300k")
    create("old", "4M", "compat=0.10")
    qemu_io("old", "write -P 1 0 256k")
    create("snap", "4M", "cluster_size=4k")
    qemu_io("snap", "write -P 1 0 256k")
    run("qemu-img", "snapshot", "-c", "one", "snap")
    qemu_io("snap", "write -P 2 64k 64k")
    run("qemu-img", "snapshot", "-c", "two", "snap")
    create("over", "4M", backing="plain")
    qemu_io("over", "write -P 3 128k 64k")
    with open("source.raw", "wb") as f:
        f.write(b"".join(struct.pack(">I", i // 7) for i in range(1 << 18)))
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "source.raw", "comp")
    create("subs", "4M", "extended_l2=on")
    qemu_io("subs", "write -P 1 0 100k", "write -z 128k 6k")
    create("maps", "4M", "cluster_size=4k")
    run("qemu-img", "bitmap", "--add", "maps", "nightly")
    run("qemu-img", "bitmap", "--add", "--disable", "maps", "weekly")
    create("luks", "4M", "encrypt.format=luks", "encrypt.key-secret=s", "encrypt.iter-time=10", secret=True)
    create("outside", "4M", "data_file=outside.raw")
    qemu_io("outside", "write -P 1 0 128k")
    return {name: os.path.join(folder, name) for name in
            ("plain", "small", "wide", "old", "snap", "over", "comp", "subs", "maps", "luks", "outside")}
