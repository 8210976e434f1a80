"""Two predictions of the same images: PQ of an image, the sign test, and the resampled interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from panoptic_maps import random_image
from scipy.stats import binomtest

from panoptic_common.coco.paired import compare_paired, image_pq, sign_test
from panoptic_common.coco.quality import PanopticStatistics, match_segments


def sums(*classes: tuple[float, int, int, int]) -> PanopticStatistics:
    """Statistics from (summed IoU, TP, FP, FN) of each class."""
    columns = [np.array(column) for column in zip(*classes, strict=True)]
    return PanopticStatistics(columns[0].astype(float), *columns[1:])


NOTHING = (0.0, 0, 0, 0)


def test_pq_of_an_image_is_the_mean_over_its_own_classes():
    # 0.8 / (1 + 1/2) and 0 / (1/2); the third class does not occur.
    image = sums((0.8, 1, 1, 0), (0.0, 0, 0, 1), NOTHING)
    assert image_pq([image]).tolist() == pytest.approx([100 * (0.8 / 1.5 + 0) / 2])
    assert image_pq([sums(NOTHING, NOTHING, NOTHING)]).tolist() == [100.0]


@pytest.mark.parametrize(
    ("better", "worse", "p"),
    # Of 5 coins: 2 (1) / 32. Of 4 coins 3 and 1: 2 (1 + 4) / 16. Even: every outcome.
    [(5, 0, 2 / 32), (1, 3, 10 / 16), (2, 2, 1.0), (0, 0, 1.0)],
)
def test_sign_test_by_hand(better, worse, p):
    assert sign_test(better, worse) == p


@pytest.mark.parametrize(("better", "worse"), [(30, 12), (0, 400), (2600, 2400)])
def test_sign_test_equals_scipys(better, worse):
    expected = binomtest(better, better + worse).pvalue
    assert sign_test(better, worse) == pytest.approx(expected, rel=1e-9)


def random_predictions(number: int):
    rng = np.random.default_rng(3)
    images = [random_image(rng, 24, 30, 8, 3) for _ in range(number)]
    first = [match_segments(*image, 3).statistics(3) for image in images]
    # The second one has the truth right in every third image.
    second = [
        sums(*((float(n), n, 0, 0) for n in (s.tp + s.fn).tolist())) if i % 3 == 0 else s
        for i, s in enumerate(first)
    ]
    return first, second


def test_comparison_equals_one_that_adds_up_every_resample():
    first, second = random_predictions(17)
    found = compare_paired(first, second, resamples=100, seed=5, level=0.8)

    def pq(images) -> float:
        total = PanopticStatistics.zeros(3)
        for image in images:
            total += image
        return 100 * total.quality([True] * 3).all.pq

    assert found.first == pytest.approx(pq(first)) and found.second == pytest.approx(pq(second))
    rng, differences = np.random.default_rng(5), []
    for _ in range(100):
        times = rng.multinomial(17, np.full(17, 1 / 17))
        drawn = [i for i in range(17) for _ in range(times[i])]
        assert len(drawn) == 17
        differences.append(pq([second[i] for i in drawn]) - pq([first[i] for i in drawn]))
    assert (found.low, found.high) == pytest.approx(np.percentile(differences, [10, 90]))
    assert 0 < found.low < found.second - found.first < found.high
    assert found.better == 6 and found.worse == 0 and found.p_value == 2 / 2**6
    assert (found.by_image[1::3] == 0).all() and (found.by_image[::3] > 0).all()


def test_equal_predictions_and_the_seed():
    first, second = random_predictions(9)
    same = compare_paired(first, first)
    assert (same.low, same.high, same.better, same.worse, same.p_value) == (0, 0, 0, 0, 1)
    once, twice, other = (compare_paired(first, second, seed=seed) for seed in (1, 1, 2))
    assert (once.low, once.high) == (twice.low, twice.high) != (other.low, other.high)


def test_images_without_a_segment_say_nothing():
    found = compare_paired([sums(NOTHING)], [sums(NOTHING)], resamples=3)
    assert math.isnan(found.first) and math.isnan(found.low) and found.by_image.tolist() == [0]


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (([], []), {}, "0 and 0"),
        (([sums(NOTHING)], []), {}, "1 and 0"),
        (([sums(NOTHING)], [sums(NOTHING)]), {"resamples": 0}, "resamples"),
        (([sums(NOTHING)], [sums(NOTHING)]), {"level": 1.0}, "level"),
    ],
)
def test_bad_arguments_are_refused(arguments, keywords, message):
    with pytest.raises(ValueError, match=message):
        compare_paired(*arguments, **keywords)
