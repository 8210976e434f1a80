"""The one definition of "compiled" for the whole solver, and its reasons.

* `cache=True`: compiling all kernels takes half a minute, loading them from `__pycache__` a part of
  a second. Two processes may share the cache.
* `nogil=True`: a solve releases the interpreter, so many solves run side by side on plain Python
  threads (`cops.solver.parallel`). `parallel=True` is not used: such functions abort when several
  Python threads call them under Numba's "workqueue" layer, the only one that is always there.
* `fastmath` stays off: the order of contractions hangs on exact comparisons, and +inf has meaning.
* `error_model="numpy"`: no branch for a division by zero in the inner loops; none divides.

With NUMBA_DISABLE_JIT=1 in the environment, `jit` returns the function itself, and everything runs
as (slow) Python with numpy scalars: the tests run both ways, so kernels must not rely on integers
that wrap around.
"""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba

_njit = numba.njit(cache=True, nogil=True, error_model="numpy")


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a kernel."""
    kernel = _njit(function)
    if hasattr(kernel, "stats"):  # not with NUMBA_DISABLE_JIT
        _forget_stale_kernels(Path(function.__code__.co_filename).parent, kernel.stats.cache_path)
    return kernel


@cache
def _forget_stale_kernels(sources: Path, cache_path: str | None) -> None:
    """Drop cached kernels that are older than any source file beside theirs.

    Numba compares a cached kernel with the file that defines it, and with no other. But a kernel
    holds the code and the constants that it imports: after an update of one file, the kernels of
    another would go on with what the first one said before, and give wrong results without a word.
    """
    if cache_path is None:
        return
    # A folder that cannot be read or written is no reason not to solve.
    with contextlib.suppress(OSError):
        newest = max(file.stat().st_mtime for file in sources.glob("*.py"))
        for index in Path(cache_path).glob("*.nbi"):
            if index.stat().st_mtime < newest:
                index.unlink(missing_ok=True)
                # Numba writes an index first and then what it names. Whoever is killed between the
                # two must not leave an index that names a kernel of the past.
                for kernel in Path(cache_path).glob(f"{glob.escape(index.stem)}.*.nbc"):
                    kernel.unlink(missing_ok=True)
