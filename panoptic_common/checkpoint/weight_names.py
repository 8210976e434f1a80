"""Names of weights: of torchvision in those of Detectron2, of classes, and lists for messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# What torchvision's ImageNet models expect of images in RGB, 0..255.
_TORCHVISION_MEAN = (123.675, 116.28, 103.53)
_TORCHVISION_STD = (58.395, 57.12, 57.375)


def is_torchvision_resnet(weights: dict[str, Any]) -> bool:
    """Tell whether the names are those of a ResNet of torchvision."""
    return {"conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"} <= weights.keys()


def rename_torchvision_resnet(weights: dict[str, Any]) -> dict[str, Any]:
    """Give the entries of a torchvision ResNet the names of Detectron2's ResNet.

    conv1 -> stem.conv1, layerN -> res(N+1), bnN -> convN.norm, downsample.0 -> shortcut,
    downsample.1 -> shortcut.norm. The classifier and the counters of batch norm are left out.
    """
    renamed = {}
    for name, value in weights.items():
        if name.startswith("fc.") or is_counter(name):
            continue
        name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
        name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        layer = re.match(r"layer(\d)\.(.*)", name)
        name = f"res{int(layer[1]) + 1}.{layer[2]}" if layer else f"stem.{name}"
        renamed[name] = value
    return renamed


def torchvision_settings(cfg: Any) -> list[str]:
    """List the settings that a config lacks for ResNets of torchvision.

    Args:
        cfg: a Detectron2 config.

    Returns:
        "KEY value" for each setting to change.
    """
    wrong = []
    if cfg.INPUT.FORMAT != "RGB":
        wrong.append("INPUT.FORMAT RGB")
    for key, expected in (("PIXEL_MEAN", _TORCHVISION_MEAN), ("PIXEL_STD", _TORCHVISION_STD)):
        value = cfg.MODEL[key]
        if len(value) != 3 or not np.allclose(value, expected, atol=0.5):
            wrong.append(f"MODEL.{key} {list(expected)}")
    # Basic blocks (below 50 layers) have no 1x1 convolution that could carry the stride.
    if cfg.MODEL.RESNETS.STRIDE_IN_1X1 and cfg.MODEL.RESNETS.DEPTH >= 50:
        wrong.append("MODEL.RESNETS.STRIDE_IN_1X1 False")
    return wrong


def class_table_difference(theirs: Sequence[dict], ours: Sequence[dict]) -> str | None:
    """Find the first difference between two class tables; ids and colours do not matter.

    Args:
        theirs: entries in contiguous order, with "name" and "isthing".
        ours: likewise.

    Returns:
        One sentence, or None if there is no difference.
    """
    if len(theirs) != len(ours):
        return f"{len(theirs)} classes there, {len(ours)} here"
    for position, (a, b) in enumerate(zip(theirs, ours, strict=True)):
        if (a["name"], bool(a["isthing"])) != (b["name"], bool(b["isthing"])):
            kinds = [f"{e['name']!r} ({'thing' if e['isthing'] else 'stuff'})" for e in (a, b)]
            return f"class {position} is {kinds[0]} there, {kinds[1]} here"
    return None


def backbone_prefix(names: Iterable[str]) -> str:
    """Return how the names that ImageNet weights fill begin: the ResNet below an FPN, if any."""
    names = list(names)
    for prefix in ("backbone.bottom_up.", "backbone."):
        if any(name.startswith(prefix) for name in names):
            return prefix
    return ""


def is_counter(name: str) -> bool:
    """Tell whether batch norm counts its batches here; nothing uses it, most files lack it."""
    return name.endswith("num_batches_tracked")


def listed(names: Sequence[str], misfits: dict[str, Any] | None = None, limit: int = 60) -> str:
    """List entries, one line per layer, with the two shapes where they differ.

    Args:
        names: entries such as "backbone.stem.conv1.weight".
        misfits: entry -> (shape in the file, shape in the model).
        limit: greatest number of lines; the rest is only counted.
    """
    layers: dict[str, list[str]] = {}
    for name in names:
        layer, _, leaf = name.rpartition(".")
        shapes = (misfits or {}).get(name)
        note = f" (there {shapes[0]}, here {shapes[1]})" if shapes else ""
        layers.setdefault(layer, []).append(leaf + note)
    lines = [
        f"  {layer}.{leaves[0]}" if len(leaves) == 1 else f"  {layer}.{{{', '.join(leaves)}}}"
        for layer, leaves in layers.items()
    ]
    if len(lines) > limit:
        lines[limit:] = [f"  ... and {len(lines) - limit} more"]
    return "\n".join(lines) or "  nothing"
