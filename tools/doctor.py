#!/usr/bin/env python3
"""Tell whether this project would run here: versions, work-arounds in effect, a tiny real try.

    python tools/doctor.py

Prints what it finds even where torch or Detectron2 is missing. The exit status is 0 if everything
needed works and 1 if something is missing or fails; the last line says so in words.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

if __package__:  # as panoptic-doctor
    from panoptic_tools.doctor_trials import TRIALS, try_solver
else:  # as a file, where this project need not be installed
    from doctor_trials import TRIALS, try_solver

with contextlib.suppress(ImportError):  # that it is missing is said in the table
    import panoptic_common.processes.starting  # Ctrl-C ends it without a traceback

MINIMUM_PYTHON = (3, 10)

# Module, what pip calls it, and whether the project runs without it.
LIBRARIES = (
    ("torch", "torch", False),
    ("torchvision", "torchvision", False),
    ("numpy", "numpy", False),
    ("scipy", "scipy", False),
    ("numba", "numba", False),
    ("PIL", "Pillow", False),
    ("cv2", "opencv-python-headless", False),
    ("pycocotools", "pycocotools", False),
    ("fvcore", "fvcore", False),
    ("filelock", "filelock", False),
    ("panopticapi", "panopticapi", True),
    ("cityscapesscripts", "cityscapesscripts", True),
    ("safetensors", "safetensors", True),
)


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(words)
    show("python", f"{platform.python_version()} ({sys.executable})")
    if sys.version_info < MINIMUM_PYTHON:
        print(f"Python {'.'.join(map(str, MINIMUM_PYTHON))} or newer is needed.")
        return 1
    problems = [problem for library in LIBRARIES if (problem := show_library(*library))]
    problems += show_project() or show_detectron2()
    if "torch" in sys.modules:  # it could be imported; else the table has said so
        problems += show_devices()
    if not problems:  # a trial of parts known to be missing would only repeat it
        problems += try_parts()
        show_shims()
    print()
    for problem in problems:
        print(f"problem: {problem}")
    print("This would not run." if problems else "All is well.")
    return 1 if problems else 0


def show(name: str, text: str) -> None:
    """Print one row of the table."""
    print(f"{name:<22} {text}")


def sentence(error: Exception) -> str:
    """Return the first line of an error, with its kind."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def show_library(module: str, distribution: str, optional: bool) -> str | None:
    """Print a library's version; return a sentence if it is needed and cannot be imported."""
    try:
        found = importlib.import_module(module)
    except Exception as error:  # also a library of the system that is missing, such as libGL
        if optional and isinstance(error, ModuleNotFoundError):
            show(module, "- (optional)")
            return None
        show(module, "MISSING")
        return f"{module} cannot be imported ({sentence(error)}): `pip install {distribution}`"
    version = getattr(found, "__version__", None)
    try:
        version = version or metadata.version(distribution)
    except metadata.PackageNotFoundError:
        version = "installed"
    show(module, version)
    return None


def show_project() -> list[str]:
    """Print where the project's own packages lie; return what is wrong with that."""
    spec = importlib.util.find_spec("panoptic_common")
    if spec is None or spec.origin is None:
        show("this project", "MISSING")
        return ["the project itself is not installed: run `pip install -e .` in its folder"]
    show("this project", str(Path(spec.origin).parents[1]))
    return []


def show_detectron2() -> list[str]:
    """Print which Detectron2 is imported; return what is wrong with it."""
    try:
        importlib.import_module("panoptic_common.compat")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            detectron2 = importlib.import_module("detectron2")
            importlib.import_module("detectron2.modeling")
            comm = importlib.import_module("detectron2.utils.comm")
    except ModuleNotFoundError as error:
        show("detectron2", "MISSING")
        return [f"Detectron2 cannot be imported: {error}"]
    except Exception as error:
        show("detectron2", "FAILS")
        return [f"Detectron2 is there but cannot be imported ({sentence(error)}): install another"]
    folder = Path(detectron2.__file__).resolve().parent
    # Releases and main call themselves 0.6; this function came after the release.
    newer = hasattr(comm, "create_local_process_group")
    compiled = importlib.util.find_spec("detectron2._C") is not None
    kind = "main" if newer else "as released in 2021/22"
    build = "compiled" if compiled else "not compiled: its Python part suffices"
    show("detectron2", f"{detectron2.__version__} ({kind}, {build})")
    show("", str(folder))
    for line in origin_of(folder):
        show("", line)
    return []


def origin_of(folder: Path) -> list[str]:
    """Return what is recorded about a folder with Detectron2: pip's version, the commit.

    Another Detectron2 may be installed beside the one that comes first on the path, so a record
    counts only if it is about this folder.
    """
    lines = []
    for distribution in metadata.distributions(name="detectron2"):
        if Path(str(distribution.locate_file("detectron2"))).resolve() == folder:
            lines.append(f"pip lists it as {distribution.version}")
            note = json.loads(distribution.read_text("direct_url.json") or "{}")
            if commit := note.get("vcs_info", {}).get("commit_id"):
                lines.append(f"files of commit {commit}")
            break
    if (folder.parent / ".git").exists():
        command = ["git", "-C", str(folder.parent), "rev-parse", "HEAD"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
            commit = answer.stdout.strip() if answer.returncode == 0 else "unknown"
        except (OSError, subprocess.SubprocessError):  # no git here, or it hangs
            commit = "unknown"
        lines.append(f"a git checkout at commit {commit}")
    return lines


def show_devices() -> list[str]:
    """Print what torch can compute on; return what is wrong with torch."""
    try:
        import torch

        if not torch.cuda.is_available():
            show("GPU", f"none that torch can use; {torch.get_num_threads()} CPU threads")
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            show(f"GPU {index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    except Exception as error:  # half an installation, or a driver that does not answer
        show("GPU", "FAILS")
        return [f"torch cannot tell its devices ({sentence(error)}): install it again"]
    return []


def show_shims() -> None:
    """Print the work-arounds in effect."""
    from panoptic_common.compat import active_shims
    from panoptic_common.compat.engine import apply_to_engine

    apply_to_engine()
    print("\nwork-arounds in effect (panoptic_common/compat/)")
    for shim in active_shims():
        print(f"  {shim.name}: {shim.reason}\n    until {shim.until}")


def try_parts() -> list[str]:
    """Run the parts that the models lean on, then the models; return what fails."""
    import torch

    print()
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    problems = try_part("solver", try_solver, ["cpu"])
    for name, trial in TRIALS.items():
        problems += try_part(name, trial, devices)
    return problems


def try_part(name: str, trial: Callable[[str], None], devices: list[str]) -> list[str]:
    """Run a trial, which raises on a wrong result, on each device; return what fails."""
    device = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for device in devices:
                trial(device)
    except Exception as error:
        show(name, f"FAILS on {device}")
        return [
            f"{name} does not work on {device} ({sentence(error)}): torch, torchvision, numba and "
            "Detectron2 may not fit together, so install matching versions"
        ]
    show(name, f"works on {' and '.join(devices)}")
    return []


if __name__ == "__main__":
    sys.exit(main())
