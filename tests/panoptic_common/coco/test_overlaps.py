"""Counting shared labels against a loop over pixels; bands against erosion; IoU by hand."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from panoptic_common.coco.overlaps import (
    boundary_band,
    boundary_radius,
    class_confusion,
    class_iou,
    count_overlaps,
)

shapes = st.tuples(st.integers(0, 12), st.integers(0, 12))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), shape=shapes, largest=st.sampled_from([1, 3, 2**24 - 1, 2**31 - 1]))
def test_overlaps_equal_a_loop_over_pixels(data, shape, largest):
    maps = arrays.arrays(np.int64, shape, elements=st.integers(0, largest))
    truth, prediction = data.draw(maps), data.draw(maps)
    expected = Counter(zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True))
    overlaps = count_overlaps(truth, prediction)
    assert overlaps.table() == expected
    keys = list(zip(overlaps.truth.tolist(), overlaps.prediction.tolist(), strict=True))
    assert keys == sorted(expected)
    assert overlaps.areas() == (
        Counter(truth.ravel().tolist()),
        Counter(prediction.ravel().tolist()),
    )


def test_areas_and_noise_agree_for_both_ways_of_counting():
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.integers(0, 6, (8, 8)), np.ones((16, 16), int))
    noise = rng.integers(0, 6, coarse.shape)
    for first, second in ((coarse, coarse.T), (coarse, noise), (noise, noise)):
        expected = np.zeros((6, 6), int)
        np.add.at(expected, (first, second), 1)
        table = count_overlaps(first, second).table()
        assert table == {(i, j): n for (i, j), n in np.ndenumerate(expected) if n}


@settings(max_examples=60, deadline=None)
@given(
    labels=arrays.arrays(
        np.int32, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.integers(0, 3)
    ),
    coarse=st.booleans(),
    radius=st.integers(1, 6),
)
def test_band_equals_repeated_erosion(labels, coarse, radius):
    if coarse:
        labels = np.kron(labels, np.ones((4, 5), np.int32))
    band = boundary_band(labels, radius)
    for label in np.unique(labels):
        mask = np.pad((labels == label).astype(np.uint8), 1)  # outside counts as background
        for _ in range(radius):
            mask = cv2.erode(mask, np.ones((3, 3), np.uint8))
        inside = labels == label
        np.testing.assert_array_equal(band[inside], ~mask[1:-1, 1:-1].astype(bool)[inside])


def test_radius():
    assert boundary_radius(480, 640) == 16  # diagonal 800
    assert boundary_radius(5, 5) == 1
    assert boundary_radius(1024, 2048, 0.005) == 11
    with pytest.raises(ValueError, match="positive"):
        boundary_radius(5, 5, -1)
    with pytest.raises(ValueError, match="at least 1"):
        boundary_band(np.zeros((2, 2), np.int32), 0)


def test_iou_of_classes_by_hand():
    # Truth: label 10 = class 0, 11 = class 1, 0 = void. Predicted: 5 = class 0, 6 = class 2.
    truth = np.array([[10, 10, 10, 11, 11, 0, 0]])
    prediction = np.array([[5, 5, 6, 6, 0, 5, 6]])
    confusion = class_confusion(count_overlaps(truth, prediction), {10: 0, 11: 1}, {5: 0, 6: 2}, 3)
    assert confusion.tolist() == [[2, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
    iou = class_iou(confusion)
    assert iou[:2].tolist() == [2 / 3, 0.0]  # void pixels predicted as class 0 cost nothing
    assert np.isnan(iou[2])  # never in the truth: no part of the mean


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="2 x 3 pixels .* 3 x 2"):
        count_overlaps(np.zeros((2, 3), int), np.zeros((3, 2), int))
    with pytest.raises(ValueError, match="integer"):
        count_overlaps(np.zeros((2, 3)), np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="outside"):
        count_overlaps(np.full((1, 1), 2**31), np.zeros((1, 1), int))
