"""A smooth surrogate of panoptic quality (Abbas, Swoboda, NeurIPS 2021, 3.3.2, Eq. 6).

PQ (Eq. 5) counts a predicted segment once its IoU with a true one passes 1/2, and evaluation drops
small segments first; both are steps. The surrogate matches by maximum IoU (`cops.layers.matching`).
With u the IoU of a matched pair, a the area of a mask and t the class's rejection area, it softens
them,

    h(u) = u^4 / (u^4 + (1 - u)^4),    sigma(a) = 1 / (1 + exp(-s (a - t))),

to the quality of one class, summed over the images of the batch, of all processes and parts, before
the ratio is taken,

    PQ = sum of h sigma u over the pairs / (sum of h sigma over the pairs
                                            + (sum of sigma over false positives + misses) / 2).

What the misses are depends on the `form`:

* "literal", Eq. 6 as printed: the number of unmatched true segments. A matched pair with h near 0
  then counts nowhere. Improving it *lowers* PQ, since it joins the denominator before it pays: with
  one pair at u = 0.8 and one at 0.4, dPQ/du is -0.54.
* "authors", as the authors' training does: a matched pair is also a miss by 1 - h. The slope above
  becomes +0.29. This is the default.
* "expected": a matched pair is a miss by 1 - h sigma, and a false positive by (1 - h) sigma. Then

      PQ = 2 sum of h sigma u / (sum of sigma over all predictions + number of true segments).

  This is the form whose limit is Eq. 5, as h and sigma become steps. In the others a prediction
  that fails, u < 1/2, is no false positive. Two equal segments joined to one have u = 1/2: the
  authors' form gives 0.25 / 1.25, this one 0.5 / 3, and Eq. 5 gives 0 / 1.5.

h is so flat near 0 that a missed segment, u = 0, has no slope in any form. `linear_share` blends
u into h, and in the authors' form the miss then weighs less as soon as a cell is right. (In the
expected form the first cell costs more by sigma than it earns by u^2.) `match_power` replaces the 4
of h: 8 is steeper.

Cells in void or crowd count nowhere, and an unmatched prediction of which they are more than half
is no false positive, as in PQ.

A class counts in the mean if the batch holds a true segment of it. One that is only predicted has
PQ 0 whatever its masks are, so it has no slope. Its cells are drawn to the segments they belong to.
The authors add an `epsilon` of 0.1 to both parts of the ratio and let such a class count, too
(`count_predicted`). With epsilon it is epsilon / (sum of sigma / 2 + epsilon), which grows as the
masks shrink.

Shapes: N images; K classes; h, w cells of the grid; S true segments; J masks of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cops.layers.panoptic_masks import PanopticMasks, cluster_classes
from cops.losses.batch_sums import sum_over_batch
from cops.targets import CopsTarget
from panoptic_common.coco.quality import PanopticStatistics, match_segments

FORMS = ("authors", "literal", "expected")

AREA_SLOPE = 0.1  # of sigma (Eq. 6); the paper does not say per what
MATCH_POWER = 4.0  # of h (3.3.2)

# Keeps 0/0 away, where no pair of a class has an overlap worth naming; far below any real value.
_TINY = 1e-6


class SmoothQuality(NamedTuple):
    """What the surrogate is made of, without gradient.

    Attributes:
        pq: (K,) in 0..1, nan for classes that do not count in the mean.
        true_positives: (K,) sum of h sigma.
        false_positives: (K,) sum of sigma over unmatched predictions.
        false_negatives: (K,) misses, as the form counts them.
    """

    pq: Tensor
    true_positives: Tensor
    false_positives: Tensor
    false_negatives: Tensor


def soft_match(iou: Tensor, linear_share: float = 0.0, power: float = MATCH_POWER) -> Tensor:
    """Compute h(u) = u^p / (u^p + (1 - u)^p), blended with u itself.

    Args:
        iou: u, in 0..1.
        linear_share: s in (1 - s) h + s u. h is so flat near 0 (slope 0.03 at u = 0.2, 0 at 0) that
            a missed segment does not move. A share of 0.2 gives it a slope.
        power: p, at least 1.
    """
    hit, miss = iou**power, (1 - iou) ** power
    return (1 - linear_share) * hit / (hit + miss) + linear_share * iou


def soft_keep(area: Tensor, limit: Tensor, slope: float = AREA_SLOPE) -> Tensor:
    """Compute sigma(a) = 1 / (1 + exp(-s (a - t))), the chance that a segment is not too small.

    Args:
        area: a, in cells.
        limit: t, in cells.
        slope: s, per cell.
    """
    return torch.sigmoid(slope * (area - limit))


class _Pairs(NamedTuple):
    """Every mask of the batch, one after another; all (J,)."""

    classes: Tensor
    iou: Tensor  # 0 for masks without a partner
    area: Tensor  # cells where the truth is known
    matched: Tensor  # bool
    predicted: Tensor  # bool, False for empty masks
    excused: Tensor  # bool, unmatched and mostly in void or crowd


def smooth_panoptic_quality(
    predictions: Sequence[PanopticMasks],
    truths: Sequence[CopsTarget],
    area_limits: Tensor,
    *,
    form: str = "authors",
    linear_share: float = 0.0,
    match_power: float = MATCH_POWER,
    area_slope: float = AREA_SLOPE,
    epsilon: float = 0.0,
    count_predicted: bool = False,
) -> tuple[Tensor, SmoothQuality]:
    """Compute 1 - the mean surrogate PQ over the classes present in the batch.

    With several processes the batch is that of all of them, and each gets the same loss. All have
    to call this, however many images each has.

    Args:
        predictions: the masks of N images, matched with the truth.
        truths: the truth of the same images, on the same device.
        area_limits: (K,) rejection area t of each class, in cells of the grid.
        form: one of `FORMS`, see the module.
        linear_share: of u in h, see `soft_match`.
        match_power: of h, see `soft_match`.
        area_slope: of sigma, per cell, see `soft_keep`.
        epsilon: added to numerator and denominator of each class.
        count_predicted: let classes that are only predicted into the mean.

    Returns:
        A scalar in 0..1 (0, still part of the graph, if no class counts), and what it is made of.

    Raises:
        ValueError: unknown form, or not as many truths as predictions.
    """
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r} of the panoptic quality: use one of {FORMS}")
    if not predictions or len(predictions) != len(truths):
        raise ValueError(f"{len(predictions)} predictions and {len(truths)} truths; one each")
    device_type = predictions[0].masks.device.type
    with torch.autocast(device_type, enabled=False):  # half precision counts to 2048 only
        images = [
            _pairs_of_image(prediction, truth)
            for prediction, truth in zip(predictions, truths, strict=True)
        ]
        pairs = _Pairs(*(torch.cat(column) for column in zip(*images, strict=True)))
        limits = area_limits.to(pairs.area)
        num_truths = torch.zeros(len(limits), dtype=pairs.area.dtype, device=limits.device)
        for truth in truths:
            num_truths += torch.bincount(truth.classes, minlength=len(limits))
        keep = soft_keep(pairs.area, limits[pairs.classes], area_slope)
        match = soft_match(pairs.iou, linear_share, match_power)
        return _quality_of_classes(pairs, num_truths, keep, match, form, epsilon, count_predicted)


def _pairs_of_image(prediction: PanopticMasks, truth: CopsTarget) -> _Pairs:
    """Measure the masks of an image, and their IoU with their partners."""
    masks, match = prediction.masks, prediction.match
    if masks.shape[1:] != truth.segment_map.shape:
        raise ValueError(
            f"masks are {tuple(masks.shape[1:])} cells, the truth {tuple(truth.segment_map.shape)}"
        )
    masks = masks.to(torch.promote_types(masks.dtype, torch.float32)).flatten(1)
    segment_map = truth.segment_map.flatten().long()
    known = masks * (segment_map >= 0)
    area = known.sum(dim=1)
    matched = match >= 0
    # Unmatched masks have partner -1; their intersection is with cells that `known` sets to 0.
    intersection = (known * (segment_map[None] == match[:, None])).sum(dim=1)
    true_area = torch.bincount(segment_map.clamp(min=-1) + 1, minlength=len(truth.classes) + 1)
    union = area + true_area[match + 1] - intersection
    iou = torch.where(matched, intersection / union.clamp(min=1), torch.zeros_like(area))
    predicted = torch.arange(len(match), device=match.device) < prediction.num_predicted
    excused = ~matched & (area.detach() < 0.5 * masks.detach().sum(dim=1))
    return _Pairs(prediction.classes, iou, area, matched, predicted, excused)


def _quality_of_classes(
    pairs: _Pairs,
    num_truths: Tensor,
    keep: Tensor,
    match: Tensor,
    form: str,
    epsilon: float,
    count_predicted: bool,
) -> tuple[Tensor, SmoothQuality]:
    """Take the ratio of each class and the mean.

    Args:
        pairs: J masks.
        num_truths: (K,), of this part of the batch.
        keep: (J,) sigma.
        match: (J,) h.
        form: one of `FORMS`.
        epsilon: see `smooth_panoptic_quality`.
        count_predicted: likewise.
    """

    def by_class(values: Tensor) -> Tensor:
        return torch.zeros_like(num_truths).index_add(0, pairs.classes, values)

    hit = match * keep * pairs.matched
    paired = pairs.matched & pairs.predicted  # an empty mask for a missed segment is a pair, too
    spurious = keep * (pairs.predicted & ~pairs.matched & ~pairs.excused)
    if form == "literal":
        missed = num_truths - by_class(paired.to(hit.dtype))
    elif form == "authors":
        unmatched = num_truths - by_class(pairs.matched.to(hit.dtype))
        missed = unmatched + by_class((1 - match) * pairs.matched)
    else:
        missed = num_truths - by_class(hit)
        spurious = spurious + keep * (1 - match) * paired
    own = (by_class(hit), by_class(spurious), missed, by_class(hit * pairs.iou), num_truths)
    sums = sum_over_batch(torch.stack(own)).unbind()
    true_positives, false_positives, false_negatives, overlap, num_truths = sums
    weight = true_positives + 0.5 * (false_positives + false_negatives)
    if epsilon:
        overlap, weight = overlap + epsilon, weight + epsilon
    pq = overlap / weight.clamp(min=_TINY)

    present = num_truths > 0
    if count_predicted:
        present = present | (false_positives > 0)
    loss = 1 - pq[present].mean() if bool(present.any()) else 0.0 * pairs.area.sum()
    nan = torch.full_like(pq, torch.nan)
    parts = (true_positives, false_positives, false_negatives)
    details = SmoothQuality(
        torch.where(present, pq.detach(), nan), *(part.detach() for part in parts)
    )
    return loss, details


def true_statistics(
    predictions: Sequence[PanopticMasks], truths: Sequence[CopsTarget], area_limits: Tensor
) -> PanopticStatistics:
    """Count what true PQ (Eq. 5) on the grid is made of, for logging beside the surrogate.

    Segments of fewer cells than their class's limit are rejected first, as at test time. Crowd
    counts as void.

    Args:
        predictions: of N images.
        truths: of the same images.
        area_limits: (K,) in cells of the grid.

    Returns:
        Sums over the batch; those of several batches add up, and `.quality(is_thing)` is PQ.
    """
    limits = area_limits.cpu().numpy()
    sums = PanopticStatistics.zeros(len(limits))
    for prediction, truth in zip(predictions, truths, strict=True):
        true_map = truth.segment_map.cpu().numpy()
        clusters = prediction.solution.node_clusters.reshape(true_map.shape)
        classes = cluster_classes(prediction.solution)
        kept = np.bincount(clusters.ravel(), minlength=len(classes)) >= limits[classes]
        predicted_map = np.where(kept, np.arange(1, len(classes) + 1), 0)[clusters]
        matches = match_segments(
            true_map.astype(np.int64) + 1,
            _listed(truth.classes.cpu().numpy()),
            predicted_map,
            [segment for segment, keep in zip(_listed(classes), kept, strict=True) if keep],
            len(limits),
        )
        sums += matches.statistics(len(limits))
    return sums


def _listed(classes: np.ndarray) -> list[dict[str, int]]:
    return [{"id": i + 1, "category_id": int(c)} for i, c in enumerate(classes)]


class PanopticQualityLoss(nn.Module):
    """`smooth_panoptic_quality` with its settings, and w times it (A.2).

    Args:
        area_limits: (K,) rejection area of each class, in cells of the grid.
        weight: w. It scales the perturbation of the costs too: only lambda times w counts.
        form: see `smooth_panoptic_quality`.
        linear_share: see `smooth_panoptic_quality`.
        match_power: see `smooth_panoptic_quality`.
        area_slope: see `smooth_panoptic_quality`.
        epsilon: see `smooth_panoptic_quality`.
        count_predicted: see `smooth_panoptic_quality`.
    """

    def __init__(
        self,
        area_limits: Sequence[float],
        *,
        weight: float = 10.0,
        form: str = "authors",
        linear_share: float = 0.0,
        match_power: float = MATCH_POWER,
        area_slope: float = AREA_SLOPE,
        epsilon: float = 0.0,
        count_predicted: bool = False,
    ) -> None:
        super().__init__()
        self.area_limits: Tensor
        if form not in FORMS:
            raise ValueError(f"unknown form {form!r} of the panoptic quality: use one of {FORMS}")
        limits = torch.tensor(list(area_limits), dtype=torch.float32)
        self.register_buffer("area_limits", limits, persistent=False)
        self.weight = weight
        self.form = form
        self.linear_share = linear_share
        self.match_power = match_power
        self.area_slope = area_slope
        self.epsilon = epsilon
        self.count_predicted = count_predicted

    def forward(
        self, predictions: Sequence[PanopticMasks], truths: Sequence[CopsTarget]
    ) -> tuple[Tensor, SmoothQuality]:
        """Compute the weighted loss, and the parts of the surrogate (unweighted)."""
        loss, details = smooth_panoptic_quality(
            predictions,
            truths,
            self.area_limits,
            form=self.form,
            linear_share=self.linear_share,
            match_power=self.match_power,
            area_slope=self.area_slope,
            epsilon=self.epsilon,
            count_predicted=self.count_predicted,
        )
        return self.weight * loss, details
