"""Which predicted segment belongs to which true one: a maximum-IoU matching, class by class.

PQ matches two segments of a class if their IoU is above 1/2. That leaves a poor prediction without
a partner and so without a direction to improve in. The surrogate therefore matches by a *maximum
weight bipartite matching* with the IoU as weight (Abbas, Swoboda, NeurIPS 2021, 3.3.2). Stuff needs
no rule of its own: it has one segment per class on either side.

The matching is a step function of the prediction; no gradient passes it.

Shapes: h, w cells of the grid; M predicted and S true segments.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

NO_MATCH = -1


class SegmentOverlaps(NamedTuple):
    """Cells shared by the segments of two maps.

    Attributes:
        shared: (M, S) cells that predicted segment m and true segment s share.
        predicted: (M,) cells of each predicted segment where the truth is known.
        true: (S,) cells of each true segment.
    """

    shared: IntArray
    predicted: IntArray
    true: IntArray

    def iou(self) -> FloatArray:
        """(M, S) intersection over union, cells without truth left out; 0 where both are empty."""
        union = self.predicted[:, None] + self.true[None] - self.shared
        return self.shared / np.maximum(union, 1)


def count_segment_overlaps(
    predicted: npt.NDArray[np.integer],
    true: npt.NDArray[np.integer],
    num_predicted: int,
    num_true: int,
) -> SegmentOverlaps:
    """Count the cells of every pair of segments in one pass.

    Args:
        predicted: (h, w) index 0 .. M - 1 of each cell's predicted segment; every cell has one.
        true: (h, w) index 0 .. S - 1 of each cell's true segment, -1 where void or crowd.
        num_predicted: M.
        num_true: S.

    Raises:
        ValueError: the maps differ in shape, or hold an index outside these ranges.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"predicted segments are {predicted.shape} cells, the truth {true.shape}")
    for name, labels, low, high in (
        ("predicted", predicted, 0, num_predicted),
        ("true", true, -1, num_true),
    ):
        if labels.size and not low <= labels.min() <= labels.max() < high:
            raise ValueError(
                f"the map of {name} segments holds {labels.min()} .. {labels.max()}, "
                f"expected {low} .. {high - 1}"
            )
    columns = num_true + 1
    codes = predicted.ravel().astype(np.int64) * columns + (true.ravel() + 1)
    table = np.bincount(codes, minlength=num_predicted * columns).reshape(num_predicted, columns)
    shared = table[:, 1:]
    return SegmentOverlaps(shared, shared.sum(axis=1), shared.sum(axis=0))


def match_by_iou(
    iou: npt.NDArray[np.floating],
    predicted_classes: npt.NDArray[np.integer],
    true_classes: npt.NDArray[np.integer],
) -> IntArray:
    """Find the matching with the largest sum of IoU, each class on its own.

    Args:
        iou: (M, S).
        predicted_classes: (M,).
        true_classes: (S,).

    Returns:
        (M,) index of the true segment that each prediction matches, -1 for none. A pair that shares
        no cell is no match, so a matching may leave both sides unmatched.
    """
    match = np.full(len(predicted_classes), NO_MATCH, dtype=np.int64)
    for category in np.intersect1d(predicted_classes, true_classes):
        rows = np.flatnonzero(predicted_classes == category)
        columns = np.flatnonzero(true_classes == category)
        block = iou[np.ix_(rows, columns)]
        chosen_rows, chosen_columns = linear_sum_assignment(block, maximize=True)
        touching = block[chosen_rows, chosen_columns] > 0
        match[rows[chosen_rows[touching]]] = columns[chosen_columns[touching]]
    return match
