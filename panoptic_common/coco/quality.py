"""Panoptic quality of predicted id maps: PQ, SQ, RQ, and boundary PQ, per class and in the mean.

The problem: compare a predicted map of segments with the true one. A predicted and a true segment
of one class match if their IoU is above 1/2, which makes the match unique. With the matched
pairs TP, the unmatched predictions FP and the unmatched truth FN of a class

    PQ = sum of IoU over TP / (|TP| + |FP|/2 + |FN|/2) = SQ * RQ,
    SQ = sum of IoU over TP / |TP|
    RQ = |TP| / (|TP| + |FP|/2 + |FN|/2).

The figure of a data set is the mean over those classes that have any TP, FP or FN. Source:
Kirillov et al., "Panoptic Segmentation", CVPR 2019, Eq. 1. The rules for void and crowd are those
of the COCO evaluation code, panopticapi, to the letter:

* predicted pixels in void truth are left out of the union;
* a crowd segment of the truth matches nothing and is no FN;
* an unmatched prediction is no FP if more than half of it lies in void or in crowd of its class.
  If the image has several crowd segments of that class, only the one listed *last* counts.

Two things differ on purpose. A group without any class (no stuff in the data, say) has quality
nan, not a ZeroDivisionError. And areas are counted in the maps, where panopticapi believes the
`area` listed with the truth: the same thing in a valid data set.

Boundary PQ replaces IoU by min(mask IoU, boundary IoU) before the test against 1/2, which asks
large segments for precise outlines. Source: Cheng et al., "Boundary IoU", CVPR 2021, section 6.

Everything here is a function of numpy arrays: no files, no framework, no state but the sums.

Shape shorthand: H, W image size in pixels; K number of classes, numbered 0..K-1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from panoptic_common.coco.overlaps import (
    FloatArray,
    IntArray,
    Overlaps,
    boundary_band,
    boundary_radius,
    count_overlaps,
)
from panoptic_common.coco.segment_ids import MAX_ID, VOID_ID

SegmentsInfo = Sequence[Mapping[str, Any]]

MATCH_IOU = 0.5  # a match needs an IoU *above* this; at 0.5 or below it would not be unique
_INTERIOR = MAX_ID + 1  # marks pixels inside a segment, away from its boundary


# ------------------------------------------------------------------------------------ results


class GroupQuality(NamedTuple):
    """Mean quality over some classes, each figure in 0..1, nan if `num_classes` is 0."""

    pq: float
    sq: float
    rq: float
    num_classes: int  # how many classes had a TP, FP or FN and so count in the mean


@dataclass(frozen=True, eq=False)
class PanopticQuality:
    """Quality of a data set; the (K,) arrays are in 0..1, nan where a class never occurred."""

    all: GroupQuality
    things: GroupQuality
    stuff: GroupQuality
    pq: FloatArray
    sq: FloatArray
    rq: FloatArray


@dataclass(eq=False)
class PanopticStatistics:
    """Sums that PQ is made of, per class. They add up over images and over processes.

    Attributes:
        iou: (K,) sum of the IoU of the matched pairs.
        tp, fp, fn: (K,) number of matched pairs, of unmatched predictions, of unmatched truth.
    """

    iou: FloatArray
    tp: IntArray
    fp: IntArray
    fn: IntArray

    @classmethod
    def zeros(cls, num_classes: int) -> PanopticStatistics:
        """Make the sums over no image at all."""
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        counts = np.zeros((3, num_classes), np.int64)
        return cls(np.zeros(num_classes), counts[0], counts[1], counts[2])

    @property
    def num_classes(self) -> int:
        """K, how many classes there are."""
        return len(self.iou)

    def __iadd__(self, other: PanopticStatistics) -> PanopticStatistics:
        if other.num_classes != self.num_classes:
            raise ValueError(
                f"cannot add statistics of {other.num_classes} classes to {self.num_classes}"
            )
        self.iou += other.iou
        self.tp += other.tp
        self.fp += other.fp
        self.fn += other.fn
        return self

    def __add__(self, other: PanopticStatistics) -> PanopticStatistics:
        total = PanopticStatistics.zeros(self.num_classes)
        total += self
        total += other
        return total

    def quality(self, is_thing: Sequence[bool]) -> PanopticQuality:
        """Turn the sums into PQ, SQ and RQ.

        Args:
            is_thing: (K,) which classes are things; the others are stuff.

        Raises:
            ValueError: if `is_thing` has another length than K.
        """
        things = np.asarray(is_thing, dtype=bool)
        if things.shape != (self.num_classes,):
            raise ValueError(f"is_thing has shape {things.shape}, not ({self.num_classes},)")
        weight = self.tp + 0.5 * self.fp + 0.5 * self.fn
        occurs = weight > 0
        nothing = np.full(self.num_classes, np.nan)
        pq = np.divide(self.iou, weight, out=nothing.copy(), where=occurs)
        rq = np.divide(self.tp, weight, out=nothing.copy(), where=occurs)
        # A class that occurs but was never matched has SQ 0, as in panopticapi.
        sq = np.where(occurs, 0.0, np.nan)
        np.divide(self.iou, self.tp, out=sq, where=self.tp > 0)

        def mean_over(group: npt.NDArray[np.bool_]) -> GroupQuality:
            chosen = group & occurs
            if not chosen.any():
                return GroupQuality(np.nan, np.nan, np.nan, 0)
            means = [float(values[chosen].mean()) for values in (pq, sq, rq)]
            return GroupQuality(means[0], means[1], means[2], int(chosen.sum()))

        return PanopticQuality(
            mean_over(np.ones_like(things)), mean_over(things), mean_over(~things), pq, sq, rq
        )


class MatchedPair(NamedTuple):
    """A true and a predicted segment that match."""

    truth_id: int
    prediction_id: int
    category_id: int
    iou: float


@dataclass(frozen=True)
class SegmentMatches:
    """What became of every segment of one image.

    Attributes:
        pairs: the true positives.
        false_positives: (predicted id, class) of each.
        false_negatives: (true id, class) of each.
        ignored: (predicted id, class) of unmatched predictions that lie in void or crowd.
    """

    pairs: tuple[MatchedPair, ...]
    false_positives: tuple[tuple[int, int], ...]
    false_negatives: tuple[tuple[int, int], ...]
    ignored: tuple[tuple[int, int], ...]

    def statistics(self, num_classes: int) -> PanopticStatistics:
        """Count them per class 0..num_classes-1."""
        sums = PanopticStatistics.zeros(num_classes)
        for pair in self.pairs:
            sums.iou[pair.category_id] += pair.iou
            sums.tp[pair.category_id] += 1
        for _, category in self.false_positives:
            sums.fp[category] += 1
        for _, category in self.false_negatives:
            sums.fn[category] += 1
        return sums


# ------------------------------------------------------------------------------------ matching


def match_segments(
    truth: npt.NDArray[Any],
    truth_segments: SegmentsInfo,
    prediction: npt.NDArray[Any],
    prediction_segments: SegmentsInfo,
    num_classes: int,
    *,
    boundary_ratio: float | None = None,
    overlaps: Overlaps | None = None,
) -> SegmentMatches:
    """Match the predicted segments of one image with the true ones.

    Args:
        truth: (H, W) integer ids, 0 = void.
        truth_segments: one mapping per segment with `id`, `category_id` in 0..K-1, `iscrowd`
            (0 if absent). A listed segment without a pixel is a false negative; pixels of an
            unlisted id match nothing (both as in panopticapi; see `check_truth`).
        prediction: (H, W) integer ids, 0 = void.
        prediction_segments: mappings with `id` and `category_id`; exactly the ids of the map.
        num_classes: K.
        boundary_ratio: None for PQ; for boundary PQ the width of the band over the diagonal.
        overlaps: `count_overlaps(truth, prediction)`, if the caller has it already.

    Returns:
        The matched pairs, false positives and false negatives.

    Raises:
        ValueError: for maps of different size. Also for segments that are listed twice, have an
            unknown class, or are predicted in only one of map and list.
    """
    if overlaps is None:
        overlaps = count_overlaps(truth, prediction)
    true_class = classes_by_id(truth_segments, num_classes, "truth")
    predicted_class = classes_by_id(prediction_segments, num_classes, "prediction")
    crowd = {int(s["id"]) for s in truth_segments if s.get("iscrowd", 0)}
    shared = overlaps.table()
    true_area, predicted_area = overlaps.areas()
    _check_prediction(predicted_class, predicted_area)

    candidates = {
        (t, p): segment_iou(true_area[t], predicted_area[p], pixels, shared.get((VOID_ID, p), 0))
        for (t, p), pixels in shared.items()
        if t in true_class
        and t not in crowd
        and p in predicted_class
        and true_class[t] == predicted_class[p]
    }
    if boundary_ratio is not None:
        candidates = _limit_to_boundary_iou(candidates, truth, prediction, boundary_ratio)
    pairs = tuple(
        MatchedPair(t, p, true_class[t], iou)
        for (t, p), iou in candidates.items()
        if iou > MATCH_IOU
    )
    return _classify_the_rest(pairs, true_class, crowd, predicted_class, predicted_area, shared)


def classes_by_id(segments: SegmentsInfo, num_classes: int, what: str) -> dict[int, int]:
    """Return the class of each listed id, in the order of the list.

    Args:
        segments: mappings with `id` and `category_id`.
        num_classes: K.
        what: "truth" or "prediction", for the errors.

    Raises:
        ValueError: naming a segment that is listed twice, or whose id or class is out of range.
    """
    classes: dict[int, int] = {}
    for segment in segments:
        segment_id, category = int(segment["id"]), int(segment["category_id"])
        if segment_id in classes:
            raise ValueError(f"segment {segment_id} of the {what} is listed twice")
        if segment_id == VOID_ID:
            raise ValueError(f"the {what} lists a segment with id {VOID_ID}, which is void")
        if not 0 < segment_id <= MAX_ID:
            raise ValueError(f"the {what} lists the segment id {segment_id}; ids are 1..{MAX_ID}")
        if not 0 <= category < num_classes:
            raise ValueError(
                f"segment {segment_id} of the {what} has category_id {category};"
                f" the {num_classes} classes are numbered 0..{num_classes - 1}"
            )
        classes[segment_id] = category
    return classes


def check_truth(truth_segments: SegmentsInfo, ids: npt.NDArray[Any]) -> None:
    """Refuse a true map that holds ids which its list does not name, as training does.

    `match_segments` takes them for segments that match nothing, as panopticapi does. A truth with
    red and blue exchanged has PQ 0 then, whatever is predicted. Segments without a pixel are no
    fault here: they count as missed.

    Args:
        truth_segments: mappings with `id`.
        ids: that occur in the true map.

    Raises:
        ValueError: with the first of these ids.
    """
    listed = {VOID_ID, *(int(segment["id"]) for segment in truth_segments)}
    unlisted = [i for i in ids.tolist() if i not in listed]
    if unlisted:
        raise ValueError(_unlisted("true", unlisted))


def _unlisted(which: str, ids: list[int]) -> str:
    return (
        f"the {which} map holds the segment ids {ids[:5]} ({len(ids)} in all),"
        " which its segments_info does not list"
    )


def _check_prediction(classes: dict[int, int], areas: dict[int, int]) -> None:
    """Refuse a prediction whose map and list name different segments."""
    unlisted = [i for i in areas if i not in classes and i != VOID_ID]
    if unlisted:
        raise ValueError(_unlisted("predicted", unlisted))
    absent = [i for i in classes if i not in areas]
    if absent:
        raise ValueError(
            f"the prediction's segments_info lists the segment ids {absent[:5]}"
            f" ({len(absent)} in all), which have no pixel in the map"
        )


def segment_iou(true_area: int, predicted_area: int, shared: int, predicted_in_void: int) -> float:
    """Return the IoU of two segments from counts of pixels, with void left out of the union."""
    return shared / (true_area + predicted_area - shared - predicted_in_void)


def _limit_to_boundary_iou(
    candidates: dict[tuple[int, int], float],
    truth: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    ratio: float,
) -> dict[tuple[int, int], float]:
    """Replace each IoU by min(IoU, boundary IoU).

    Boundary IoU is the IoU of the two segments' boundary bands. What is taken off the union is the
    predicted band's part in the *whole* void area, not in a band of it.
    """
    height, width = truth.shape
    radius = boundary_radius(height, width, ratio)
    bands = []
    for labels in (truth, prediction):
        band = np.array(labels, dtype=np.int32)
        band[~boundary_band(labels, radius) & (labels != VOID_ID)] = _INTERIOR
        bands.append(band)
    overlaps = count_overlaps(*bands)
    shared = overlaps.table()
    true_area, predicted_area = overlaps.areas()
    # Every segment has a band: its outermost pixels are edge pixels.
    return {
        (t, p): min(
            iou,
            segment_iou(
                true_area[t], predicted_area[p], shared.get((t, p), 0), shared.get((VOID_ID, p), 0)
            ),
        )
        for (t, p), iou in candidates.items()
    }


def _classify_the_rest(
    pairs: tuple[MatchedPair, ...],
    true_class: dict[int, int],
    crowd: set[int],
    predicted_class: dict[int, int],
    predicted_area: dict[int, int],
    shared: dict[tuple[int, int], int],
) -> SegmentMatches:
    """Sort the segments outside `pairs` into false positives, false negatives and ignored."""
    matched_truth = {pair.truth_id for pair in pairs}
    matched_prediction = {pair.prediction_id for pair in pairs}
    missed = []
    crowd_of_class: dict[int, int] = {}
    for t, category in true_class.items():
        if t in crowd:
            crowd_of_class[category] = t  # a later one replaces it: the last listed counts
        elif t not in matched_truth:
            missed.append((t, category))
    wrong: list[tuple[int, int]] = []
    ignored: list[tuple[int, int]] = []
    for p, category in predicted_class.items():
        if p in matched_prediction:
            continue
        excused = shared.get((VOID_ID, p), 0)
        if category in crowd_of_class:
            excused += shared.get((crowd_of_class[category], p), 0)
        fate = ignored if excused / predicted_area[p] > 0.5 else wrong
        fate.append((p, category))
    return SegmentMatches(pairs, tuple(wrong), tuple(missed), tuple(ignored))
