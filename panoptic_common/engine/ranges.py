"""Settings whose type is right and whose value cannot be trained with, found before the set-up."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode

from panoptic_common.config.common_values import check_common_values
from panoptic_common.config.value_rules import (
    TEXT,
    Rule,
    ascending,
    number,
    one_of,
    or_none,
    require_values,
    rising,
    several,
    whole,
)
from panoptic_common.values import is_integer

_FRACTION, _DECAY = number(0, 1), number(0)
_CROPS = ("relative", "relative_range", "absolute", "absolute_range")


def _is_multiplier(entry: Any) -> bool:
    """Tell whether an entry of SOLVER.LR_MULTIPLIERS is (prefix of names, factor)."""
    if not isinstance(entry, (list, tuple)) or len(entry) != 2:
        return False
    return TEXT.is_right(entry[0]) and number(0).is_right(entry[1])


# What numpy, torch and the resizing of images would refuse, each with a traceback of its own, or
# take, and train nonsense.
RULES: dict[str, Rule] = {
    "OUTPUT_DIR": Rule(lambda x: TEXT.is_right(x) and "\0" not in x, "name a folder"),
    "SEED": Rule(
        lambda x: is_integer(x) and x < 2**31,
        "give a number below 2 ** 31, negative for a seed by chance",
    ),
    "VIS_PERIOD": whole(0, note="0 for no images"),
    "DATALOADER.NUM_WORKERS": whole(0, note="0 to read in the training's process"),
    "INPUT.MIN_SIZE_TRAIN": several(
        whole(0), "give the sizes to choose from in pixels, or (0,) to leave images as they are"
    ),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": one_of("choice", "range"),
    "INPUT.MAX_SIZE_TRAIN": whole(1, note="in pixels"),
    "INPUT.RANDOM_FLIP": one_of("none", "horizontal", "vertical", "both"),
    "INPUT.RANDOM_SCALE": several(
        number(above=0), "give 0 < smallest <= largest factor", count=2, order=ascending
    ),
    "INPUT.CROP.TYPE": one_of(*_CROPS),
    "INPUT.RELIGHT.BRIGHTNESS": _FRACTION,
    "INPUT.RELIGHT.CONTRAST": _FRACTION,
    "INPUT.RELIGHT.SATURATION": _FRACTION,
    "INPUT.RELIGHT.HUE": number(0, 0.5, note="in turns"),
    "INPUT.RELIGHT.GAMMA": number(0),
    "SOLVER.OPTIMIZER": Rule(
        lambda x: isinstance(x, str) and x.upper() in ("SGD", "ADAMW", "ADAM"),
        'use "SGD", "ADAMW" or "ADAM"',
    ),
    "SOLVER.LR_SCHEDULER_NAME": one_of("WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR"),
    "SOLVER.LR_MULTIPLIERS": several(
        Rule(_is_multiplier, ""),
        "give pairs of a name's beginning and a factor of 0 or more, such as [['backbone.', 0.1]]",
        may_be_empty=True,
    ),
    "SOLVER.BASE_LR_END": number(0),
    "SOLVER.BIAS_LR_FACTOR": number(0),
    "SOLVER.GAMMA": number(0),
    "SOLVER.STEPS": several(
        whole(1), "give ascending iterations of 1 or more, or ()", may_be_empty=True, order=rising
    ),
    "SOLVER.POLY_POWER": number(0),
    "SOLVER.WARMUP_ITERS": whole(0, note="0 for no warm-up"),
    "SOLVER.WARMUP_FACTOR": number(0),
    "SOLVER.WARMUP_METHOD": one_of("linear", "constant"),
    "SOLVER.MOMENTUM": number(0, under=1),
    "SOLVER.WEIGHT_DECAY": _DECAY,
    "SOLVER.WEIGHT_DECAY_NORM": or_none(_DECAY),
    "SOLVER.WEIGHT_DECAY_BIAS": or_none(_DECAY),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": one_of("value", "norm", "full_model"),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": number(above=0),
    # Infinity is a norm, too: the largest gradient.
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": Rule(
        lambda x: isinstance(x, float) and x > 0, "give a number above 0"
    ),
    "SOLVER.EMA_DECAY": number(0, under=1, note="0.0 for no average"),
    "SOLVER.CHECKPOINT_KEEP": whole(0, note="0 to keep all"),
    "TEST.PRECISE_BN.NUM_ITER": whole(1),
}


def require_ranges(cfg: CfgNode) -> None:
    """Raise ValueError for the first setting that no training can have; it names key and value."""
    check_common_values(cfg)
    require_values(cfg, RULES)
    solver, images = cfg.SOLVER, cfg.INPUT
    if images.CROP.ENABLED:
        require_values(cfg, {"INPUT.CROP.SIZE": _crop_size(images.CROP.TYPE)})
    if images.MIN_SIZE_TRAIN_SAMPLING == "range" and len(images.MIN_SIZE_TRAIN) != 2:
        raise ValueError(
            f"INPUT.MIN_SIZE_TRAIN is {images.MIN_SIZE_TRAIN}: give the smallest and the largest "
            "size, or 'choice' as INPUT.MIN_SIZE_TRAIN_SAMPLING"
        )
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR" and solver.BASE_LR_END > solver.BASE_LR:
        raise ValueError(
            f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}: give at most SOLVER.BASE_LR, "
            f"{solver.BASE_LR}"
        )
    if solver.NESTEROV and solver.MOMENTUM == 0 and solver.OPTIMIZER.upper() == "SGD":
        raise ValueError("SOLVER.NESTEROV needs SOLVER.MOMENTUM: set it above 0, such as 0.9")


def _crop_size(kind: str) -> Rule:
    """Return the rule of INPUT.CROP.SIZE for a crop of a kind."""
    if kind.startswith("relative"):
        return several(
            number(above=0, most=1), "give two shares of height and width above 0", count=2
        )
    if kind == "absolute":
        return several(whole(1), "give height and width in pixels", count=2)
    return several(
        whole(1), "give the smallest and the largest side in pixels", count=2, order=ascending
    )
