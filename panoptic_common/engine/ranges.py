"""Settings whose type is right and whose value cannot be trained with, found before the set-up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode

from panoptic_common.mappings import flatten

# What numpy, torch and the resizing of images would refuse, each with a traceback of its own.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "OUTPUT_DIR": (lambda x: bool(x) and "\0" not in x, "name a folder"),
    "SEED": (lambda x: x < 2**31, "give a number below 2 ** 31, negative for a seed by chance"),
    "DATALOADER.NUM_WORKERS": (lambda x: x >= 0, "give 0 or more processes"),
    "INPUT.MIN_SIZE_TRAIN": (
        lambda x: len(x) > 0 and min(x) >= 0,
        "give the sizes to choose from in pixels, or (0,) to leave images as they are",
    ),
    "INPUT.MIN_SIZE_TEST": (lambda x: x >= 0, "give pixels, or 0 to leave images as they are"),
    "INPUT.MAX_SIZE_TRAIN": (lambda x: x > 0, "give a number of pixels"),
    "INPUT.MAX_SIZE_TEST": (lambda x: x > 0, "give a number of pixels"),
    "MODEL.PIXEL_MEAN": (lambda x: len(x) == 3, "give one number per channel, three"),
    "MODEL.PIXEL_STD": (
        lambda x: len(x) == 3 and all(x),
        "give one number per channel, three, none of them 0",
    ),
}


def require_ranges(cfg: CfgNode) -> None:
    """Raise ValueError for the first setting that no training can have; it names key and value."""
    values = flatten(cfg)
    for key, (is_right, advice) in _RULES.items():
        if key in values and not is_right(values[key]):
            raise ValueError(f"{key} is {values[key]!r}: {advice}")
