"""Memory of large arrays that is kept for the next solve.

What the system hands out is filled with zeros first, page by page or two megabytes at a time. For
the costs of an image that takes longer than to calculate them, and threads wait for one another
meanwhile. A solve borrows such memory, and gives it back at its end. Meanwhile nobody else has it.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

Memory = npt.NDArray[np.uint8]

# Less is left to the allocator, which keeps it by itself.
LEAST_LENT = 1 << 20
# So much is kept at most, for all threads together.
MOST_KEPT = 1 << 26

_KEPT: list[Memory] = []
_LOCK = threading.Lock()


def lend(shape: tuple[int, ...], dtype: npt.DTypeLike) -> tuple[npt.NDArray[Any], Memory | None]:
    """Return an array with any content, and what is to be given back (None: nothing)."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < LEAST_LENT:
        return np.empty(shape, dtype), None
    memory = _take(size)
    if memory is None:
        memory = np.empty(size, np.uint8)
    return memory[:size].view(dtype).reshape(shape), memory


def _take(size: int) -> Memory | None:
    """Take from what is kept the smallest that has `size` bytes, but not twice as many."""
    with _LOCK:
        fitting = [m for m in range(len(_KEPT)) if size <= _KEPT[m].size <= 2 * size]
        return _KEPT.pop(min(fitting, key=lambda m: _KEPT[m].size)) if fitting else None


def give_back(memory: list[Memory]) -> None:
    """Keep memory that nobody uses any more; what was kept longest goes where it is too much."""
    with _LOCK:
        _KEPT.extend(memory)
        while sum(kept.size for kept in _KEPT) > MOST_KEPT:
            del _KEPT[0]
