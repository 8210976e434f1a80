"""The measures in which results on cell nuclei are reported, from the matches of each image.

    PQ, SQ, RQ    of the nuclei, over all images together
    AP at t       TP / (TP + FP + FN) of pairs with an IoU above t, as in the 2018 Data Science Bowl
                  (Caicedo et al., Nature Methods 2019). TP, FP and FN are those of each image, of
                  which the mean is taken. Or they are those of all images together, as in
                  StarDist's `matching_dataset` by default
    mean AP       over t = 0.5, 0.55, ... 0.95

It is not COCO's AP: nothing is ranked by score. A pair with an IoU above 1/2 is unique where
neither the truth nor the prediction overlap themselves, so that all thresholds share one matching.

Shapes: H, W image size in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from panoptic_common.coco.quality import SegmentMatches
from panoptic_common.runtime.intensity import luma

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
KINDS = ("fluorescence", "stained")
# Between the darkest stained image of the training set (104) and the brightest fluorescence (44).
DARK_GROUND = 75
# By the true area, an invented nucleus by its own: side of a square of that area in pixels.
SIZES = {"below 12": (0, 12**2), "12 to 24": (12**2, 24**2), "from 24": (24**2, np.inf)}


def microscopy_of(image: npt.NDArray[np.uint8]) -> str:
    """Tell the kind of microscopy from the ground on which the nuclei lie.

    Fluorescence shines on black; tissue and cells with a stain are seen against white light. So an
    image is "fluorescence" if the median of its luma is below `DARK_GROUND`, else "stained".

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    return KINDS[0] if np.median(luma(image, "RGB")) < DARK_GROUND else KINDS[1]


class Nucleus(NamedTuple):
    """A true nucleus, or an invented one.

    Attributes:
        iou: of its match; 0 without.
        is_true: False for a prediction that matches nothing.
        area: of the true segment, or else of the predicted one, in pixels.
    """

    iou: float
    is_true: bool
    area: int


@dataclass
class ImageNuclei:
    """What became of the nuclei of one image.

    Attributes:
        name: of the image.
        kind: of microscopy.
        nuclei: the true and the invented ones.
    """

    name: str
    kind: str
    nuclei: list[Nucleus] = field(default_factory=list)

    @property
    def pq(self) -> float:
        """PQ of this image's nuclei, 0 to 1; nan for an image without any."""
        return figures_of([self])["PQ"]


def list_nuclei(
    matches: SegmentMatches, category: int, areas: tuple[dict[int, int], dict[int, int]]
) -> list[Nucleus]:
    """List the nuclei of one image.

    Args:
        matches: of `match_segments`.
        category: contiguous class of the nuclei.
        areas: of the true and of the predicted segments, by id; those of `Overlaps.areas`.
    """
    true_area, predicted_area = areas
    nuclei = [
        Nucleus(pair.iou, True, true_area[pair.truth_id])
        for pair in matches.pairs
        if pair.category_id == category
    ]
    nuclei += [
        Nucleus(0.0, True, true_area.get(segment, 0))
        for segment, label in matches.false_negatives
        if label == category
    ]
    return nuclei + [
        Nucleus(0.0, False, predicted_area[segment])
        for segment, label in matches.false_positives
        if label == category
    ]


def figures_of(images: Sequence[ImageNuclei], size: tuple[float, float] = (0, np.inf)) -> dict:
    """Compute all measures over some images, of the nuclei of a range of areas.

    Args:
        images: any number.
        size: least area, and the first that is too large, in pixels.

    Returns:
        "images", "nuclei", "PQ", "SQ", "RQ", "AP50", "AP75", "mean AP" (means over images) and
        "pooled AP50", "pooled mean AP"; shares from 0 to 1, nan where nothing is.
    """
    chosen = [[n for n in image.nuclei if size[0] <= n.area < size[1]] for image in images]
    every = [n for nuclei in chosen for n in nuclei]
    matched = [n.iou for n in every if n.iou > 0]
    weight = len(matched) + (len(every) - len(matched)) / 2
    per_image = np.array([average_precisions(nuclei) for nuclei in chosen if nuclei])
    means = per_image.mean(axis=0) if len(per_image) else np.full(len(THRESHOLDS), np.nan)
    pooled = average_precisions(every)
    return {
        "images": len(per_image),
        "nuclei": sum(n.is_true for n in every),
        "PQ": sum(matched) / weight if weight else np.nan,
        "SQ": float(np.mean(matched)) if matched else (0.0 if weight else np.nan),
        "RQ": len(matched) / weight if weight else np.nan,
        "AP50": float(means[0]),
        "AP75": float(means[THRESHOLDS.index(0.75)]),
        "mean AP": float(means.mean()),
        "pooled AP50": float(pooled[0]),
        "pooled mean AP": float(pooled.mean()),
    }


def average_precisions(nuclei: Sequence[Nucleus]) -> npt.NDArray[np.float64]:
    """Compute TP / (TP + FP + FN) at each of `THRESHOLDS`; nan without a nucleus.

    A pair at or below a threshold is a missed nucleus and an invented one.
    """
    if not nuclei:
        return np.full(len(THRESHOLDS), np.nan)
    iou = np.array([n.iou for n in nuclei])
    hits = (iou[None] > np.array(THRESHOLDS)[:, None]).sum(axis=1)
    broken = (iou > 0).sum() - hits  # each counts twice: once in the truth, once in the prediction
    precisions: npt.NDArray[np.float64] = hits / (len(nuclei) + broken)
    return precisions


def table_rows(images: Sequence[ImageNuclei]) -> dict[str, dict[str, Any]]:
    """Compute the figures of all images, of each kind of microscopy, and of each range of sizes."""
    rows = {"all": figures_of(images)}
    for kind in KINDS:
        rows[kind] = figures_of([image for image in images if image.kind == kind])
    for name, size in SIZES.items():
        rows[f"side {name}"] = figures_of(images, size)
    return rows
