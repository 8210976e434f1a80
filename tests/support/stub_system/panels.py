"""The panels of the stub: one of its map, and one of a pixel."""

from __future__ import annotations

import numpy as np

from panoptic_common.drawing.heat import draw_heat, draw_probabilities
from panoptic_common.inference.panels import PANOPTIC, Panel, View
from panoptic_common.inference.record_sheets import Column

EXTRA_MAPS = ("ramp",)


def set_score_threshold(cfg, value):
    cfg.MODEL.STUB.SCORE_THRESH = value


def _draw_ramp(view: View):
    return draw_probabilities(view.image, view.prediction.extra_maps["ramp"], scale=view.scale)


def _draw_spot(view: View):
    x, y = view.pixel
    if not (0 <= x < view.image.shape[1] and 0 <= y < view.image.shape[0]):
        raise IndexError(f"pixel ({x}, {y}) lies outside the image")
    return draw_heat(view.image, np.eye(3), view.pixel, scale=view.scale)


RAMP = Panel("ramp", "ramp of the grid", _draw_ramp, available=lambda model: model.with_ramp)
SPOT = Panel(
    "spot", "spot of the pixel", _draw_spot, needs_pixel=True, available=lambda m: m.has_spot
)
PANELS = (SPOT, RAMP)
DEMO_COLUMNS = (Column(PANOPTIC, "before", model=0), Column(RAMP), Column(SPOT))
