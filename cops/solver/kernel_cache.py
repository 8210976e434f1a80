"""Compiled kernels are kept where that is possible, and no disk is a reason not to solve.

Numba keeps them beside the source files, or else in the user's cache folder. In containers often
neither can be written to, and Numba then refuses the whole function. It also lets a full disk end
the first solve. Here the next place is a folder of the user's own below the system's temporary one.
Without that the kernels are compiled anew in every process, which takes half a minute.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import event as events

logger = logging.getLogger(__name__)


class _CollectorPause(events.Listener):
    """Pause Python's garbage collector while kernels of the solver are compiled.

    The compiler makes millions of objects that live until it is done. The collector goes through
    them again and again: a tenth of the time. What it would have found it finds afterwards.
    """

    def __init__(self) -> None:
        # Numba compiles in one thread at a time. A kernel may be compiled while another one is.
        self._depth = 0
        self._was_on = False

    def on_start(self, event: events.Event) -> None:
        """Pause before the first kernel."""
        if self._depth or event.data["dispatcher"].py_func.__module__.startswith("cops.solver."):
            if self._depth == 0:
                self._was_on = gc.isenabled()
                gc.disable()
            self._depth += 1

    def on_end(self, event: events.Event) -> None:
        """Go on after the last one, also if it has failed."""
        if self._depth:
            self._depth -= 1
            if self._depth == 0 and self._was_on:
                gc.enable()


_register: Any = events.register  # without annotations
_register("numba:compile", _CollectorPause())


def compile_and_keep(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Compile a function by Numba at its first call, and keep the result if possible.

    Args:
        function: the kernel.
        options: of `numba.njit`, without "cache".

    Returns:
        The dispatcher; with NUMBA_DISABLE_JIT the function itself.
    """
    try:
        kernel = numba.njit(cache=True, **options)(function)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        kernel = _keep_elsewhere(function, options)
    store = getattr(kernel, "_cache", None)
    if store is not None:
        _survive_the_disk(store)
    return kernel


def _keep_elsewhere(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Compile as `compile_and_keep` where Numba has found no place of its own."""
    folder = temporary_folder()
    if folder is None:
        return numba.njit(**options)(function)
    with _numba_folder(folder):
        return numba.njit(cache=True, **options)(function)


@cache
def temporary_folder() -> Path | None:
    """Return a folder for kernels that nobody else can write to, and say once what is done.

    Numba runs what it finds there. A folder that another user has made in advance is not taken.

    Returns:
        None where there is no such folder.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"cops_solver_{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        if own and not stat.S_IMODE(found.st_mode) & 0o022:
            tempfile.TemporaryFile(dir=folder).close()
            logger.warning(
                "Neither the folder of cops.solver nor the home can be written to: compiled "
                "kernels are kept in %s (NUMBA_CACHE_DIR names another folder)",
                folder,
            )
            return folder
    except OSError:
        pass
    logger.warning(
        "No folder can be written to: the kernels of cops.solver are compiled anew in this "
        "process, which takes half a minute (NUMBA_CACHE_DIR names a folder for them)"
    )
    return None


@contextlib.contextmanager
def _numba_folder(folder: Path) -> Iterator[None]:
    """Let Numba keep what is decorated in the block in a folder, and nothing else."""
    settings = vars(numba.config)
    before = settings["CACHE_DIR"]
    settings["CACHE_DIR"] = str(folder)
    try:
        yield
    finally:
        settings["CACHE_DIR"] = before


def _survive_the_disk(store: Any) -> None:
    """Make a kernel's cache miss, instead of raise, where its files are damaged or not writable."""
    load, save = store.load_overload, store.save_overload

    def load_or_miss(*arguments: Any) -> Any:
        try:
            return load(*arguments)
        except Exception as error:  # a cut pickle raises nearly anything
            _say_once(store.cache_path, f"read ({error})")
            with contextlib.suppress(OSError):
                store.flush()  # or what follows would stumble over the same index
            return None

    def save_or_go_on(*arguments: Any) -> None:
        try:
            save(*arguments)
        except OSError as error:
            _say_once(store.cache_path, f"written ({error})")

    store.load_overload, store.save_overload = load_or_miss, save_or_go_on


@cache
def _say_once(folder: str, what: str) -> None:
    logger.warning("Compiled kernels in %s cannot be %s: compiling them anew.", folder, what)
