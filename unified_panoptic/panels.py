"""What of the Unified system is shown beside the common panels: the affinity of one pixel."""

from __future__ import annotations

from dataclasses import replace

import panoptic_common.compat

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from torch import nn

from panoptic_common.drawing.heat import draw_heat
from panoptic_common.drawing.overlays import class_name
from panoptic_common.drawing.strokes import ImageArray
from panoptic_common.inference.explorer import PixelView, Slider
from panoptic_common.inference.panels import BOXES, PANOPTIC, SEMANTIC, Panel, View
from panoptic_common.inference.predictor import Prediction, Predictor
from panoptic_common.inference.record_sheets import Column
from unified_panoptic.modeling.grid import STRIDE
from unified_panoptic.modeling.inference import InferenceOptions


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
    grid = predictor.model.affinity_of_pixel(inputs, x, y)
    height, width = inputs["image"].shape[1:]
    return _over_image(grid, (height, width), (image.shape[0], image.shape[1]))


def _over_image(
    grid: torch.Tensor, input_size: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Stretch a map of cells, of an input of (H_in, W_in) pixels, over an image of (H, W)."""
    values = grid.float().cpu().numpy()
    # The grid reaches up to 3 pixels beyond the network's input: cut before the last resize, or
    # the map would be shifted against the image.
    full = cv2.resize(values, (values.shape[1] * STRIDE, values.shape[0] * STRIDE))
    return cv2.resize(full[: input_size[0], : input_size[1]], (size[1], size[0]))


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


# ---- one image, looked at from all sides ---------------------------------------------------------


def slider_of(model: nn.Module) -> Slider:
    """Return the slider of the score threshold, from the least score of any detection on."""
    options = model.options
    least = float(model.roi_heads.box_predictor.test_score_thresh)
    value = _score_threshold(options)
    return Slider(
        "score threshold",
        "More of it leaves out things that the detector is less sure of.",
        low=min(least, value),
        high=1.0,
        step=0.01,
        value=value,
        is_score=True,
    )


def _score_threshold(options: InferenceOptions) -> float:
    heuristic = options.method == "heuristic"
    return options.heuristic_score_thresh if heuristic else options.score_thresh


class UnifiedExploration:
    """The detections, semantic probabilities and affinity factors of one image."""

    def __init__(self, predictor: Predictor, image: np.ndarray) -> None:
        """Run the network."""
        self._model = predictor.model
        inputs = predictor.prepare(image)
        with torch.no_grad():
            images = self._model.preprocess([inputs])
            features = self._model.backbone(images.tensor)
            self._predicted = next(self._model.predict_images(images, features, [inputs]))
            output = self._predicted.outputs(self._model.options)
        self._first = predictor.prediction(image, inputs, output)

    def predict(self, value: float) -> Prediction:
        """Make the panoptic map from the detections of a least score."""
        options = replace(self._model.options, score_thresh=value, heuristic_score_thresh=value)
        with torch.no_grad():
            id_map, segments_info = self._predicted.panoptic(options)
        return replace(self._first, id_map=id_map.cpu().numpy(), segments_info=segments_info)

    def look_at(self, view: View, value: float) -> PixelView | None:
        """Compute the affinity of the pixel's cell to all others, and its mean in each segment."""
        if self._predicted.factors is None or view.pixel is None:
            return None
        grid = self._predicted.affinity_of_pixel(*view.pixel)
        size = (view.image.shape[0], view.image.shape[1])
        values = _over_image(grid, self._predicted.input_size, size)
        drawing = draw_heat(view.image, values, view.pixel, scale=view.scale)
        return PixelView(AFFINITY.title, drawing, MEANS_HEAD, _means_by_segment(view, values))


def _means_by_segment(view: View, values: np.ndarray) -> list[tuple[int, str, float]]:
    """List the segments by their mean affinity, the highest first."""
    found = view.prediction
    counts = np.bincount(found.id_map.ravel())
    sums = np.bincount(found.id_map.ravel(), weights=values.ravel().astype(np.float64))
    rows = [
        (
            int(entry["id"]),
            class_name(view.predictor.class_table, entry["category_id"]),
            round(float(sums[entry["id"]] / counts[entry["id"]]), 3),
        )
        for entry in found.segments_info
    ]
    return sorted(rows, key=lambda row: -row[2])


MEANS_HEAD = ("segment", "class", "mean affinity")
explore = UnifiedExploration
