"""The one definition of "compiled" for the whole solver, and its reasons.

* Kernels are kept (`kernel_cache`): compiling all takes half a minute, loading them from
  `__pycache__` a part of a second. Two processes may share the cache.
* `nogil=True`: a solve releases the interpreter, so many solves run side by side on plain Python
  threads (`cops.solver.parallel`). `parallel=True` is not used: such functions abort when several
  Python threads call them under Numba's "workqueue" layer, the only one that is always there.
* `fastmath` is off in `jit`: the order of contractions hangs on exact comparisons, and +inf has
  meaning.
* `error_model="numpy"`: no branch for a division by zero in the inner loops; none divides.

With NUMBA_DISABLE_JIT=1 in the environment, the decorators return the function itself, and all runs
as (slow) Python with numpy scalars. The tests run both ways, so kernels must not rely on integers
that wrap around.
"""

from __future__ import annotations

import contextlib
import glob
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np

from cops.solver.kernel_cache import compile_and_keep

Kernel = Callable[..., Any]

# No kernel is called from C, so none needs an entry for it.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
# LLVM may assume that there is no NaN and that -0 = 0. Where both hold, as in minima over classes,
# the result is the same to the last bit.
_NO_NAN: dict[str, Any] = {"fastmath": {"nnan", "nsz"}}
_NO_ENTRY: dict[str, Any] = {"no_cpython_wrapper": True}


def jit(function: Kernel) -> Kernel:
    """Compile a kernel that may allocate."""
    return _compile(function, {})


def jit_minimum(function: Kernel) -> Kernel:
    """Compile a kernel that takes minima of numbers of which none is NaN."""
    return _compile(function, _NO_NAN)


def jit_pass(function: Kernel) -> Kernel:
    """Compile a pass over many nodes, without NaN: it allocates nothing and returns numbers only.

    Numba counts references to arrays even where an array only changes its name, with atomic
    instructions. For a row of a graph that takes ten times as long as to read it. So passes are
    compiled without the memory manager ("_nrt"). They may read, write and slice arrays, also those
    of a tuple, but what they need is allocated by their callers.
    """
    return _compile(function, _NO_NAN | {"_nrt": False})


def jit_inner(function: Kernel) -> Kernel:
    """Compile a kernel that may allocate and that only other kernels call.

    It has no entry for Python (which would end the process there). The entry takes arrays and
    tuples apart, and each caller optimises it once more: a third of the time of compiling.
    """
    return _compile(function, _NO_ENTRY)


def jit_inner_pass(function: Kernel) -> Kernel:
    """Compile as `jit_pass` what only other kernels call."""
    return _compile(function, _NO_NAN | {"_nrt": False} | _NO_ENTRY)


def jit_step(function: Kernel) -> Kernel:
    """Compile a step of passes, once, and let LLVM make it a part of each kernel that calls it.

    What holds for `jit_inner_pass` holds here. Numba would type and lower an inlined step anew in
    each kernel (`jit_inline`), which takes longer than what LLVM does. Arguments of another type,
    such as int32 for int64, or literals, make it compile the step again.
    """
    options = _OPTIONS | _NO_NAN | _NO_ENTRY | {"_nrt": False, "forceinline": True}
    step: Kernel = numba.njit(**options)(function)
    return step


def jit_inline(function: Kernel) -> Kernel:
    """Compile a step as a part of each kernel that calls it, with the options of that kernel.

    This is for steps that allocate, and for those that are called once or with constants.
    """
    inlined: Kernel = numba.njit(inline="always", error_model="numpy")(function)
    return inlined


@jit_step
def index(number):
    """Return an integer that is known not to be negative as an index.

    Of a signed one Numba asks each time whether it counts from the end of the array. In a loop over
    links that is a third of the time. (To calculate with one: signed and unsigned make floats.)
    """
    return np.uint64(number)


def _compile(function: Kernel, options: dict[str, Any]) -> Kernel:
    kernel: Any = compile_and_keep(function, _OPTIONS | options)
    if hasattr(kernel, "stats"):  # not with NUMBA_DISABLE_JIT
        _forget_stale_kernels(kernel.stats.cache_path)
    decorated: Kernel = kernel
    return decorated


@cache
def announce_compiling(kernel: Kernel) -> bool:
    """Say in one line of the log that kernels are about to be compiled, if none is cached.

    Nobody shall wait in silence. It is a warning so that it is seen without any set-up of the log.

    Args:
        kernel: any one of the folder whose kernels are needed now.

    Returns:
        Whether so it is. They will be kept then.
    """
    path = kernel.stats.cache_path if hasattr(kernel, "stats") else None
    cold = path is not None and not any(Path(path).glob("*.nbi"))
    if cold:
        logging.getLogger(__name__).warning(
            "compiling the kernels of %s for this machine, once: that takes up to a minute",
            kernel.__module__.rpartition(".")[0],
        )
    return cold


@cache
def _newest_source() -> float:
    """Return when a file of the solver was last changed; kernels import from no other package."""
    return max(file.stat().st_mtime for file in Path(__file__).parent.rglob("*.py"))


@cache
def _forget_stale_kernels(cache_path: str | None) -> None:
    """Drop the cached kernels of one folder that are older than any source file of the solver.

    Numba compares a cached kernel with the file that defines it, and with no other. But a kernel
    holds the code and the constants that it imports, from other folders of the solver, too. After
    an update of one file, the kernels of another would go on with what the first one said before.
    They would give wrong results without a word.

    Args:
        cache_path: of a folder's kernels. Each folder with kernels has its own. It is looked at
            when the first kernel of the folder is decorated, hence before any of them is loaded.
    """
    if cache_path is None:
        return
    # A folder that cannot be read or written is no reason not to solve.
    with contextlib.suppress(OSError):
        for index in Path(cache_path).glob("*.nbi"):
            if index.stat().st_mtime < _newest_source():
                index.unlink(missing_ok=True)
                # Numba writes an index first and then what it names. Whoever is killed between the
                # two must not leave an index that names a kernel of the past.
                for kernel in Path(cache_path).glob(f"{glob.escape(index.stem)}.*.nbc"):
                    kernel.unlink(missing_ok=True)
