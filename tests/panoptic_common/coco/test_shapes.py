"""Masks of drawn shapes, counted by hand, against pycocotools' own, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as rle

from panoptic_common.coco.shapes import (
    box_mask,
    coco_mask,
    ellipse_mask,
    polygon_mask,
    runs_mask,
)

SIZE = (10, 12)


def test_a_box_covers_its_pixels():
    """From x 2 to 6 and y 1 to 4: 4 columns, 3 rows."""
    expected = np.zeros(SIZE, bool)
    expected[1:4, 2:6] = True
    for corners in ([(2, 1), (6, 4)], [(6, 4), (2, 1)]):
        np.testing.assert_array_equal(box_mask(corners, SIZE), expected)
    np.testing.assert_array_equal(polygon_mask([[2, 1, 6, 1, 6, 4, 2, 4]], SIZE), expected)


def test_a_quarter_turn_exchanges_the_sides():
    """6 x 2 about (6, 5) becomes 2 x 6: x 5 to 7, y 2 to 8."""
    expected = np.zeros(SIZE, bool)
    expected[2:8, 5:7] = True
    np.testing.assert_array_equal(box_mask([(3, 4), (9, 6)], SIZE, 90), expected)


def test_a_turn_is_clockwise():
    """The right end of a flat ellipse goes down, as y points down: (50 + 30 cos 45, ...)."""
    mask = ellipse_mask((50, 50), (30, 4), (100, 100), 45)
    assert mask[50 + 19, 50 + 19] and not mask[50 - 19, 50 + 19]


def test_a_circle_has_its_area():
    assert ellipse_mask((50, 50), (30, 30), (100, 100)).sum() == pytest.approx(
        np.pi * 900, rel=0.02
    )


def test_run_lengths_along_rows_and_columns():
    """2 x 3 pixels, runs 1, 2, 3: the second and third pixel of the order."""
    along = runs_mask([1, 2, 3], (2, 3), by_columns=False)
    assert along.tolist() == [[False, True, True], [False, False, False]]
    down = runs_mask([1, 2, 3], (2, 3), by_columns=True)
    assert down.tolist() == [[False, True, False], [True, False, False]]


@pytest.mark.parametrize("seed", range(5))
def test_compressed_run_lengths_are_those_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    mask = np.asfortranarray(rng.random((40, 70)) < rng.choice([0.02, 0.5, 0.98]))
    code = rle.encode(mask.astype(np.uint8))
    code["counts"] = code["counts"].decode()
    np.testing.assert_array_equal(coco_mask(code, (40, 70)), mask)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 1, 5, 5]], "a polygon of 2 points has no area"),
        ([[1, 1, 5, 5, 1e9, 3]], "far beyond the image"),
        ([[1, 1, 5, float("nan"), 2, 3]], "not finite"),
        ([["a", 1, 5, 5, 2, 3]], "no pairs of numbers"),
        ({"counts": [5, 5], "size": [10, 12]}, "do not cover 12 x 10 pixels"),
        ({"counts": [-5, 125], "size": [10, 12]}, "do not cover"),
        ({"counts": "zzz", "size": [10, 12]}, "damaged"),
        ({"counts": "oooooooooooooooooo", "size": [10, 12]}, "damaged"),
        ({"counts": [120], "size": [12, 10]}, r"are of \[12, 10\] pixels"),
        (7, "neither polygons nor run lengths"),
    ],
)
def test_what_is_no_mask_is_refused(segmentation, message):
    with pytest.raises(ValueError, match=message):
        coco_mask(segmentation, SIZE)
