"""Where panoptic quality is lost: every point below 100 goes to one kind of error.

With the unmatched predictions FP and the unmatched truth FN of a class, and its matched pairs TP,

    1 - PQ = (sum over TP of (1 - IoU) + |FP| / 2 + |FN| / 2) / W,    W = |TP| + |FP|/2 + |FN|/2.

That is Kirillov et al., "Panoptic Segmentation", CVPR 2019, Eq. 1, subtracted from 1. So each
unmatched segment loses 1/2 and each matched pair 1 - IoU, in units of 1 / W. A loss has one kind,
one size and one image, and the parts sum to 1 - PQ. The figure of a data set is the mean over its
classes; so is each part.

A segment lies *mostly* in another if the two share more than half of its pixels. The pixels of a
prediction in void truth do not count. Crowd segments play no part. An unmatched segment has the
first of these kinds that fits, where all but the first compare segments of one class:

    wrong class   it has an IoU above 1/2 with a segment of another class.
    merged        truth: it lies mostly in a prediction in which another truth lies mostly, too.
                  prediction: two or more true segments lie mostly in it.
    split         truth: two or more predictions lie mostly in it, and cover more than half of it.
                  prediction: it is such a part.
    outline       it lies mostly in a segment of the other map, or the other in it; the IoU is 1/2
                  or less. What a matched pair loses is of this kind as well.
    missed        truth: none of these.
    invented      prediction: none of these.

The rules do not contradict one another: more than half of a segment can lie in one other only. A
matched pair lies mostly in one another, as IoU is no larger than either share.

Shape shorthand: K classes 0..K-1, E = `len(KINDS)`, S size ranges, I images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from panoptic_common.coco.overlaps import FloatArray, IntArray, Overlaps
from panoptic_common.coco.quality import (
    MATCH_IOU,
    PanopticStatistics,
    SegmentMatches,
    SegmentsInfo,
    segment_iou,
)
from panoptic_common.coco.segment_ids import VOID_ID

MISSED, INVENTED, MERGED, SPLIT = "missed", "invented", "merged", "split"
WRONG_CLASS, OUTLINE = "wrong class", "outline"
KINDS = (MISSED, INVENTED, MERGED, SPLIT, WRONG_CLASS, OUTLINE)

COCO_SIZES = (32**2, 96**2)  # below 32 x 32 pixels small, from 96 x 96 on large

_UNMATCHED = 0.5  # what an unmatched segment adds to W, and so loses


class SegmentError(NamedTuple):
    """What one segment, or one matched pair, loses.

    Attributes:
        kind: one of `KINDS`.
        category_id: class 0..K-1 whose PQ it lowers.
        loss: 1/2 for an unmatched segment, 1 - IoU for a matched pair.
        area: of the true segment in pixels; of the predicted one where there is no true one.
        truth_id: the true segment, 0 for an unmatched prediction.
        prediction_id: the predicted segment, 0 for an unmatched truth.
    """

    kind: str
    category_id: int
    loss: float
    area: int
    truth_id: int
    prediction_id: int


# ------------------------------------------------------------------------------- of one image


def find_errors(
    truth_segments: SegmentsInfo,
    prediction_segments: SegmentsInfo,
    overlaps: Overlaps,
    matches: SegmentMatches,
) -> list[SegmentError]:
    """Name the kind of every error of one image.

    Args:
        truth_segments: mappings with `id`, `category_id` and `iscrowd` (0 if absent).
        prediction_segments: mappings with `id` and `category_id`.
        overlaps: `count_overlaps(truth, prediction)`.
        matches: `match_segments` of the same, without boundary ratio.

    Returns:
        The matched pairs (also those that lose nothing), then the unmatched truth, then the
        unmatched predictions, as `matches` lists them.
    """
    true_class = {
        int(s["id"]): int(s["category_id"]) for s in truth_segments if not s.get("iscrowd", 0)
    }
    predicted_class = {int(s["id"]): int(s["category_id"]) for s in prediction_segments}
    relations = _Relations.of(true_class, predicted_class, overlaps)
    true_area, predicted_area = overlaps.areas()
    errors = [
        SegmentError(OUTLINE, pair.category_id, 1 - pair.iou, true_area[pair.truth_id], *pair[:2])
        for pair in matches.pairs
    ]
    for t, category in matches.false_negatives:
        kind = relations.kind_of_truth(t)
        errors.append(SegmentError(kind, category, _UNMATCHED, true_area.get(t, 0), t, 0))
    for p, category in matches.false_positives:
        kind = relations.kind_of_prediction(p)
        errors.append(SegmentError(kind, category, _UNMATCHED, predicted_area[p], 0, p))
    return errors


class _Relations(NamedTuple):
    """Which segments of the two maps lie mostly in which.

    Attributes:
        confused_truth, confused_prediction: ids with an IoU above 1/2 to another class.
        inside: of each prediction the true segments of its class that lie mostly in it.
        parts: of each true segment the predictions of its class that lie mostly in it.
        holder: the prediction of its class in which a true segment lies mostly.
        home: the true segment of its class in which a prediction lies mostly.
        split: the true segments of which two or more parts cover more than half.
    """

    confused_truth: set[int]
    confused_prediction: set[int]
    inside: dict[int, list[int]]
    parts: dict[int, list[int]]
    holder: dict[int, int]
    home: dict[int, int]
    split: set[int]

    @classmethod
    def of(
        cls, true_class: Mapping[int, int], predicted_class: Mapping[int, int], overlaps: Overlaps
    ) -> _Relations:
        shared = overlaps.table()
        true_area, predicted_area = overlaps.areas()
        found = cls(set(), set(), {}, {}, {}, {}, set())
        covered: dict[int, int] = {}
        for (t, p), pixels in shared.items():
            if t not in true_class or p not in predicted_class:
                continue
            in_void = shared.get((VOID_ID, p), 0)
            if true_class[t] != predicted_class[p]:
                iou = segment_iou(true_area[t], predicted_area[p], pixels, in_void)
                if iou > MATCH_IOU:
                    found.confused_truth.add(t)
                    found.confused_prediction.add(p)
                continue
            if 2 * pixels > true_area[t]:
                found.holder[t] = p
                found.inside.setdefault(p, []).append(t)
            if 2 * pixels > predicted_area[p] - in_void:
                found.home[p] = t
                found.parts.setdefault(t, []).append(p)
                covered[t] = covered.get(t, 0) + pixels
        for t, parts in found.parts.items():
            if len(parts) > 1 and 2 * covered[t] > true_area[t]:
                found.split.add(t)
        return found

    def kind_of_truth(self, t: int) -> str:
        if t in self.confused_truth:
            return WRONG_CLASS
        if t in self.holder and len(self.inside[self.holder[t]]) > 1:
            return MERGED
        if t in self.split:
            return SPLIT
        return OUTLINE if t in self.holder or t in self.parts else MISSED

    def kind_of_prediction(self, p: int) -> str:
        if p in self.confused_prediction:
            return WRONG_CLASS
        if len(self.inside.get(p, ())) > 1:
            return MERGED
        if p in self.home and self.home[p] in self.split:
            return SPLIT
        return OUTLINE if p in self.home or p in self.inside else INVENTED


# ------------------------------------------------------------------------------- of many images


@dataclass(eq=False)
class ErrorTotals:
    """Losses by class, kind and size. They add up over images.

    Attributes:
        size_bounds: S - 1 ascending areas in pixels; a segment of just that area is in the upper
            range.
        statistics: the sums of PQ over the same images.
        loss: (K, E, S) sum of the losses, in the order of `KINDS`.
        truths: (K, E, S) number of unmatched true segments.
        predictions: (K, E, S) number of unmatched predicted segments.
    """

    size_bounds: tuple[int, ...]
    statistics: PanopticStatistics
    loss: FloatArray
    truths: IntArray
    predictions: IntArray

    @classmethod
    def zeros(cls, num_classes: int, size_bounds: Sequence[int] = COCO_SIZES) -> ErrorTotals:
        """Make the totals over no image.

        Raises:
            ValueError: the bounds do not ascend from 1.
        """
        bounds = tuple(int(bound) for bound in size_bounds)
        if any(low >= high for low, high in zip((0, *bounds), bounds, strict=False)):
            raise ValueError(f"bounds of sizes are ascending areas from 1 on, got {bounds}")
        shape = (num_classes, len(KINDS), len(bounds) + 1)
        return cls(
            bounds,
            PanopticStatistics.zeros(num_classes),
            np.zeros(shape),
            np.zeros(shape, np.int64),
            np.zeros(shape, np.int64),
        )

    def add(self, statistics: PanopticStatistics, errors: Sequence[SegmentError]) -> None:
        """Add an image: its sums of PQ and what `find_errors` found."""
        self.statistics += statistics
        for error in errors:
            size = int(np.searchsorted(self.size_bounds, error.area, side="right"))
            place = (error.category_id, KINDS.index(error.kind), size)
            self.loss[place] += error.loss
            self.truths[place] += error.prediction_id == 0
            self.predictions[place] += error.truth_id == 0

    def points(self) -> FloatArray:
        """Return what each kind and size costs each class.

        Returns:
            (K, E, S) in percent of PQ: those of a class sum to 100 - PQ, and are nan where a class
            never occurred.
        """
        return self.loss * (100 * _inverse_weight(self.statistics))[:, None, None]

    def mean_points(self, group: npt.NDArray[np.bool_]) -> FloatArray:
        """Average `points` over the classes of a group that occur.

        Args:
            group: (K,) which classes.

        Returns:
            (E, S) in percent of PQ, summing to 100 minus the PQ of the group; nan if none occurs.
        """
        return self._mean(self.loss, group)

    def mean_points_apart(self, group: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
        """Split `mean_points` into what unmatched segments and what matched pairs lose."""
        unmatched = np.multiply(_UNMATCHED, self.truths + self.predictions, dtype=np.float64)
        return self._mean(unmatched, group), self._mean(self.loss - unmatched, group)

    def _mean(self, loss: FloatArray, group: npt.NDArray[np.bool_]) -> FloatArray:
        inverse = _inverse_weight(self.statistics)
        chosen = group & ~np.isnan(inverse)
        if not chosen.any():
            return np.full(loss.shape[1:], np.nan)
        return np.asarray((100 * inverse[chosen, None, None] * loss[chosen]).mean(axis=0))


def image_costs(errors: Sequence[Sequence[SegmentError]], totals: PanopticStatistics) -> FloatArray:
    """Share the PQ that a data set loses out among its images.

    Args:
        errors: of each image, by `find_errors`.
        totals: the sums of PQ over these images.

    Returns:
        (I, E) in percent of the data set's PQ; the sum is 100 - PQ.
    """
    inverse = _inverse_weight(totals)
    per_loss = 100 * np.nan_to_num(inverse) / max(1, int((~np.isnan(inverse)).sum()))
    costs = np.zeros((len(errors), len(KINDS)))
    for row, found in zip(costs, errors, strict=True):
        for error in found:
            row[KINDS.index(error.kind)] += error.loss * per_loss[error.category_id]
    return costs


def _inverse_weight(statistics: PanopticStatistics) -> FloatArray:
    """Return 1 / W of each class, nan where it never occurred."""
    weight = statistics.tp + 0.5 * statistics.fp + 0.5 * statistics.fn
    nothing = np.full(len(weight), np.nan)
    return np.divide(1, weight, out=nothing, where=weight > 0)
