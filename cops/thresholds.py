"""What of COPS can be chosen after training, and how its maps are made anew.

The balance of its edge costs is no threshold: `cops.calibrate` finds that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import panoptic_common.compat

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode

from cops.modeling.inference import InferenceOptions, Panoptic
from panoptic_common.inference.predictor import Predictor

PREFIX = "MODEL.COPS.INFERENCE."
FACTORS = (0, 0.25, 0.5, 1, 2, 4)


def usual_candidates(cfg: CfgNode) -> dict[str, tuple[Any, ...]]:
    """List what is worth trying: the values of each key.

    Args:
        cfg: complete.
    """
    node = cfg.MODEL.COPS.INFERENCE
    return {
        PREFIX + name: tuple(round(node[name] * factor) for factor in FACTORS)
        for name in ("THING_AREA_LIMIT", "STUFF_AREA_LIMIT")
    }


def map_maker(predictor: Predictor, image: npt.NDArray[np.uint8]) -> Callable[[CfgNode], Panoptic]:
    """Run the network on an image, once for all configs that differ below `PREFIX`.

    Args:
        predictor: of the model.
        image: (H, W, 3) uint8 RGB.

    Returns:
        Makes, of a complete config, the (H, W) id map and its segments_info.
    """
    model, inputs = cast(Any, predictor.model), predictor.prepare(image)
    with torch.no_grad():
        images = model.preprocess([inputs])
        solved = next(model.solved_images([inputs], images))

    def make(cfg: CfgNode) -> Panoptic:
        with torch.no_grad():
            return solved.panoptic(InferenceOptions.from_config(cfg))

    return make
