"""Compare two predictions of the same images: by how much PQ differs, and how sure that is.

Two models are evaluated on the same images, and a hard image is hard for both. So what counts is
the difference on each image, and how it varies between images, not the spread of either PQ.

* The bootstrap draws I images with replacement, the same for both predictions. It computes both PQ
  from the sums over the draw (PQ is no mean over images). Over many draws the differences show how
  far the PQ of another set of images might differ. Source: Efron and Tibshirani, "An Introduction
  to the Bootstrap", 1993, section 13.3 (percentile interval).
* The sign test counts on how many images either is better. Were both alike, each of the images that
  differ would be a toss of a coin.

Both see chance in the images alone. How much PQ varies with the seed of a training, neither knows.

Shape shorthand: K classes 0..K-1, I images, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from panoptic_common.coco.overlaps import FloatArray
from panoptic_common.coco.quality import PanopticStatistics

_CHUNK = 64  # resamples that are drawn at once: 64 x 5000 images are 2.5 MB


@dataclass(frozen=True, eq=False)
class PairedComparison:
    """How the second prediction compares with the first; all figures in percent of PQ.

    Attributes:
        first, second: PQ of the data set.
        low, high: percentile interval of the difference second - first over the resamples.
        level: how many of the resamples lie in it, 0..1.
        by_image: (I,) difference of the images' own PQ.
        better, worse: number of images on which the second has the higher, the lower PQ.
        p_value: of the two-sided sign test.
    """

    first: float
    second: float
    low: float
    high: float
    level: float
    by_image: FloatArray
    better: int
    worse: int
    p_value: float


def compare_paired(
    first: Sequence[PanopticStatistics],
    second: Sequence[PanopticStatistics],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedComparison:
    """Compare two predictions image by image.

    Args:
        first: sums of PQ of each image, of the first prediction.
        second: the same images in the same order, of the second.
        resamples: R.
        level: of the interval, 0..1.
        seed: of the resamples.

    Raises:
        ValueError: for different numbers of images, no image, or arguments out of range.
    """
    if len(first) != len(second) or not first:
        raise ValueError(
            f"two predictions of the same images are compared, got {len(first)} and {len(second)}"
        )
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"resamples >= 1 and 0 < level < 1, got {resamples} and {level}")
    sums = [_sums(images) for images in (first, second)]
    whole = [float(_mean_pq(parts.sum(axis=0))) for parts in sums]
    differences = _resampled_differences(sums[0], sums[1], resamples, np.random.default_rng(seed))
    tail = 50 * (1 - level)
    # A resample of images without any segment has no PQ.
    differences = differences[~np.isnan(differences)]
    low, high = np.percentile(differences, [tail, 100 - tail]) if differences.size else [np.nan] * 2
    by_image = image_pq(second) - image_pq(first)
    better, worse = int((by_image > 0).sum()), int((by_image < 0).sum())
    return PairedComparison(
        whole[0],
        whole[1],
        float(low),
        float(high),
        level,
        by_image,
        better,
        worse,
        sign_test(better, worse),
    )


def image_pq(images: Sequence[PanopticStatistics]) -> FloatArray:
    """Return (I,) the PQ of each image for itself: the mean over the classes that occur in it.

    An image on which nothing was to be found, and nothing was, has 100.
    """
    return np.nan_to_num(_mean_pq(_sums(images)), nan=100.0)


def sign_test(better: int, worse: int) -> float:
    """Return the chance that a fair coin splits `better` + `worse` tosses at least so unevenly."""
    tosses, fewer = better + worse, min(better, worse)
    count = term = 1  # binomial coefficients, exact as whole numbers
    for k in range(fewer):
        term = term * (tosses - k) // (k + 1)
        count += term
    return min(1.0, 2 * count / 2**tosses) if tosses else 1.0


def _sums(images: Sequence[PanopticStatistics]) -> FloatArray:
    """Return (I, 2, K): of each class the summed IoU, and |TP| + |FP|/2 + |FN|/2."""
    return np.stack([np.stack([s.iou, s.tp + 0.5 * s.fp + 0.5 * s.fn]) for s in images])


def _mean_pq(sums: FloatArray) -> FloatArray:
    """Turn (..., 2, K) sums into (...) PQ in percent; nan where no class occurs."""
    iou, weight = sums[..., 0, :], sums[..., 1, :]
    occurs = weight > 0
    pq = np.divide(iou, weight, out=np.zeros_like(iou), where=occurs)
    number = occurs.sum(axis=-1)
    nothing = np.full(number.shape, np.nan)
    return 100 * np.divide(pq.sum(axis=-1), number, out=nothing, where=number > 0)


def _resampled_differences(
    first: FloatArray, second: FloatArray, resamples: int, rng: np.random.Generator
) -> FloatArray:
    """Return (R,) differences of PQ over images drawn with replacement."""
    images, flat = len(first), (len(first), -1)
    differences = []
    for start in range(0, resamples, _CHUNK):
        number = min(_CHUNK, resamples - start)
        times = rng.multinomial(images, np.full(images, 1 / images), size=number).astype(float)
        drawn = [
            (times @ sums.reshape(flat)).reshape(number, *sums.shape[1:])
            for sums in (first, second)
        ]
        differences.append(_mean_pq(drawn[1]) - _mean_pq(drawn[0]))
    return np.concatenate(differences)
