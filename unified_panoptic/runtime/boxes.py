"""Proposals and detections of one image in numpy, as Detectron2 makes them.

Shapes: R boxes; A anchors per cell; N_th thing classes. Boxes are XYXY in pixels of the input.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.intp]

LARGEST_LOG_SCALE = math.log(1000.0 / 16)  # a box grows by no more than this factor


def proposals(
    maps: Mapping[str, FloatArray], options: Mapping[str, Any], input_size: tuple[int, int]
) -> FloatArray:
    """Choose the proposals of the RPN.

    Args:
        maps: "objectness_<level>" (1, A, h, w) and "deltas_<level>" (1, 4 A, h, w).
        options: "proposals" of an export.
        input_size: (H_in, W_in), where boxes are cut off.

    Returns:
        (R, 4) by falling objectness.
    """
    boxes, scores, levels = [], [], []
    for index, name in enumerate(options["levels"]):
        logits = maps[f"objectness_{name}"][0].transpose(1, 2, 0).ravel()
        chosen = best(logits, options["pre_nms"])
        anchors = np.asarray(options["anchors"][index], dtype=np.float32)
        deltas = maps[f"deltas_{name}"][0]
        height, width = deltas.shape[1:]
        deltas = deltas.reshape(len(anchors), 4, height, width).transpose(2, 3, 0, 1).reshape(-1, 4)
        places = grid_anchors(
            anchors, chosen, width, options["strides"][index], float(options["offset"])
        )
        boxes.append(apply_deltas(deltas[chosen], places, options["weights"])[:, 0])
        scores.append(logits[chosen])
        levels.append(np.full(len(chosen), index))
    every, confidence, level = (np.concatenate(parts) for parts in (boxes, scores, levels))
    usable = np.isfinite(every).all(axis=1) & np.isfinite(confidence)
    every = clip(every, input_size)
    sides = every[:, 2:] - every[:, :2]
    usable &= (sides > options["least_side"]).all(axis=1)
    every, confidence, level = every[usable], confidence[usable], level[usable]
    kept = grouped_nms(every, confidence, level, options["nms_threshold"])
    return every[kept[: options["post_nms"]]]


def best(values: FloatArray, count: int) -> IndexArray:
    """Return the indices of the greatest values, greatest first."""
    if count < len(values):
        candidates = np.argpartition(-values, count - 1)[:count]
    else:
        candidates = np.arange(len(values))
    order: IndexArray = candidates[np.argsort(-values[candidates], kind="stable")]
    return order


def grid_anchors(
    anchors: FloatArray, chosen: IndexArray, width: int, stride: int, offset: float
) -> FloatArray:
    """Place some anchors of a level.

    Args:
        anchors: (A, 4) around the origin.
        chosen: numbers of (cell, anchor), the anchor counting fastest.
        width: cells per row.
        stride: pixels per cell.
        offset: of the first cell's anchors from the origin, in cells.

    Returns:
        (len(chosen), 4).
    """
    cell, kind = np.divmod(chosen, len(anchors))
    row, column = np.divmod(cell, width)
    x, y = (column + offset) * stride, (row + offset) * stride
    return anchors[kind] + np.stack([x, y, x, y], axis=1).astype(np.float32)


def apply_deltas(deltas: FloatArray, boxes: FloatArray, weights: Sequence[float]) -> FloatArray:
    """Move and scale boxes: (R, 4 k) deltas, (R, 4) boxes -> (R, k, 4)."""
    parts = deltas.reshape(len(deltas), -1, 4) / np.asarray(weights, dtype=np.float32)
    sizes = boxes[:, None, 2:] - boxes[:, None, :2]
    centres = boxes[:, None, :2] + np.float32(0.5) * sizes
    centres = parts[:, :, :2] * sizes + centres
    scales = np.minimum(parts[:, :, 2:], np.float32(LARGEST_LOG_SCALE))
    halves = np.float32(0.5) * (np.exp(scales) * sizes)
    return np.concatenate([centres - halves, centres + halves], axis=2)


def clip(boxes: FloatArray, size: tuple[int, int]) -> FloatArray:
    """Cut (..., 4) boxes off at the borders of an image of `size`."""
    limits = np.array([size[1], size[0], size[1], size[0]], dtype=np.float32)
    return boxes.clip(0, limits)


def grouped_nms(
    boxes: FloatArray, scores: FloatArray, groups: npt.NDArray[Any], threshold: float
) -> IndexArray:
    """Suppress within each group; return what is kept, by falling score."""
    kept = [np.zeros(0, dtype=np.intp)]
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        kept.append(members[nms(boxes[members], scores[members], threshold)])
    every = np.sort(np.concatenate(kept))
    order: IndexArray = every[np.argsort(-scores[every], kind="stable")]
    return order


def nms(boxes: FloatArray, scores: FloatArray, threshold: float) -> IndexArray:
    """Drop each box whose IoU with a kept one of a greater score exceeds a threshold.

    Args:
        boxes: (R, 4).
        scores: (R,).
        threshold: 0 to 1.

    Returns:
        Indices of the kept boxes, by falling score.
    """
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left, kept = np.arange(len(boxes)), []
    while len(left):
        first, left = left[0], left[1:]
        kept.append(first)
        corner = np.maximum(boxes[first, :2], boxes[left, :2])
        sides = (np.minimum(boxes[first, 2:], boxes[left, 2:]) - corner).clip(0)
        shared = sides[:, 0] * sides[:, 1]
        # As torchvision does: an IoU of two empty boxes is no number, and drops nothing.
        with np.errstate(invalid="ignore", divide="ignore"):
            overlap = shared / (areas[first] + areas[left] - shared)
        left = left[~(overlap > threshold)]
    return order[np.array(kept, dtype=np.intp)]


def levels_of(boxes: FloatArray, options: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """Assign boxes to levels of the pyramid by size (Lin et al., CVPR 2017, Eq. 1).

    Args:
        boxes: (R, 4).
        options: "boxes" of an export.

    Returns:
        (R,) numbers from 0 on.
    """
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    sides = np.sqrt(areas)
    level = np.floor(
        options["canonical_level"]
        + np.log2(sides / np.float32(options["canonical_size"]) + np.float32(1e-8))
    )
    last = options["first_level"] + len(options["levels"]) - 1
    return level.clip(options["first_level"], last).astype(np.int64) - int(options["first_level"])


def detections(
    scores: FloatArray,
    deltas: FloatArray,
    boxes: FloatArray,
    options: Mapping[str, Any],
    input_size: tuple[int, int],
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int64]]:
    """Choose the detections among the box head's answers.

    Args:
        scores: (R, N_th + 1) probabilities, the last for none.
        deltas: (R, 4 N_th), or (R, 4) for all classes alike.
        boxes: (R, 4) proposals.
        options: "boxes" of an export.
        input_size: (H_in, W_in).

    Returns:
        Boxes (D, 4), scores (D,) and thing indices (D,), by falling score.
    """
    found = apply_deltas(deltas, boxes, options["weights"])
    usable = np.isfinite(found).all(axis=(1, 2)) & np.isfinite(scores).all(axis=1)
    found, scores = clip(found[usable], input_size), scores[usable, :-1]
    rows, classes = np.nonzero(scores > options["score_threshold"])
    chosen = found[rows, 0 if found.shape[1] == 1 else classes]
    confidence = scores[rows, classes]
    kept = grouped_nms(chosen, confidence, classes, options["nms_threshold"])
    if options["most"] >= 0:
        kept = kept[: options["most"]]
    return chosen[kept], confidence[kept], classes[kept].astype(np.int64)
