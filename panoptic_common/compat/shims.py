"""Work-arounds that must be in effect before Detectron2 is imported, one function each.

A work-around acts only where it is needed, states its reason and when it can go, and shows up in
`active_shims`, which ``tools/doctor.py`` prints.
"""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec


# --------------------------------------------------------------------------------------------
# Registry
# --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shim:
    """One work-around in effect.

    Attributes:
        name: the function that applied it.
        reason: what fails without it (first line of that function's docstring).
        until: when it can be deleted.
    """

    name: str
    reason: str
    until: str


_ACTIVE: dict[str, Shim] = {}


def active_shims() -> tuple[Shim, ...]:
    """Return the work-arounds in effect in this process, in the order they were applied."""
    return tuple(_ACTIVE.values())


def shim(until: str) -> Callable[[Callable[[], bool]], Callable[[], bool]]:
    """Mark a work-around: a function that returns True if it changed something."""

    def decorate(function: Callable[[], bool]) -> Callable[[], bool]:
        @functools.wraps(function)
        def run() -> bool:
            changed = function()
            if changed:
                reason = (function.__doc__ or "").partition("\n")[0]  # none with python -OO
                _ACTIVE.setdefault(function.__name__, Shim(function.__name__, reason, until))
            return changed

        return run

    return decorate


# --------------------------------------------------------------------------------------------
# Work-arounds needed before the first import of Detectron2
# --------------------------------------------------------------------------------------------


@shim(until="Detectron2 0.6 (2021) is no longer supported; main does not need it")
def restore_pillow_names() -> bool:
    """Pillow 10 removed PIL.Image.LINEAR, which Detectron2 0.6 reads while it is imported.

    Pillow 9 still finds the name, with a warning and outside the module's dictionary.
    """
    import PIL.Image

    needed = _detectron2_has("data/transforms/transform.py", r"Image\.LINEAR\b")
    if "LINEAR" in vars(PIL.Image) or not needed:
        return False
    vars(PIL.Image)["LINEAR"] = PIL.Image.Resampling.BILINEAR
    return True


@shim(until="Detectron2 0.6 (2021) is no longer supported; main does not need it")
def restore_numpy_names() -> bool:
    """Numpy 1.24 removed np.int, np.float, np.str, np.bool, which Detectron2 0.6 still uses.

    One of these uses fails quietly: the loader swallows the AttributeError and the class
    histogram just disappears from the training log. The names are looked up in the module's
    dictionary, because ``hasattr(np, "str")`` itself warns that the name may come back.
    """
    import numpy as np

    if not _detectron2_has("data/build.py", r"np\.int\b"):
        return False
    removed = {"int": int, "float": float, "str": str, "bool": bool}
    missing = {name: value for name, value in removed.items() if name not in vars(np)}
    for name, value in missing.items():
        setattr(np, name, value)
    return bool(missing)


@shim(until="Detectron2 stops calling torch.jit.script when it is imported")
def silence_jit_script_warning() -> bool:
    """Torch warns twice at every start that torch.jit.script is deprecated; users cannot act."""
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated")
    return True


@shim(until="Detectron2 names the indexing; main does not yet")
def silence_meshgrid_warning() -> bool:
    """Torch warns of a call of its meshgrid in Detectron2's anchor generator; users cannot act."""
    warnings.filterwarnings("ignore", message=r"torch\.meshgrid: in an upcoming release")
    return True


@shim(until="fvcore's flip copies what it cannot write; it does not yet")
def silence_read_only_warning() -> bool:
    """Torch warns when fvcore flips a resized image, which Pillow gives read-only.

    Nothing writes into it, and users cannot act.
    """
    warnings.filterwarnings("ignore", message=r"The given NumPy array is not writ")
    return True


@shim(until="Detectron2 0.6 (2021) is no longer supported; main does not need it")
def preload_in_forkserver() -> bool:
    """Unforked data loading workers would import Detectron2 unpatched.

    Python 3.14 makes ``forkserver`` the default on Linux. A worker then unpickles a Detectron2
    class before any of our modules. A server that preloads this package forks patched workers.
    """
    available = "forkserver" in multiprocessing.get_all_start_methods()
    if not available or not {"restore_pillow_names", "restore_numpy_names"} & set(_ACTIVE):
        return False
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "panoptic_common.compat"])
    return True


def apply() -> None:
    """Apply the work-arounds that must precede the import of Detectron2; safe to repeat."""
    for work_around in (
        restore_pillow_names,
        restore_numpy_names,
        silence_jit_script_warning,
        silence_meshgrid_warning,
        silence_read_only_warning,
        preload_in_forkserver,
    ):
        if work_around.__name__ not in _ACTIVE:
            work_around()


def require_detectron2() -> None:
    """Check that Detectron2 is installed, without importing it.

    Raises:
        ModuleNotFoundError: it is not; the message is one sentence with the two ways to get it.
    """
    spec = _detectron2_spec()
    if spec is not None and spec.origin is not None:
        return
    # A folder without __init__.py is found as an empty namespace package: typically the
    # checkout of Detectron2 itself, seen from the folder above it.
    hidden = "" if spec is None else " (a folder of that name on the path is not the package)"
    raise ModuleNotFoundError(
        f"Detectron2 is not installed{hidden}: either install it from source with `pip install "
        "--no-build-isolation git+https://github.com/facebookresearch/detectron2`, or let "
        "`python tools/setup_environment.py` (which `make` calls) prepare a .venv with it.",
        name="detectron2",
    )


def _detectron2_spec() -> ModuleSpec | None:
    try:
        return importlib.util.find_spec("detectron2")
    except ValueError:  # sys.modules holds None or a stand-in under that name
        return None


def _detectron2_has(file: str, pattern: str) -> bool:
    """Tell whether a source file of the installed Detectron2 holds ``pattern``.

    Its version does not tell: the release of 2021 and today's main both say 0.6. Without readable
    source (a zipped package) the answer is True, as a work-around too many does no harm.
    """
    spec = _detectron2_spec()
    if spec is None or spec.origin is None:
        return False
    try:
        return re.search(pattern, (Path(spec.origin).parent / file).read_text("utf-8")) is not None
    except OSError:
        return True
