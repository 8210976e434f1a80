"""Every work-around that Detectron2 needs on current libraries, one function each.

Detectron2's last release dates from 2021, and torch, numpy and Pillow have moved on since. Each
module that imports Detectron2 first does ``import panoptic_common.compat``: that import applies
the work-arounds (`apply`) and says in one sentence what to do if Detectron2 is missing
(`require_detectron2`). A work-around acts only where it is needed, states its reason and when it
can go, and shows up in `active_shims`, which ``tools/doctor.py`` prints.

Three things are replacements that are called by name: `launch` (several processes with or without
a GPU; in ``launch.py``), `AMPTrainer` (mixed precision by ``torch.amp``; in ``amp_trainer.py``)
and `torch_load_safely` (checkpoints that cannot run code).

Two known faults of Detectron2 are not patched here, because this project has its own class in
the same place: ``SemSegEvaluator`` (``np.array(copy=False)`` raises on numpy 2) is replaced by
``panoptic_common.evaluation.panoptic.SemanticEvaluator``, and ``layers.DeformConv`` (needs a compiled
Detectron2) by ``torchvision.ops.DeformConv2d``.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import multiprocessing
import os
import pickle
import re
import textwrap
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from torch import nn

logger = logging.getLogger(__name__)

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
    """Returns the work-arounds in effect in this process, in the order they were applied."""
    return tuple(_ACTIVE.values())


def _shim(until: str) -> Callable[[Callable[[], bool]], Callable[[], bool]]:
    """Marks a work-around: a function that returns True if it changed something."""

    def decorate(function: Callable[[], bool]) -> Callable[[], bool]:
        @functools.wraps(function)
        def run() -> bool:
            changed = function()
            if changed:
                reason = (function.__doc__ or "").strip().splitlines()[0]
                _ACTIVE.setdefault(function.__name__, Shim(function.__name__, reason, until))
            return changed

        return run

    return decorate


# --------------------------------------------------------------------------------------------
# Work-arounds needed before the first import of Detectron2
# --------------------------------------------------------------------------------------------


@_shim(until="Detectron2 0.6 (2021) is no longer supported; main does not need it")
def restore_pillow_names() -> bool:
    """Pillow 10 removed PIL.Image.LINEAR, which Detectron2 0.6 reads while it is imported.

    Pillow 9 still finds the name, with a warning and outside the module's dictionary.
    """
    import PIL.Image

    needed = _detectron2_has("data/transforms/transform.py", r"Image\.LINEAR\b")
    if "LINEAR" in vars(PIL.Image) or not needed:
        return False
    PIL.Image.LINEAR = PIL.Image.BILINEAR  # type: ignore[attr-defined]
    return True


@_shim(until="Detectron2 0.6 (2021) is no longer supported; main does not need it")
def restore_numpy_names() -> bool:
    """numpy 1.24 removed np.int, np.float, np.str, np.bool, which Detectron2 0.6 still uses.

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


@_shim(until="Detectron2 stops calling torch.jit.script when it is imported")
def silence_jit_script_warning() -> bool:
    """torch warns twice at every start that torch.jit.script is deprecated; users cannot act."""
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated")
    return True


@_shim(until="Detectron2 names the indexing; main does not yet")
def silence_meshgrid_warning() -> bool:
    """torch warns of a call of its meshgrid in Detectron2's anchor generator; users cannot act."""
    warnings.filterwarnings("ignore", message=r"torch\.meshgrid: in an upcoming release")
    return True


@_shim(until="Detectron2 0.6 (2021) is no longer supported; main does not need it")
def preload_in_forkserver() -> bool:
    """Data loading workers that are not forked from us would import Detectron2 unpatched.

    Python 3.14 makes ``forkserver`` the default on Linux. A worker then unpickles a Detectron2
    class before any of our modules. A server that preloads this module forks patched workers.
    """
    available = "forkserver" in multiprocessing.get_all_start_methods()
    if not available or not {"restore_pillow_names", "restore_numpy_names"} & set(_ACTIVE):
        return False
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    return True


def apply() -> None:
    """Applies the work-arounds that must precede the import of Detectron2; safe to repeat."""
    for shim in (
        restore_pillow_names,
        restore_numpy_names,
        silence_jit_script_warning,
        silence_meshgrid_warning,
        preload_in_forkserver,
    ):
        if shim.__name__ not in _ACTIVE:
            shim()


def require_detectron2() -> None:
    """Checks that Detectron2 is installed, without importing it.

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
    """Tells whether a source file of the installed Detectron2 holds ``pattern``.

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


# --------------------------------------------------------------------------------------------
# Work-arounds inside Detectron2's engine (imported late: it takes seconds)
# --------------------------------------------------------------------------------------------


@_shim(until="Detectron2's create_ddp_model asks for the device of the model")
def allow_ddp_on_cpu() -> bool:
    """Detectron2 always passes device_ids to DistributedDataParallel, a ValueError on the CPU."""
    import detectron2.engine.defaults as defaults

    original = defaults.create_ddp_model
    if getattr(original, "allows_cpu", False):
        return False

    @functools.wraps(original)
    def create_ddp_model(model: nn.Module, **options: Any) -> nn.Module:
        if device_type(model) != "cuda":
            options.setdefault("device_ids", None)
        return original(model, **options)

    create_ddp_model.allows_cpu = True  # type: ignore[attr-defined]
    defaults.create_ddp_model = create_ddp_model
    return True


@_shim(until="Detectron2's AMPTrainer uses torch.amp and runs on the CPU")
def use_torch_amp() -> bool:
    """Detectron2's AMPTrainer asserts CUDA and uses the deprecated torch.cuda.amp."""
    import detectron2.engine.defaults as defaults

    from panoptic_common.amp_trainer import AMPTrainer

    if defaults.AMPTrainer is AMPTrainer:
        return False
    defaults.AMPTrainer = AMPTrainer
    return True


def apply_to_engine() -> None:
    """Applies the work-arounds inside ``detectron2.engine``; safe to repeat.

    To be called before a ``DefaultTrainer`` is built. `launch` does it in each process.
    """
    allow_ddp_on_cpu()
    use_torch_amp()


def device_type(model: nn.Module) -> str:
    """Returns "cuda", "cpu", ... : the device of the first parameter ("cpu" without any)."""
    return next((parameter.device.type for parameter in model.parameters()), "cpu")


def __getattr__(name: str) -> Any:
    """Finds the replacements that live in modules which import torch or Detectron2 (PEP 562)."""
    if name == "AMPTrainer":
        from panoptic_common.amp_trainer import AMPTrainer

        return AMPTrainer
    if name == "launch":
        from panoptic_common.launch import launch

        return launch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# --------------------------------------------------------------------------------------------
# Checkpoints
# --------------------------------------------------------------------------------------------


def torch_load_safely(path: str | os.PathLike[str], allow_unsafe: bool = False) -> Any:
    """Loads a file of ``torch.save`` to the CPU without letting it run code.

    A pickle may name any function to be called while it is read. torch >= 2.6 refuses such files
    by default, older ones obey; here the refusal is the same for all, and says what to do. Since
    torch does not compare checksums, a flipped bit would go unnoticed; they are compared here.

    Args:
        path: the checkpoint file.
        allow_unsafe: obey the pickle if it cannot be loaded safely
            (``--allow-unsafe-checkpoint``); only for a source that may run code here.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, cut short, or no checkpoint at all.
        pickle.UnpicklingError: the file would call the functions that the message lists.
    """
    import torch

    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no checkpoint file {path}")
    try:
        _compare_checksums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        unsafe = _unsafe_globals(path, error)
        if not unsafe:
            raise ValueError(
                f"cannot read the checkpoint {path}: it is damaged, cut short or not a file of "
                f"torch.save ({_short(error)}); use an earlier checkpoint or fetch it again"
            ) from error
        if not allow_unsafe:
            raise pickle.UnpicklingError(
                f"the checkpoint {path} holds more than tensors and plain values, reading it "
                f"would call {', '.join(unsafe)}: if you trust its source with your machine, "
                "repeat with --allow-unsafe-checkpoint"
            ) from error
    logger.warning("Reading %s without protection: it may run any code.", path)
    return torch.load(path, map_location="cpu", weights_only=False)


def _compare_checksums(path: str) -> None:
    """Raises `zipfile.BadZipFile` if a record of the archive is not what was written."""
    if zipfile.is_zipfile(path):  # the format of torch < 1.6 has no checksums
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of its record {damaged} is wrong")


def _unsafe_globals(path: str, error: Exception) -> list[str]:
    """Returns the functions and classes for which torch refused the file; empty if damaged."""
    import torch

    if not isinstance(error, pickle.UnpicklingError):
        return []
    named = re.findall(r"GLOBAL ([\w.]+)", str(error))  # torch stops at the first of them
    if zipfile.is_zipfile(path):  # with right checksums: not damaged, so torch refused something
        find_all = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
        try:
            named = (find_all(path) if find_all else None) or named
        except pickle.UnpicklingError:  # it knows no other pickle protocol than torch's own
            pass
        named = named or [f"something that torch does not name ({_short(error)})"]
    return sorted(set(named))


def _short(error: Exception) -> str:
    """Returns the cause in one line: torch wraps it in a page of advice."""
    cause = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
    text = cause.group(1) if cause else str(error).strip() or type(error).__name__
    return textwrap.shorten(text.splitlines()[0], width=120, placeholder=" ...").rstrip(".")


# At the import, so that it is what a user without Detectron2 sees first.
require_detectron2()
apply()
