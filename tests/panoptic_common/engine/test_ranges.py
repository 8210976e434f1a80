"""Settings of a training: nonsense is refused by key, what is unusual but possible is not."""

from __future__ import annotations

from typing import Any

import pytest
from detectron2.config import get_cfg

from panoptic_common.config import add_panoptic_config
from panoptic_common.engine.ranges import require_ranges

CROP, CLIP = "INPUT.CROP.ENABLED", "SOLVER.CLIP_GRADIENTS."


def check(*options: Any) -> None:
    cfg = get_cfg()
    add_panoptic_config(cfg)
    cfg.merge_from_list(list(options))
    require_ranges(cfg)


@pytest.mark.parametrize(
    "options",
    [
        ("INPUT.MIN_SIZE_TRAIN", ("a",)),
        ("INPUT.MIN_SIZE_TRAIN", (1.5,)),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "foo"),
        ("INPUT.MIN_SIZE_TRAIN", (1, 2, 3), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
        ("INPUT.RANDOM_SCALE", ("a", "b")),
        ("INPUT.RANDOM_SCALE", (1.0,)),
        ("INPUT.RANDOM_FLIP", "foo"),
        ("INPUT.CROP.TYPE", "foo"),
        ("INPUT.CROP.SIZE", (0, 0), CROP, True),
        ("INPUT.CROP.SIZE", (0.5, 1.5), CROP, True),
        ("INPUT.CROP.SIZE", (0.5, 0.5), CROP, True, "INPUT.CROP.TYPE", "absolute"),
        ("INPUT.CROP.SIZE", (64, 32), CROP, True, "INPUT.CROP.TYPE", "absolute_range"),
        ("INPUT.RELIGHT.HUE", 0.6),
        ("SOLVER.OPTIMIZER", "foo"),
        ("SOLVER.LR_SCHEDULER_NAME", "foo"),
        ("SOLVER.LR_MULTIPLIERS", [["backbone."]]),
        ("SOLVER.LR_MULTIPLIERS", [["backbone.", "x"]]),
        ("SOLVER.LR_MULTIPLIERS", [["backbone.", -1]]),
        ("SOLVER.LR_MULTIPLIERS", [[0.1, "backbone."]]),
        ("SOLVER.STEPS", ("a",)),
        ("SOLVER.STEPS", (-5, 1)),
        ("SOLVER.STEPS", (5, 3)),
        ("SOLVER.GAMMA", -1.0),
        ("SOLVER.POLY_POWER", -1.0),
        ("SOLVER.WARMUP_ITERS", -5),
        ("SOLVER.WARMUP_FACTOR", -1.0),
        ("SOLVER.WARMUP_METHOD", "foo"),
        ("SOLVER.MOMENTUM", 1.0),
        ("SOLVER.MOMENTUM", 0.0, "SOLVER.NESTEROV", True),
        ("SOLVER.WEIGHT_DECAY", -1.0),
        ("SOLVER.WEIGHT_DECAY_BIAS", -1.0),
        ("SOLVER.BASE_LR_END", 1.0, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"),
        (CLIP + "CLIP_VALUE", -1.0),
        (CLIP + "CLIP_TYPE", "foo"),
        (CLIP + "NORM_TYPE", 0.0),
        ("SOLVER.EMA_DECAY", 1.0),
        ("SOLVER.CHECKPOINT_KEEP", -1),
        ("TEST.PRECISE_BN.NUM_ITER", 0),
        ("VIS_PERIOD", -1),
        ("MODEL.PIXEL_STD", [0.0, 1.0, 1.0]),  # of a config that no `load_config` has seen
    ],
)
def test_nonsense_is_refused_by_its_key(options: tuple) -> None:
    with pytest.raises(ValueError, match=options[0].replace(".", r"\.")):
        check(*options)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("INPUT.MIN_SIZE_TRAIN", (64, 128), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
        ("INPUT.CROP.SIZE", (0, 0)),  # switched off
        ("INPUT.CROP.SIZE", [64, 128], CROP, True, "INPUT.CROP.TYPE", "absolute"),
        ("SOLVER.LR_MULTIPLIERS", (("backbone.", 0),)),  # held still
        ("SOLVER.STEPS", ()),
        ("SOLVER.OPTIMIZER", "AdamW"),
        ("SOLVER.WEIGHT_DECAY_BIAS", 0.0),
        (CLIP + "NORM_TYPE", float("inf")),
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", 0.0001),
    ],
)
def test_what_can_be_trained_passes(options: tuple) -> None:
    check(*options)
