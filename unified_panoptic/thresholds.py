"""What of the Unified system can be chosen after training, and how its maps are made anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import panoptic_common.compat

import numpy as np
import torch
from detectron2.config import CfgNode

from panoptic_common.inference.predictor import Predictor
from unified_panoptic.modeling.inference import InferenceOptions, Panoptic

PREFIX = "MODEL.UNIFIED.INFERENCE."
SCORES = (0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 0.9)
SUPPORTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)


def usual_candidates(cfg: CfgNode) -> dict[str, tuple[Any, ...]]:
    """List what is worth trying: the values of each key that plays a part in the config's maps.

    Args:
        cfg: complete.
    """
    node = cfg.MODEL.UNIFIED.INFERENCE
    limit = node.STUFF_AREA_LIMIT
    areas = tuple(round(limit * factor) for factor in (0, 0.25, 0.5, 1, 2, 4))
    keys: dict[str, tuple[Any, ...]]
    if node.METHOD == "heuristic":
        keys = {"HEURISTIC_SCORE_THRESH": SCORES, "SUPPORT_THRESH": SUPPORTS}
    elif cfg.MODEL.MASK_ON:
        keys = {"SCORE_THRESH": SCORES, "SUPPORT_THRESH": SUPPORTS, "COVERED_THRESH": SHARES}
    else:
        keys = {"SCORE_THRESH": SCORES}
    if node.METHOD == "argmax":
        keys["MISSED_THINGS"] = ("stuff", "void")
    return {PREFIX + name: values for name, values in {**keys, "STUFF_AREA_LIMIT": areas}.items()}


def map_maker(predictor: Predictor, image: np.ndarray) -> Callable[[CfgNode], Panoptic]:
    """Run the network on an image, once for all configs that differ below `PREFIX`.

    Args:
        predictor: of the model.
        image: (H, W, 3) uint8 RGB.

    Returns:
        Makes, of a complete config, the (H, W) id map and its segments_info.
    """
    model, inputs = predictor.model, predictor.prepare(image)
    with torch.no_grad():
        images = model.preprocess([inputs])
        features = model.backbone(images.tensor)
        predicted = next(model.predict_images(images, features, [inputs]))

    def make(cfg: CfgNode) -> Panoptic:
        with torch.no_grad():
            return predicted.panoptic(InferenceOptions.from_config(cfg))

    return make
