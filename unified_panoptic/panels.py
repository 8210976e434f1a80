"""What of the Unified system is shown beside the common panels: the affinity of one pixel."""

from __future__ import annotations

import panoptic_common.compat

import cv2
import numpy as np
from detectron2.config import CfgNode
from torch import nn

from panoptic_common.drawing.heat import draw_heat
from panoptic_common.drawing.strokes import ImageArray
from panoptic_common.inference.panels import BOXES, PANOPTIC, SEMANTIC, Panel, View
from panoptic_common.inference.predictor import Predictor
from panoptic_common.inference.record_sheets import Column

_STRIDE = 4  # of the map that the model's `affinity_of_pixel` returns


def set_score_threshold(cfg: CfgNode, value: float) -> None:
    """Set the least score of a detection in the panoptic map, whichever way the map is made.

    Args:
        cfg: a config of the system; changed in place.
        value: 0..1.
    """
    cfg.MODEL.UNIFIED.INFERENCE.SCORE_THRESH = value
    cfg.MODEL.UNIFIED.INFERENCE.HEURISTIC_SCORE_THRESH = value


def has_affinity(model: nn.Module) -> bool:
    """Whether a model was built with the dense instance affinity (3.4.2)."""
    return getattr(model, "affinity_head", None) is not None


def affinity_of_pixel(predictor: Predictor, image: np.ndarray, x: float, y: float) -> np.ndarray:
    """Compute the affinity of one pixel to all others (Fig. 6).

    Args:
        predictor: of a model that `has_affinity`.
        image: (H, W, 3) uint8 RGB.
        x: column of the pixel.
        y: its row.

    Returns:
        (H, W) float32; the larger, the more that place's evidence is sent to the pixel.

    Raises:
        IndexError: the pixel lies outside the image.
        ValueError: the model has no affinity.
    """
    inputs = predictor.prepare(image)
    grid = predictor.model.affinity_of_pixel(inputs, x, y).float().cpu().numpy()
    # The grid reaches up to 3 pixels beyond the network's input: cut before the last resize, or
    # the map would be shifted against the image.
    height, width = inputs["image"].shape[1:]
    full = cv2.resize(grid, (grid.shape[1] * _STRIDE, grid.shape[0] * _STRIDE))
    return cv2.resize(full[:height, :width], (image.shape[1], image.shape[0]))


def _draw_affinity(view: View) -> ImageArray:
    assert view.pixel is not None  # the panel needs one
    values = affinity_of_pixel(view.predictor, view.image, *view.pixel)
    return draw_heat(view.image, values, view.pixel, scale=view.scale)


AFFINITY = Panel(
    "affinity",
    "affinity of the marked pixel",
    _draw_affinity,
    needs_pixel=True,
    available=has_affinity,
)
PANELS = (AFFINITY,)
DEMO_COLUMNS = (Column(SEMANTIC), Column(BOXES), Column(PANOPTIC), Column(AFFINITY))
