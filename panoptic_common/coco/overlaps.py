"""Which labels of two maps share how many pixels: the one pass over pixels behind every metric.

PQ needs the overlaps of true and predicted segments, mIoU those of true segments and predicted
classes, boundary PQ those of the segments' boundary bands. All three are the same question, asked
here once and answered without a loop over segments. From the answer, a confusion matrix of classes
and the IoU of each class follow.

Shape shorthand: H, W image size in pixels; K number of classes, numbered 0..K-1; P number of
(label of the first map, label of the second map) pairs that share pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Overlaps(NamedTuple):
    """Pixels shared by each pair of labels of two maps, ascending by (truth, prediction).

    Attributes:
        truth: (P,) labels of the first map, void included.
        prediction: (P,) labels of the second.
        pixels: (P,) how many pixels have both; they sum to H * W.
    """

    truth: IntArray
    prediction: IntArray
    pixels: IntArray

    def table(self) -> dict[tuple[int, int], int]:
        """Return the pixels by (truth, prediction), without the pairs that share none."""
        keys = zip(self.truth.tolist(), self.prediction.tolist(), strict=True)
        return dict(zip(keys, self.pixels.tolist(), strict=True))

    def areas(self) -> tuple[dict[int, int], dict[int, int]]:
        """Count the pixels of each label of the first map, and of each of the second."""
        first: dict[int, int] = {}
        second: dict[int, int] = {}
        for (t, p), pixels in self.table().items():
            first[t] = first.get(t, 0) + pixels
            second[p] = second.get(p, 0) + pixels
        return first, second


def count_overlaps(truth: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> Overlaps:
    """Count the pixels of every pair of labels in one pass over two maps.

    Labels change rarely along a row, so only the first pixel of each run of equal pairs is sorted.
    Some thousand runs stand for the 300 000 pixels of a COCO image.

    Args:
        truth: (H, W) integers from 0 to 2^31 - 1.
        prediction: (H, W) integers in the same range.

    Raises:
        ValueError: if the shapes differ or a map is not 2-D and integer, or is negative somewhere.
    """
    first, second = _as_labels(truth, "truth"), _as_labels(prediction, "prediction")
    if first.shape != second.shape:
        raise ValueError(
            f"the truth is {first.shape[0]} x {first.shape[1]} pixels (height x width),"
            f" the prediction {second.shape[0]} x {second.shape[1]}"
        )
    if not first.size:
        return Overlaps(*np.zeros((3, 0), np.int64))
    first, second = first.ravel(), second.ravel()
    begins = np.empty(first.size, dtype=bool)
    begins[0] = True
    np.not_equal(first[1:], first[:-1], out=begins[1:])
    begins[1:] |= second[1:] != second[:-1]
    starts = np.flatnonzero(begins)
    # Every label of a map begins a run, so that the runs alone show whether all are in range.
    heads = _in_range(first.take(starts), "truth"), _in_range(second.take(starts), "prediction")
    codes = (heads[0].astype(np.int64) << 32) | heads[1].astype(np.int64)
    if 2 * len(starts) > first.size:
        # A noise map: lengths save nothing, and sorting plain values is faster than an argsort.
        every = (first.astype(np.int64) << 32) | second.astype(np.int64)
        pairs, pixels = np.unique(every, return_counts=True)
    else:
        # Rows repeat the sequence of runs above them: a sort that uses order takes half the time.
        order = np.argsort(codes, kind="stable")
        codes = codes[order]
        lengths = np.diff(starts, append=first.size)[order]
        new_pair = np.flatnonzero(np.diff(codes, prepend=-1))
        pairs, pixels = codes[new_pair], np.add.reduceat(lengths, new_pair)
    return Overlaps(pairs >> 32, pairs & 0xFFFFFFFF, pixels.astype(np.int64))


def _as_labels(labels: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    array = np.asarray(labels)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"the {what} must be an (H, W) integer map, got {array.shape} {array.dtype}"
        )
    return array


def _in_range(labels: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > np.iinfo(np.int32).max:
        raise ValueError(f"the {what} holds labels outside 0..2^31-1: {low}..{high}")
    return labels


def boundary_radius(height: int, width: int, ratio: float = 0.02) -> int:
    """Return the width of the boundary band: `ratio` of the image's diagonal, at least 1 pixel.

    Cheng et al. use 0.02 of the diagonal, which is 16 pixels at 640 x 480.
    """
    if not ratio > 0:
        raise ValueError(f"the boundary ratio must be positive, got {ratio}")
    return max(1, round(ratio * float(np.hypot(height, width))))


def boundary_band(labels: npt.NDArray[Any], radius: int) -> npt.NDArray[np.bool_]:
    """Mark the pixels that `radius` erosions by a 3x3 square would take from their own segment.

    These are the pixels with another label, or the outside of the image, within the Chebyshev
    distance `radius`. All segments are done together. Walk from such a pixel towards the other
    label. The last pixel before the label changes is an *edge pixel* (one with a foreign
    neighbour), at most radius - 1 away. And if an edge pixel of any label lies that close, then
    either it or its foreign neighbour is foreign to the pixel. So the band is the set of edge
    pixels, dilated radius - 1 times.

    Args:
        labels: (H, W) integers.
        radius: width of the band in pixels, at least 1.

    Returns:
        (H, W) bool.
    """
    if radius < 1:
        raise ValueError(f"the radius must be at least 1 pixel, got {radius}")
    edge = np.zeros(labels.shape, dtype=np.uint8)
    edge[:1], edge[-1:], edge[:, :1], edge[:, -1:] = 1, 1, 1, 1
    height, width = labels.shape
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = (slice(0, height - down), slice(max(0, -right), width - max(0, right)))
        there = (slice(down, height), slice(max(0, right), width + min(0, right)))
        differs = labels[here] != labels[there]
        edge[here] |= differs
        edge[there] |= differs
    if radius > 1 and edge.size:
        import cv2  # only boundaries need it: PQ starts a tenth faster without

        size = 2 * (radius - 1) + 1
        edge = cv2.dilate(edge, np.ones((size, size), np.uint8)).astype(np.uint8, copy=False)
    return edge.astype(bool)


def class_confusion(
    overlaps: Overlaps,
    class_of_truth: Mapping[int, int],
    class_of_prediction: Mapping[int, int],
    num_classes: int,
) -> IntArray:
    """Count pixels by true and predicted class, from pixels by true and predicted label.

    Args:
        overlaps: of the two maps.
        class_of_truth: class 0..K-1 of the labels of the truth; pixels of labels without a class
            (void) are left out. Crowd segments count as their class: that a pixel is *person* is
            known even where it is not known of which person.
        class_of_prediction: class of the labels of the prediction; a label without a class is a
            prediction of no class, so a miss of the true one.
        num_classes: K.

    Returns:
        (K, K + 1) pixels: rows true class, columns predicted class, the last column none.
    """
    confusion = np.zeros((num_classes, num_classes + 1), np.int64)
    for t, p, pixels in zip(*(column.tolist() for column in overlaps), strict=True):
        row = class_of_truth.get(t)
        if row is not None:
            confusion[row, class_of_prediction.get(p, num_classes)] += pixels
    return confusion


def class_iou(confusion: IntArray) -> FloatArray:
    """Compute the IoU of each class from a confusion matrix; nan for classes the truth lacks.

    Args:
        confusion: (K, K + 1) pixels as from `class_confusion`, summed over the data set.

    Returns:
        (K,) in 0..1. Its `nanmean` is the mIoU over the classes of the truth.
    """
    num_classes = len(confusion)
    shared = np.diagonal(confusion[:, :num_classes])
    in_truth = confusion.sum(axis=1)
    union = in_truth + confusion[:, :num_classes].sum(axis=0) - shared
    iou = np.full(num_classes, np.nan)
    return np.divide(shared, union, out=iou, where=in_truth > 0)


def mean_ious(iou: npt.NDArray[Any], is_thing: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Average over the classes that occur in the truth: all, things, stuff.

    Args:
        iou: (K,) IoU of each class, nan where the class does not occur.
        is_thing: (K,) flags.

    Returns:
        "mIoU", "mIoU_th" and "mIoU_st" in percent; nan for an empty group.
    """
    present = ~np.isnan(iou)
    groups = {"mIoU": present, "mIoU_th": present & is_thing, "mIoU_st": present & ~is_thing}
    return {
        name: 100 * float(iou[group].mean()) if group.any() else float("nan")
        for name, group in groups.items()
    }
