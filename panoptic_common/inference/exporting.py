"""From a model to the folder of `panoptic_common.runtime.folder`: each network part as ONNX."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from panoptic_common.runtime.folder import MANIFEST, open_session, write_manifest

logger = logging.getLogger(__name__)

# DeformConv came with 19. RoiAlign changed with 22, which onnxruntime 1.32 has no code for.
OPSET = 20


@dataclass(frozen=True, eq=False)
class Part:
    """One network of an export.

    Attributes:
        module: takes and returns tensors, or tuples of tensors.
        examples: inputs by name, in order; sizes that vary must differ from 0 and 1 here.
        outputs: names, in order.
        dynamic: of each input, the axes whose length varies.
    """

    module: nn.Module
    examples: Mapping[str, torch.Tensor]
    outputs: tuple[str, ...]
    dynamic: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Export:
    """What a system's `modeling.export.export_model` gives.

    Attributes:
        parts: by name.
        options: of the system, as JSON can hold them.
        divisibility: the padded sides of an image are multiples of it.
        smallest: least padded height and width.
    """

    parts: Mapping[str, Part]
    options: Mapping[str, Any]
    divisibility: int
    smallest: tuple[int, int]


class Normalised(nn.Module):
    """Subtracts the mean and divides by the deviation, as the first step of an exported network."""

    def __init__(self, pixel_mean: torch.Tensor, pixel_std: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", pixel_mean.detach().clone(), persistent=False)
        self.register_buffer("std", pixel_std.detach().clone(), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Normalise (N, 3, H, W) values 0 to 255."""
        return (image - self.mean) / self.std


def write_part(path: Path, part: Part) -> None:
    """Write a part as ONNX.

    Args:
        path: of the file.
        part: on the CPU, in evaluation mode.

    Raises:
        ImportError: onnx or onnxscript is missing.
    """
    free = {
        name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in part.dynamic.items()
    }
    # By position, as forward() may call its arguments otherwise.
    shapes: tuple[Any, ...] = tuple(free.get(name) for name in part.examples)
    parameters = inspect.signature(part.module.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        shapes = (shapes,)  # the exporter sees one argument, a tuple
    with torch.no_grad():
        program = torch.onnx.export(
            part.module.eval(),
            tuple(part.examples.values()),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            input_names=list(part.examples),
            output_names=list(part.outputs),
            verbose=False,
        )
    assert program is not None  # None is for exports to a file
    program.save(str(path))


def differences(path: Path, part: Part, inputs: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Compare a written part with torch.

    Args:
        path: of the ONNX file.
        part: that it was made from.
        inputs: by name.

    Returns:
        The greatest absolute difference of each output, divided by its greatest magnitude if that
        exceeds 1.
    """
    session = open_session(path, threads=1)
    found = session.run(list(part.outputs), {name: x.numpy() for name, x in inputs.items()})
    with torch.no_grad():
        expected = part.module(*inputs.values())
    expected = expected if isinstance(expected, (tuple, list)) else (expected,)
    result = {}
    for name, theirs, ours in zip(part.outputs, expected, found, strict=True):
        scale = max(float(theirs.abs().max()) if theirs.numel() else 1.0, 1.0)
        gap = (theirs - torch.from_numpy(ours)).abs()
        result[name] = float(gap.max()) / scale if gap.numel() else 0.0
    return result


def write_export(
    folder: Path, export: Export, system: str, classes: list[dict], image_options: Mapping[str, Any]
) -> None:
    """Write the parts and `model.json`, the latter last, so that no half export looks whole.

    Args:
        folder: made if missing.
        export: of a system.
        system: the meta-architecture.
        classes: class table.
        image_options: of `image_preparation`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    files = {name: f"{name}.onnx" for name in export.parts}
    for name, file in files.items():
        logger.info("writing %s", folder / file)
        write_part(folder / file, export.parts[name])
    padding = {"divisibility": export.divisibility, "smallest": list(export.smallest)}
    write_manifest(
        folder,
        system=system,
        classes=classes,
        preparation={**image_options, **padding},
        parts=files,
        options=export.options,
    )


def image_preparation(cfg: CfgNode) -> dict[str, Any]:
    """Say how an image becomes the input of a network; `panoptic_common.runtime.images` does it.

    What depends on the built network, "divisibility" and "smallest", is not among it.
    """
    node = cfg.INPUT
    return {
        "image_format": node.FORMAT,
        "shortest": int(node.MIN_SIZE_TEST),
        "longest": int(node.MAX_SIZE_TEST),
        "scale": float(node.TEST_SCALE),
        "intensity": {
            "grey": bool(node.INTENSITY.GREY),
            "percentiles": [float(value) for value in node.INTENSITY.PERCENTILES],
            "dark_background": bool(node.INTENSITY.DARK_BACKGROUND),
        },
        "pixel_mean": [float(value) for value in cfg.MODEL.PIXEL_MEAN],
    }
