#!/usr/bin/env python3
"""Tells whether this project would run here: versions, work-arounds in effect, a tiny real try.

    python tools/doctor.py

Prints what it finds even where torch or Detectron2 is missing. The exit status is 0 if everything
needed works and 1 if something is missing or fails; the last line says so in words.
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

MINIMUM_PYTHON = (3, 10)

# Module, distributions that provide it, and whether the project runs without it.
LIBRARIES = (
    ("torch", ("torch",), False),
    ("torchvision", ("torchvision",), False),
    ("numpy", ("numpy",), False),
    ("scipy", ("scipy",), False),
    ("numba", ("numba",), False),
    ("PIL", ("Pillow", "pillow-simd"), False),
    (
        "cv2",
        (
            "opencv-python-headless",
            "opencv-python",
            "opencv-contrib-python",
            "opencv-contrib-python-headless",
        ),
        False,
    ),
    ("pycocotools", ("pycocotools",), False),
    ("fvcore", ("fvcore",), False),
    ("panopticapi", ("panopticapi", "panopticapi-lite"), True),
    ("cityscapesscripts", ("cityscapesscripts",), True),
    ("safetensors", ("safetensors",), True),
)


def main() -> int:
    print(f"{'python':<18} {platform.python_version()} ({sys.executable})")
    if sys.version_info < MINIMUM_PYTHON:
        print(f"Python {'.'.join(map(str, MINIMUM_PYTHON))} or newer is needed.")
        return 1
    problems = [problem for library in LIBRARIES if (problem := show_library(*library))]
    problems += show_detectron2()
    if importlib.util.find_spec("torch") is not None:
        show_devices()
    if not problems:  # a trial of parts known to be missing would only repeat it
        problems += try_parts()
        show_shims()
    print()
    for problem in problems:
        print(f"problem: {problem}")
    print("This would not run." if problems else "All is well.")
    return 1 if problems else 0


def show_library(module: str, distributions: tuple[str, ...], optional: bool) -> str | None:
    """Prints a library's version; returns a sentence if it is needed and cannot be imported."""
    try:
        found = importlib.import_module(module)
    except Exception as error:  # also a library of the system that is missing, such as libGL
        if optional and isinstance(error, ModuleNotFoundError):
            print(f"{module:<18} - (optional)")
            return None
        print(f"{module:<18} MISSING")
        return f"{module} cannot be imported ({type(error).__name__}: {error})"
    print(f"{module:<18} {version_of(distributions) or getattr(found, '__version__', 'installed')}")
    return None


def version_of(distributions: tuple[str, ...]) -> str | None:
    """Returns the version of the first of these distributions that is installed."""
    for name in distributions:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def show_detectron2() -> list[str]:
    """Prints which Detectron2 is used; returns what is wrong with it."""
    try:
        importlib.import_module("panoptic_common.compat")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            detectron2 = importlib.import_module("detectron2")
            importlib.import_module("detectron2.modeling")
            comm = importlib.import_module("detectron2.utils.comm")
    except ModuleNotFoundError as error:
        print(f"{'detectron2':<18} MISSING")
        return [str(error)]
    except Exception as error:
        print(f"{'detectron2':<18} FAILS")
        return [f"Detectron2 is installed but cannot be imported: {type(error).__name__}: {error}"]
    # Both call themselves 0.6; this function came after the release.
    newer = hasattr(comm, "create_local_process_group")
    compiled = importlib.util.find_spec("detectron2._C") is not None
    version = version_of(("detectron2",)) or detectron2.__version__
    print(
        f"{'detectron2':<18} {version} ({'main' if newer else 'as released in 2021/22'}, "
        f"{'compiled' if compiled else 'not compiled: its Python part suffices'})"
    )
    print(f"{'':<18} {Path(detectron2.__file__).parent}")
    return []


def show_devices() -> None:
    """Prints what torch can compute on."""
    import torch

    if not torch.cuda.is_available():
        print(f"{'GPU':<18} none that torch can use; {torch.get_num_threads()} CPU threads")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        print(f"{'GPU ' + str(index):<18} {properties.name}, {memory:.0f} GiB")


def show_shims() -> None:
    """Prints the work-arounds in effect."""
    from panoptic_common.compat.engine import apply_to_engine

    from panoptic_common import compat

    apply_to_engine()
    print("\nwork-arounds in effect (panoptic_common/compat/)")
    for shim in compat.active_shims():
        print(f"  {shim.name}: {shim.reason}\n    until {shim.until}")


def try_parts() -> list[str]:
    """Runs the compiled parts that the models lean on; returns what fails."""
    print()
    problems = []
    for name, trial in (
        ("deformable convolution", try_deformable_convolution),
        ("NMS", try_nms),
        ("ROIAlign", try_roi_align),
        ("UnifiedPanoptic", try_unified_panoptic),
    ):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                says = trial()
            print(f"{name:<22} {says}")
        except Exception as error:
            print(f"{name:<22} FAILS")
            problems.append(f"{name} does not work ({type(error).__name__}: {error})")
    return problems


def devices() -> list[str]:
    import torch

    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def on_each_device(trial: Callable[[str], None]) -> str:
    """Runs a trial that raises on a wrong result; returns where it passed."""
    for device in devices():
        trial(device)
    return f"works on {' and '.join(devices())}"


def try_deformable_convolution() -> str:
    """With zero offsets it is an ordinary convolution, forward and backward."""
    import torch
    from torchvision.ops import deform_conv2d

    def trial(device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(1, 4, 6, 7, generator=generator).to(device).requires_grad_()
        weight = torch.rand(5, 4, 3, 3, generator=generator).to(device)
        offset = torch.zeros(1, 18, 6, 7, device=device)
        result = deform_conv2d(image, offset, weight, padding=1)
        expected = torch.nn.functional.conv2d(image, weight, padding=1)
        torch.testing.assert_close(result, expected, atol=1e-2, rtol=1e-2)  # TF32 on CUDA
        result.sum().backward()

    return on_each_device(trial)


def try_nms() -> str:
    """Of two boxes with IoU 0.81 the better stays, a third elsewhere as well."""
    import torch
    from torchvision.ops import nms

    def trial(device: str) -> None:
        boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 9, 9], [20, 20, 30, 30]], device=device)
        keep = nms(boxes, torch.tensor([0.5, 0.9, 0.1], device=device), 0.5)
        if keep.tolist() != [1, 2]:
            raise RuntimeError(f"kept boxes {keep.tolist()} instead of [1, 2]")

    return on_each_device(trial)


def try_roi_align() -> str:
    """On a ramp in x, a box centred at column 4 averages to 4."""
    import torch
    from torchvision.ops import roi_align

    def trial(device: str) -> None:
        ramp = torch.arange(9.0, device=device).expand(1, 1, 9, 9)
        box = torch.tensor([[0.0, 2.5, 2.5, 6.5, 6.5]], device=device)
        value = roi_align(ramp, box, output_size=1, sampling_ratio=2, aligned=True).item()
        if abs(value - 4.0) > 1e-4:
            raise RuntimeError(f"averaged to {value} instead of 4")

    return on_each_device(trial)


def try_unified_panoptic() -> str:
    """Its meta-architecture can be imported and is known to Detectron2."""
    if importlib.util.find_spec("unified_panoptic.modeling.meta_arch") is None:
        raise RuntimeError("the package unified_panoptic is incomplete")
    importlib.import_module("unified_panoptic.modeling.meta_arch")
    from detectron2.modeling import META_ARCH_REGISTRY

    if "UnifiedPanoptic" not in META_ARCH_REGISTRY:
        raise RuntimeError("it is not registered with Detectron2")
    return "known to Detectron2"


if __name__ == "__main__":
    sys.exit(main())
