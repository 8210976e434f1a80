"""Panoptic quality by hand, its odd cases, and bad input."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from panoptic_maps import listed, one_row, random_image, statistics_of

from panoptic_common.coco.overlaps import count_overlaps
from panoptic_common.coco.quality import PanopticStatistics, match_segments
from panoptic_common.coco.segment_ids import update_segments


def test_worked_example():
    # Truth: segment 1 (class 0) 4 pixels, void 2, segment 2 (class 1) 4. Prediction: segment 7
    # (class 0) on 3 of those 4 and on both void pixels, segment 8 (class 1) on all of 2's.
    truth = one_row([1, 1, 1, 1, 0, 0, 2, 2, 2, 2])
    prediction = one_row([0, 7, 7, 7, 7, 7, 8, 8, 8, 8])
    matches = match_segments(
        truth, listed((1, 0, 0), (2, 1, 0)), prediction, listed((7, 0, 0), (8, 1, 0)), 3
    )
    # Segment 7: 3 / (4 + 5 - 3 - 2) = 3/4.
    assert matches.pairs == ((1, 7, 0, 0.75), (2, 8, 1, 1.0))
    quality = matches.statistics(3).quality([False, True, True])
    assert quality.all == (0.875, 0.875, 1.0, 2)
    assert quality.things == (1.0, 1.0, 1.0, 1)
    assert quality.stuff == (0.75, 0.75, 1.0, 1)
    assert quality.pq[:2].tolist() == [0.75, 1.0] and math.isnan(quality.pq[2])


def test_an_iou_of_one_half_is_no_match():
    truth, prediction = one_row([1, 1, 2, 2]), one_row([5, 6, 6, 6])
    matches = match_segments(
        truth, listed((1, 0, 0), (2, 1, 0)), prediction, listed((5, 0, 0), (6, 0, 0)), 2
    )
    assert matches.pairs == ()  # 1/2 exactly
    assert matches.false_positives == ((5, 0), (6, 0))
    assert matches.false_negatives == ((1, 0), (2, 1))


def test_only_the_last_listed_crowd_of_the_class_excuses_a_prediction():
    truth, prediction = one_row([1, 1, 1, 2]), one_row([5, 5, 5, 5])
    crowds = listed((1, 0, 1), (2, 0, 1))
    predicted = listed((5, 0, 0))
    assert match_segments(truth, crowds, prediction, predicted, 1).false_positives == ((5, 0),)
    assert match_segments(truth, crowds[::-1], prediction, predicted, 1).ignored == ((5, 0),)


def test_exactly_half_in_void_is_still_a_false_positive():
    truth, predicted = one_row([0, 0, 1, 1]), listed((5, 0, 0))
    segments = listed((1, 1, 0))
    half, more = one_row([5, 5, 5, 5]), one_row([5, 5, 5, 0])
    assert match_segments(truth, segments, half, predicted, 2).false_positives == ((5, 0),)
    assert match_segments(truth, segments, more, predicted, 2).ignored == ((5, 0),)


def test_perfect_empty_and_void():
    rng = np.random.default_rng(7)
    truth, segments, _, _ = random_image(rng)
    segments = update_segments(truth, segments)  # to be a prediction, map and list must agree
    truth[~np.isin(truth, [s["id"] for s in segments])] = 0
    visible = [s for s in segments if not s["iscrowd"]]
    perfect = match_segments(truth, segments, truth, segments, 4).statistics(4)
    assert perfect.tp.sum() == len(visible) and perfect.fn.sum() == perfect.fp.sum() == 0
    assert perfect.quality([True] * 4).all[:3] == (1, 1, 1)
    empty = match_segments(truth, segments, np.zeros_like(truth), [], 4).statistics(4)
    assert empty.fn.sum() == len(visible) and empty.tp.sum() == empty.fp.sum() == 0
    assert empty.quality([True] * 4).all[:3] == (0, 0, 0)
    void = match_segments(np.zeros_like(truth), [], truth, segments, 4)
    assert len(void.ignored) == len(segments)
    quality = void.statistics(4).quality([True, False, False, False])
    for group in (quality.all, quality.things, quality.stuff):
        assert group.num_classes == 0 and all(map(math.isnan, group[:3]))


def test_resized_truth_uses_the_areas_of_the_maps():
    """Listed areas of the full-size image must not leak into a truth at half size."""
    truth = np.repeat(one_row([1, 1, 2, 2]), 2, axis=0)
    segments = [
        {"id": 1, "category_id": 0, "area": 16},
        {"id": 2, "category_id": 1, "area": 16},
    ]
    assert len(match_segments(truth, segments, truth, segments, 2).pairs) == 2


def test_statistics_add_up_in_any_grouping():
    rng = np.random.default_rng(8)
    images = [random_image(rng) for _ in range(6)]
    whole = statistics_of(images, 4)
    parts = statistics_of(images[:2], 4) + statistics_of(images[2:], 4)
    np.testing.assert_array_equal([whole.tp, whole.fp, whole.fn], [parts.tp, parts.fp, parts.fn])
    np.testing.assert_allclose(whole.iou, parts.iou, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="3 classes"):
        whole += PanopticStatistics.zeros(3)


def test_input_is_not_changed_and_overlaps_can_be_reused():
    image = random_image(np.random.default_rng(9))
    before = [np.array(x, copy=True) if isinstance(x, np.ndarray) else json.dumps(x) for x in image]
    overlaps = count_overlaps(image[0], image[2])
    assert match_segments(*image, 4, overlaps=overlaps) == match_segments(*image, 4)
    for old, new in zip(before, image, strict=True):
        if isinstance(new, np.ndarray):
            np.testing.assert_array_equal(old, new)
        else:
            assert old == json.dumps(new)


# ------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("truth", "segments", "prediction", "predicted", "message"),
    [
        ([1, 1], [(1, 0, 0)], [5, 6], [(5, 0, 0)], r"segment ids \[6\].*does not list"),
        ([1, 1], [(1, 0, 0)], [5, 5], [(5, 0, 0), (6, 0, 0)], r"\[6\].*no pixel"),
        ([1, 1], [(1, 0, 0)], [5, 5], [(5, 0, 0), (5, 1, 0)], "segment 5 .* listed twice"),
        ([1, 1], [(1, 0, 0), (1, 0, 0)], [5, 5], [(5, 0, 0)], "segment 1 of the truth .* twice"),
        ([1, 1], [(1, 0, 0)], [5, 5], [(5, 2, 0)], r"category_id 2; .* numbered 0\.\.1"),
        ([1, 1], [(1, -1, 0)], [5, 5], [(5, 0, 0)], "category_id -1"),
        ([1, 1], [(1, 0, 0)], [0, 0], [(0, 0, 0)], "id 0, which is void"),
        ([1, 1], [(1, 0, 0)], [2**24, 0], [(2**24, 0, 0)], "segment id 16777216"),
        ([1, 1, 1], [(1, 0, 0)], [5, 5], [(5, 0, 0)], "1 x 3 .* 1 x 2"),
        ([1, 1], [(1, 0, 0)], [-1, 5], [(5, 0, 0)], "outside"),
    ],
)
def test_bad_input_is_refused(truth, segments, prediction, predicted, message):
    with pytest.raises(ValueError, match=message):
        match_segments(
            one_row(truth), listed(*segments), one_row(prediction), listed(*predicted), 2
        )


def test_maps_of_floats_and_wrong_lengths_are_refused():
    with pytest.raises(ValueError, match="integer"):
        match_segments(np.zeros((2, 2)), [], np.zeros((2, 2), np.int32), [], 1)
    with pytest.raises(ValueError, match="is_thing"):
        PanopticStatistics.zeros(3).quality([True])
    with pytest.raises(ValueError, match="num_classes"):
        PanopticStatistics.zeros(0)
    with pytest.raises(ValueError, match="ratio"):
        match_segments(*random_image(np.random.default_rng(0)), 4, boundary_ratio=0.0)
