"""Read mutated pickles of arrays, in a process of its own with little memory: forged, not crashed.

    python array_pickle_fuzzer.py SEED COUNT

Prints how many were read and how many refused. What is read must be made of numeric arrays.
"""

from __future__ import annotations

import collections
import pickle
import random
import resource
import sys
import time

import numpy as np

from panoptic_common.checkpoint.array_pickle import ALLOWANCE, GROWTH, load_arrays

ROOM = 400 << 20  # bytes of memory that reading may take
SLOWEST = 2.0  # seconds per file


def originals() -> list[bytes]:
    """Pickles of every protocol, with what files of weights hold."""
    weights = collections.OrderedDict(
        a=np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        f=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        b=np.array([True, False]),
        i=np.arange(5, dtype=">i8"),
        s=np.float64(2.5),
    )
    extra = {"__author__": "x", "n": [1, -2, 10**20, 2.5, None, b"bytes", {"p", "q"}, (1, 2)]}
    extra["o"] = np.array([object], dtype=object)  # a forger's way in, and refused
    return [
        pickle.dumps({"model": weights, **more}, protocol)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        for more in ({}, extra)
    ]


def mutated(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """Change, insert, delete, repeat or splice a few bytes."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        place, count = draw.randrange(len(changed)), draw.choice((1, 1, 2, 4, 8, 64))
        kind = draw.randrange(5)
        if kind == 0:
            changed[place] = draw.choice(b"\xff\x00\x7f.(tbRc0123}]hjq\x94\x93\x8d\x8b|O<V")
        elif kind == 1:
            changed[place] ^= 1 << draw.randrange(8)
        elif kind == 2:
            del changed[place : place + count]
        elif kind == 3:
            changed[place:place] = changed[place : place + count] * draw.choice((1, 3, 50))
        else:
            other = draw.choice(others)
            start = draw.randrange(len(other))
            changed[place : place + count] = other[start : start + count]
        changed = changed or bytearray(b".")
    return bytes(changed)


def require_numeric(value: object) -> int:
    """Return the bytes of all arrays; raise if one has an object in it."""
    if isinstance(value, (np.ndarray, np.generic)):
        assert value.dtype.kind in "biufc" and value.dtype.fields is None
        np.array(value).tobytes()  # touches every byte
        return value.nbytes
    if isinstance(value, dict):
        return sum(require_numeric(item) for item in value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return sum(require_numeric(item) for item in value)
    assert value is None or isinstance(value, (int, float, str, bytes, bytearray))
    return 0


def main(seed: int, count: int) -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    draw, files = random.Random(seed), originals()
    read = refused = 0
    for _ in range(count):
        data = mutated(draw.choice(files), files, draw)
        start = time.process_time()
        try:
            value = load_arrays(data)
        except MemoryError:
            raise
        except Exception:
            refused += 1
        else:
            assert require_numeric(value) <= GROWTH * len(data) + ALLOWANCE
            read += 1
        assert time.process_time() - start < SLOWEST, data
    print(read, refused)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
