"""The panoptic map of one image in numpy (Li, Qi, Torr, CVPR 2020, 3.4): argmax of P.

The formulas and their reasons stand in `unified_panoptic.modeling`: `dynamic_potential`,
`instance_affinity` and `postprocess`. Tests compare the two.

Shapes: D detections; K classes; N_st stuff classes; S = D + N_st channels, detections first; C
channels of the affinity; h, w cells at stride 4; H, W pixels of the result. Boxes are XYXY in cells
of the grid at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from panoptic_common.runtime.resampling import resample

FloatArray = npt.NDArray[np.float32]
VOID = -1  # the channel of a pixel that belongs to none
VALUES_AT_A_TIME = 2**22  # of P: 16 MB


@dataclass(frozen=True, eq=False)
class Detections:
    """Detections of one image.

    Attributes:
        boxes: (D, 4).
        classes: (D,) contiguous classes.
        scores: (D,).
        masks: (D, m, m) probabilities, or None.
    """

    boxes: FloatArray
    classes: npt.NDArray[np.int64]
    scores: FloatArray
    masks: FloatArray | None

    def chosen(self, index: npt.NDArray[Any]) -> Detections:
        """Return some of them."""
        masks = None if self.masks is None else self.masks[index]
        return Detections(self.boxes[index], self.classes[index], self.scores[index], masks)

    def scaled(self, x: float, y: float) -> Detections:
        """Return them on a grid with other cells."""
        factors = np.array([x, y, x, y], dtype=np.float32)
        return Detections(self.boxes * factors, self.classes, self.scores, self.masks)


class Painter:
    """Adds Psi to maps, strip by strip and inside the boxes alone.

    Args:
        detections: boxes in cells.
        stuff_ids: contiguous classes of the stuff channels.
        variant: "A", "B" or "C" of `dynamic_potential`.
        size: height and width of the grid.
    """

    def __init__(
        self, detections: Detections, stuff_ids: Sequence[int], variant: str, size: tuple[int, int]
    ) -> None:
        height, width = size
        boxes = detections.boxes
        self.detections, self.stuff_ids, self.variant = detections, stuff_ids, variant
        limits = np.array([width, height, width, height], dtype=np.float32)
        edges = np.ceil(boxes - 0.5).clip(0, limits).astype(np.int64)
        edges[:, 2:] = np.maximum(edges[:, 2:], edges[:, :2])
        self.extents: list[list[int]] = edges.tolist()
        if detections.masks is not None:
            samples = detections.masks.shape[1:]
            self.rows = [
                _hat_weights(box[1], box[3], top, bottom, samples[0]) @ mask
                for box, mask, (_, top, _, bottom) in zip(
                    boxes, detections.masks, self.extents, strict=True
                )
            ]
            self.columns = [
                _hat_weights(box[0], box[2], left, right, samples[1]).T
                for box, (left, _, right, _) in zip(boxes, self.extents, strict=True)
            ]

    def mask(self, k: int, top: int, bottom: int) -> FloatArray:
        """Return rows `top` to `bottom` of the part of mask k that its box covers."""
        first = self.extents[k][1]
        return self.rows[k][top - first : bottom - first] @ self.columns[k]

    def paint(self, maps: FloatArray, semantic: FloatArray, first_row: int) -> None:
        """Add the rows from `first_row` on to (S, rows, w) maps; `semantic` is (K, rows, w)."""
        last_row = first_row + maps.shape[1]
        found = self.detections
        for k, (left, top, right, bottom) in enumerate(self.extents):
            top, bottom = max(top, first_row), min(bottom, last_row)
            if top >= bottom or left >= right:
                continue
            inside = (slice(top - first_row, bottom - first_row), slice(left, right))
            value = semantic[found.classes[k]][inside]
            if found.masks is not None:
                mask = self.mask(k, top, bottom)
                value = mask * value if self.variant == "B" else mask + value
            if self.variant != "A":
                value = value * found.scores[k]
            maps[k][inside] += value
        for channel, class_id in enumerate(self.stuff_ids, start=len(self.extents)):
            maps[channel] += semantic[class_id]


def _hat_weights(low: float, high: float, first: int, last: int, samples: int) -> FloatArray:
    """Make (last - first, samples) weights of cells `first` to `last`; see `dynamic_potential`."""
    centre = np.arange(first, last, dtype=np.float32) + np.float32(0.5)
    extent = np.float32(max(high - low, 1e-6))
    position = (centre - low) / extent * np.float32(samples) - np.float32(0.5)
    index = np.arange(samples, dtype=np.float32)
    return (1 - np.abs(position[:, None] - index)).clip(0).astype(np.float32)


def uncovered(detections: Detections, size: tuple[int, int], threshold: float) -> Detections:
    """Drop detections of whose mask more than a share lies under better ones."""
    if threshold >= 1 or len(detections.boxes) < 2 or detections.masks is None:
        return detections
    painter = Painter(detections, (), "B", size)
    covered = np.zeros(size, dtype=bool)
    kept = []
    for k in np.argsort(-detections.scores, kind="stable").tolist():
        left, top, right, bottom = painter.extents[k]
        binary = painter.mask(k, top, bottom) >= 0.5
        place = covered[top:bottom, left:right]
        if int((binary & place).sum()) > threshold * int(binary.sum()):
            continue
        place |= binary
        kept.append(k)
    return detections.chosen(np.array(sorted(kept), dtype=np.intp))


def supported(detections: Detections, semantic: FloatArray, threshold: float) -> Detections:
    """Drop detections whose class has too little of V, (K, h, w), under their mask."""
    if threshold <= 0 or len(detections.boxes) == 0 or detections.masks is None:
        return detections
    painter = Painter(detections, (), "B", (semantic.shape[1], semantic.shape[2]))
    kept = []
    for k, (left, top, right, bottom) in enumerate(painter.extents):
        binary = painter.mask(k, top, bottom) >= 0.5
        under = semantic[detections.classes[k], top:bottom, left:right][binary]
        if len(under) == 0 or under.mean() >= threshold:
            kept.append(k)
    return detections.chosen(np.array(kept, dtype=np.intp))


def summarise(
    painter: Painter, semantic: FloatArray, phi_1: FloatArray, num_channels: int
) -> FloatArray:
    """Compute Psi phi_1(Q) of Eq. 4, (S, C), from strips of Psi at stride 4."""
    width = semantic.shape[2]
    summary = np.zeros((num_channels, len(phi_1)), dtype=np.float32)
    for first, last in strips(num_channels, (semantic.shape[1], width)):
        maps = np.zeros((num_channels, last - first, width), dtype=np.float32)
        painter.paint(maps, semantic[:, first:last], first)
        summary += maps.reshape(num_channels, -1) @ phi_1[:, first:last].reshape(len(phi_1), -1).T
    return summary


def strips(num_channels: int, size: tuple[int, int]) -> list[tuple[int, int]]:
    """List the first and last (exclusive) row of the strips in which P is formed."""
    rows = max(VALUES_AT_A_TIME // max(num_channels * size[1], 1), 1)
    return [(first, min(first + rows, size[0])) for first in range(0, size[0], rows)]


def best_channels(
    painter: Painter,
    probabilities: FloatArray,
    residual: tuple[FloatArray, FloatArray] | None,
    input_size: tuple[int, int],
    output_size: tuple[int, int],
    stride: int,
) -> npt.NDArray[np.intp]:
    """Find the argmax of P formed at the size of the result; of equals the first channel wins.

    Args:
        painter: boxes in pixels of the result.
        probabilities: (K, h, w) V.
        residual: (S, C) of `summarise` and (C, h, w) phi_0; None for P = Psi.
        input_size: (H_in, W_in).
        output_size: (H, W).
        stride: of the grid.

    Returns:
        (H, W) channels.
    """
    num_channels = len(painter.extents) + len(painter.stuff_ids)
    formed = factors = None
    if residual is not None:
        summary, phi_0 = residual
        if num_channels <= len(phi_0):  # fewer maps to enlarge
            formed = (summary @ phi_0.reshape(len(phi_0), -1)).reshape(-1, *phi_0.shape[1:])
        else:
            factors = summary, phi_0
    result = np.empty(output_size, dtype=np.intp)
    for first, last in strips(num_channels, output_size):
        rows = (first, last)
        if formed is not None:
            maps = resample(formed, input_size, output_size, stride, rows)
        elif factors is not None:
            phi = resample(factors[1], input_size, output_size, stride, rows)
            maps = (factors[0] @ phi.reshape(len(phi), -1)).reshape(-1, *phi.shape[1:])
        else:
            maps = np.zeros((num_channels, last - first, output_size[1]), dtype=np.float32)
        semantic = resample(probabilities, input_size, output_size, stride, rows)
        painter.paint(maps, semantic, first)
        result[first:last] = argmax(maps)
    return result


def argmax(maps: FloatArray) -> npt.NDArray[np.intp]:
    """Do what ``maps.argmax(axis=0)`` does, row by row in memory and so several times faster."""
    greatest, channel = maps[0].copy(), np.zeros(maps.shape[1:], dtype=np.intp)
    for k in range(1, len(maps)):
        channel[maps[k] > greatest] = k
        np.maximum(greatest, maps[k], out=greatest)
    return channel


def channel_segments(
    channels: npt.NDArray[np.intp],
    detections: Detections,
    stuff_ids: Sequence[int],
    stuff_area_limit: int,
) -> tuple[npt.NDArray[np.int32], list[dict[str, Any]]]:
    """Make the panoptic map from the channel of each pixel, or `VOID`; small stuff becomes void.

    Returns:
        (H, W) int32 ids, 0 = void, and segments_info. Ids count all channels that own a pixel, so
        trimmed ones leave gaps.
    """
    num_things = len(detections.classes)
    num_channels = num_things + len(stuff_ids)
    areas = np.bincount(channels.ravel() - VOID, minlength=num_channels + 1)[1:]
    number = np.zeros(num_channels + 1, dtype=np.int32)  # the extra last entry serves `VOID`
    segments_info: list[dict[str, Any]] = []
    for count, channel in enumerate(np.flatnonzero(areas).tolist(), start=1):
        is_thing = channel < num_things
        if not is_thing and areas[channel] < stuff_area_limit:
            continue
        number[channel] = count
        segment = {"id": count, "area": int(areas[channel]), "isthing": is_thing}
        if is_thing:
            segment["category_id"] = int(detections.classes[channel])
            segment["score"] = float(detections.scores[channel])
        else:
            segment["category_id"] = stuff_ids[channel - num_things]
        segments_info.append(segment)
    return number[channels], segments_info
