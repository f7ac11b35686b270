# SPDX-License-Identifier: MIT
"""The host files under test. Every peer gets its own file, made the same way; qcow2 ones by qemu-img, for all of them.

States: full      all of it written with random data, kept between runs (for jobs that leave it as it is)
        empty     new, nothing allocated
        fresh     as full, but a new copy each run, and smaller
        snapshot  as fresh, with one internal snapshot; not for raw
"""

import os
import shutil
import subprocess

STATES = ("full", "empty", "fresh", "snapshot")


class Images:
    def __init__(self, directory, full_bytes, fresh_bytes):
        self.directory = directory
        self.full_bytes = full_bytes
        self.fresh_bytes = fresh_bytes

    def path(self, name):
        return os.path.join(self.directory, name)

    def size(self, state):
        return self.full_bytes if state in ("full", "empty") else self.fresh_bytes

    def get(self, peer, state):
        """The file for one run of one peer. None if the state makes no sense for its format."""
        if state == "snapshot" and peer.format == "raw":
            return None
        path = self.path(f"{peer.file_name}-{state}.{peer.format}")
        if state == "full":
            if not os.path.exists(path):
                self._copy_of("full", peer.format, path)
            return path
        if os.path.exists(path):
            os.unlink(path)
        if state == "empty":
            subprocess.run(["qemu-img", "create", "-q", "-f", peer.format, path, str(self.full_bytes)], check=True)
        else:
            self._copy_of(state, peer.format, path)
        return path

    def put(self, path, state):
        """After the run: keep only what is used again."""
        if state != "full":
            os.unlink(path)

    def _copy_of(self, state, fmt, path):
        """A private copy of the pristine file: bytes written, no shared extents, on disk before the run starts."""
        pristine = self._pristine(state, fmt)
        shutil.copyfile(pristine, path)
        self._settle(path)

    def _pristine(self, state, fmt):
        size = self.size(state)
        path = self.path(f"pristine-{state}-{size}.{fmt}")
        if os.path.exists(path):
            return path
        if fmt == "raw":
            self._random(path, size)
            return path
        raw = self._pristine(state if state != "snapshot" else "fresh", "raw")
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path], check=True)
        if state == "snapshot":
            subprocess.run(["qemu-img", "snapshot", "-c", "bench", path], check=True)
        return path

    @staticmethod
    def _random(path, size):
        with open(path, "wb") as file:
            for _ in range(size // (1 << 20)):
                file.write(os.urandom(1 << 20))

    @staticmethod
    def _settle(path):
        """On disk and out of the page cache: a direct write over cached pages cannot be done without blocking, for any peer."""
        fd = os.open(path, os.O_RDWR)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
