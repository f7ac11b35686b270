# SPDX-License-Identifier: MIT
"""What is compared: programs that turn a host file into a block device.

A peer is named `NAME[@PROGRAM][ ARGUMENT...]`: another build (cowblk@/tmp/old/cowblk), other options
(qemu-nbd --aio=native).
"""

import os
import shlex
import subprocess
import tempfile
import time


class PeerError(Exception):
    pass


def run(args):
    """Output of a command, or PeerError with its last words. Not through a pipe: a daemon would hold it open."""
    with tempfile.TemporaryFile("w+", dir="/dev/shm") as out:
        try:
            code = subprocess.run(args, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60).returncode
        except (OSError, subprocess.TimeoutExpired) as error:
            raise PeerError(str(error)) from error
        out.seek(0)
        text = out.read().strip()
    if code:
        raise PeerError(f"{' '.join(args[:2])}: status {code}: {text.splitlines()[-1] if text else 'no message'}")
    return text


def block_bytes(device):
    try:
        with open(f"/sys/block/{os.path.basename(device)}/size", encoding="ascii") as file:
            return int(file.read()) * 512
    except OSError:
        return 0


def wait_for(condition, what, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise PeerError(f"{what}: not within {seconds} s")
        time.sleep(0.01)


class Peer:
    format = "qcow2"

    def __init__(self, spec, program):
        words = shlex.split(spec)
        self.spec = spec
        self.program = words[0].partition("@")[2] or program
        self.arguments = words[1:]
        self.file_name = "".join(c if c.isalnum() else "_" for c in spec)
        self.device = None

    def attach(self, path):
        self.device = self.start(path)
        wait_for(lambda: block_bytes(self.device) > 0, f"{self.spec}: size of {self.device}")
        self._no_scheduler()
        return self.device

    def detach(self):
        if self.device:
            self.stop()
            self.device = None

    def _no_scheduler(self):
        """The same for all: the kernel's defaults differ between drivers."""
        try:
            with open(f"/sys/block/{os.path.basename(self.device)}/queue/scheduler", "w", encoding="ascii") as file:
                file.write("none")
        except OSError:
            pass


class Cowblk(Peer):
    def start(self, path):
        words = run([self.program, "attach", *self.arguments, path]).split()
        devices = [word for word in words if word.startswith("/dev/ublkb")]
        if not devices:
            raise PeerError(f"cowblk attach: printed no device: {' '.join(words)}")
        return devices[-1]

    def stop(self):
        run([self.program, "detach", self.device])


class QemuNbd(Peer):
    """Its fastest fair options: direct I/O, no detection of zeros, discards passed on. io_uring by default."""

    device_name = "/dev/nbd0"

    def start(self, path):
        run([self.program, "-c", self.device_name, "--socket=/run/cowbench-nbd", "--cache=none", "--discard=unmap",
             "-f", "qcow2", *(self.arguments or ["--aio=io_uring"]), path])
        return self.device_name

    def stop(self):
        run([self.program, "-d", self.device])
        wait_for(lambda: not os.path.exists("/sys/block/nbd0/pid"), "qemu-nbd: end")


class Loop(Peer):
    format = "raw"

    def start(self, path):
        return run([self.program, "--find", "--show", "--direct-io=on", *self.arguments, path])

    def stop(self):
        run([self.program, "--detach", self.device])


KINDS = {"cowblk": Cowblk, "qemu-nbd": QemuNbd, "loop": Loop}


def make(spec, cowblk):
    kind = spec.split()[0].partition("@")[0]
    if kind not in KINDS:
        raise ValueError(f"unknown peer '{kind}': one of {', '.join(KINDS)}")
    programs = {"cowblk": cowblk, "qemu-nbd": "qemu-nbd", "loop": "losetup"}
    return KINDS[kind](spec, programs[kind])
