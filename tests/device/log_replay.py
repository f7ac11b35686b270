#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""log_replay.py LOG FILE [SEED]: replays a dm-log-writes LOG onto FILE and stops at every state that a crash could have left.

Says "N KIND MARK" on stdout and waits for a line on stdin, at each FLUSH or FUA (KIND flush: all of the prefix is there) and, with
SEED, once between two of them (KIND torn: of the writes after the last barrier a random part arrived, torn at 512 bytes), and at
each mark (KIND mark: nothing arrived since the last barrier, so what was said to be durable must be there without it).
MARK is the last mark that the prefix holds. At the end: "N end MARK".
"""
import random
import struct
import sys

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8


def entries(log):
    magic, version, count, sector_bytes = struct.unpack("<QQQI", log.read(28))
    if magic != MAGIC or version != 1:
        sys.exit("log_replay: not a log of dm-log-writes")
    at = sector_bytes
    for _ in range(count):
        log.seek(at)
        sector, sectors, flags, length = struct.unpack("<4Q", log.read(32))
        at += sector_bytes
        if flags & MARK:
            log.seek(at - sector_bytes + 32)
            yield flags, 0, log.read(length).decode()
            continue
        if flags & DISCARD:
            data = bytes(sectors * sector_bytes)
        else:
            log.seek(at)
            data = log.read(sectors * sector_bytes)
            at += len(data)
        yield flags, sector * sector_bytes, data


def put(image, offset, data):
    image.seek(offset)
    image.write(data)


def stop(number, kind, mark):
    print(number, kind, mark, flush=True)
    if not sys.stdin.readline():
        sys.exit(1)


def tear(image, writes, rng):
    for offset, data in writes:
        if rng.random() < 0.5:
            data = data[: rng.randrange(len(data) // 512 + 1) * 512] if rng.random() < 0.3 else data
            put(image, offset, data)


def main():
    rng = random.Random(int(sys.argv[3])) if len(sys.argv) > 3 else None
    number, mark, writes = 0, "none", []
    with open(sys.argv[1], "rb") as log, open(sys.argv[2], "r+b", buffering=0) as image:
        for flags, offset, data in entries(log):
            number += 1
            if flags & MARK:
                if data != "dm-log-writes-end":
                    mark = data
                    stop(number, "mark", mark)
                continue
            if data:
                writes.append((offset, data))
            if not flags & (FLUSH | FUA):
                continue
            # All of an epoch is applied in order after its torn state, so nothing has to be taken back.
            if rng and len(writes) > 1:
                tear(image, writes, rng)
                stop(number, "torn", mark)
            for one in writes:
                put(image, *one)
            writes = []
            stop(number, "flush", mark)
    print(number, "end", mark, flush=True)


main()
