#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Passphrases from the kernel's keyring and from a terminal. secret_sources.py COWBLK COW_DECRYPT, in a directory with the file `right`.
Status 77: the prompt passed, keyrings are not to be had here."""
import ctypes
import os
import platform
import pty
import subprocess
import sys
import termios
import time

COWBLK, DECRYPT = sys.argv[1:3]
PASSPHRASE = open("right", "rb").read()
CREATE = [COWBLK, "create", "--force", "--encrypt", "luks", "-o", "encrypt.iter-time=10"]
FAILURES = []


def check(what, ok):
    if not ok:
        FAILURES.append(what)
        print(f"secret_sources: FAILED: {what}", file=sys.stderr)


def opens(image):
    return subprocess.run([DECRYPT, image, "ours", "right"], capture_output=True, timeout=120).returncode == 0


def on_terminal(typed, *args, command=None):
    """Runs create, or another command, with a terminal of its own, types at each prompt -> (status, what the terminal showed, its echo is back)."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(COWBLK, (command or CREATE) + ["--key-prompt", *args])
    shown, seen = b"", 0
    for line in typed:
        while shown[seen:].count(b": ") == 0:
            shown += os.read(fd, 1024)
        seen = len(shown)
        quiet = not termios.tcgetattr(fd)[3] & termios.ECHO
        check("echo is off while it asks", quiet)
        os.write(fd, line)
    time.sleep(0.3)
    echo = bool(termios.tcgetattr(fd)[3] & termios.ECHO)
    try:
        while chunk := os.read(fd, 1024):
            shown += chunk
    except OSError:
        pass
    _, status = os.waitpid(pid, 0)
    os.close(fd)
    return os.waitstatus_to_exitcode(status), shown, echo


def prompt():
    status, shown, echo = on_terminal([PASSPHRASE + b"\r", PASSPHRASE + b"\r"], "image", "8M")
    check(f"prompt: status {status}: {shown}", status == 0 and opens("image"))
    check("prompt: the passphrase is shown", PASSPHRASE not in shown)
    check("prompt: echo comes back", echo)
    slip = b"wrong\x15" + PASSPHRASE[:-1] + b"\xc3\xa4\x7fx\x7f" + PASSPHRASE[-1:] + b"\n"
    status, shown, _ = on_terminal([slip, PASSPHRASE + b"\n"], "image", "8M")
    check(f"prompt: erasing: {shown}", status == 0 and opens("image"))
    status, shown, _ = on_terminal([b"one\n", b"two\n"], "absent", "8M")
    check(f"prompt: two that differ: {shown}", status == 1 and b"not the same" in shown and not os.path.exists("absent"))
    status, shown, echo = on_terminal([b"half\x03"], "new", "8M")
    check(f"prompt: interrupted: {shown}", status == 1 and b"not given" in shown and echo)
    for verb in "commit", "map", "convert", "compare":
        two = ["new"] if verb in ("convert", "compare") else []
        status, shown, _ = on_terminal([b"\x04"], "image", *two, command=[COWBLK, verb])
        check(f"prompt: {verb}: {shown}", status in (1, 2) and b"not given" in shown)
    run = subprocess.run(CREATE + ["--key-prompt", "new", "8M"], capture_output=True, start_new_session=True, timeout=60)
    check(f"prompt: no terminal: {run.stderr}", run.returncode == 1 and b"no terminal" in run.stderr)


def add_key(name, payload):
    numbers = {"x86_64": 248, "aarch64": 217}
    libc = ctypes.CDLL(None, use_errno=True)
    if platform.machine() not in numbers:
        return None
    session = -3
    key = libc.syscall(numbers[platform.machine()], b"user", name, payload, len(payload), session)
    return key if key > 0 else None


def keyring():
    name = f"cowblk-test:{os.getpid()}"
    run = subprocess.run(CREATE + ["--key-keyring", name, "new", "8M"], capture_output=True, timeout=60)
    check(f"keyring: missing: {run.stderr}", run.returncode == 1 and b"not found in the keyrings" in run.stderr)
    libc = ctypes.CDLL(None, use_errno=True)
    key = add_key(name.encode(), PASSPHRASE)
    if key is None:
        return False
    run = subprocess.run(CREATE + ["--key-keyring", name, "image", "8M"], capture_output=True, timeout=60)
    check(f"keyring: {run.stderr}", run.returncode == 0 and opens("image"))
    revoke = 3
    libc.syscall({"x86_64": 250, "aarch64": 219}[platform.machine()], revoke, key)
    return True


prompt()
have_keyring = keyring()
sys.exit(1 if FAILURES else 0 if have_keyring else 77)
