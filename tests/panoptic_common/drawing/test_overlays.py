"""Drawing: sizes, colours, names, determinism, and no crash whatever the classes and shapes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_common.drawing.overlays import (
    class_colour,
    class_name,
    draw_boxes,
    draw_panoptic,
    draw_semantic,
    segment_colour,
)
from panoptic_common.drawing.sheets import legend

TABLE = [
    {"id": 1, "name": "road", "isthing": 0, "color": [128, 64, 128]},
    {"id": 5, "name": "car", "isthing": 1, "color": [0, 0, 200]},
    {"id": 9, "name": "person", "isthing": 1, "color": [220, 20, 60]},
]


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)


def two_cars(shape=(60, 90)):
    ids = np.full(shape, 7, np.int32)
    ids[10:30, 5:35] = 300
    ids[10:30, 45:80] = 70000
    ids[50:] = 0
    segments = [
        {"id": 7, "category_id": 0},
        {"id": 70000, "category_id": 1},
        {"id": 300, "category_id": 1},
    ]
    return ids, segments


def test_segments_get_class_colours_with_variations_and_void_is_dark(image):
    ids, segments = two_cars()
    drawn = draw_panoptic(image, ids, segments, TABLE, alpha=1.0, names=False)
    assert tuple(drawn[40, 20]) == (128, 64, 128)
    assert tuple(drawn[20, 20]) == segment_colour(TABLE, 1, 0) == (0, 0, 200)
    assert tuple(drawn[20, 60]) == segment_colour(TABLE, 1, 1) != (0, 0, 200)
    assert drawn[55, 20].max() < 60
    assert drawn[20, 45].min() > 150  # outline


def test_colours_do_not_depend_on_the_order_of_the_list(image):
    ids, segments = two_cars()
    first = draw_panoptic(image, ids, segments, TABLE)
    np.testing.assert_array_equal(first, draw_panoptic(image, ids, segments[::-1], TABLE))
    assert not np.array_equal(first, draw_panoptic(image, ids, segments, TABLE, names=False))


def test_many_instances_of_a_class_stay_distinguishable():
    for label in range(len(TABLE)):
        colours = np.array([segment_colour(TABLE, label, rank) for rank in range(12)], int)
        distances = np.abs(colours[:, None] - colours[None]).sum(axis=2) + 1000 * np.eye(
            12, dtype=int
        )
        assert distances.min() >= 8
        assert colours.min() >= 0 and colours.max() <= 255


def test_input_is_not_changed(image):
    ids, segments = two_cars()
    before, ids_before = image.copy(), ids.copy()
    draw_panoptic(image, ids, segments, TABLE)
    draw_semantic(image, ids % 3, TABLE)
    draw_boxes(image, [[1, 2, 30, 40]], [1], [0.5], TABLE)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(ids, ids_before)


def test_semantic_colours_and_ignored_pixels(image):
    classes = np.zeros((60, 90), np.int64)
    classes[:, 45:], classes[:10], classes[50:] = 2, 255, -1
    drawn = draw_semantic(image, classes, TABLE, alpha=1.0, names=False)
    assert tuple(drawn[30, 10]) == (128, 64, 128)
    assert tuple(drawn[30, 60]) == (220, 20, 60)
    assert drawn[:10].max() < 60 and drawn[50:].max() < 60


def test_more_classes_than_the_table_knows(image):
    """No IndexError: a model with other classes than the table still gives an image."""
    assert class_name(TABLE, 17) == "class 17" and class_name(TABLE, -1) == "class -1"
    assert class_colour(TABLE, 17) == class_colour(TABLE, -1)
    ids, segments = two_cars()
    drawn = draw_panoptic(image, ids, [{**s, "category_id": 99} for s in segments], TABLE)
    assert drawn.shape == image.shape
    draw_panoptic(image, ids, [], TABLE)  # ids that nobody lists
    draw_panoptic(image, ids, segments, [])
    draw_boxes(image, [[1, 2, 30, 40]], [50], [0.5], TABLE)
    legend(TABLE, 200, [0, 1, 50])
    many = [{"id": k, "name": f"c{k}", "isthing": 0, "color": [1, 2, 3]} for k in range(300)]
    drawn = draw_semantic(image, np.full((60, 90), 255), many, alpha=1.0, names=False)
    assert tuple(drawn[0, 0]) == (1, 2, 3)  # with 300 classes 255 is one of them


def test_boxes_in_class_colours_best_on_top(image):
    black = np.zeros_like(image)
    boxes = [[20, 20, 60, 50], [20, 20, 60, 50]]
    drawn = draw_boxes(black, boxes, [1, 2], [0.2, 0.9], TABLE)
    assert tuple(drawn[50, 50]) == (220, 20, 60)
    drawn = draw_boxes(black, boxes, [1, 2], [0.9, 0.2], TABLE)
    assert tuple(drawn[50, 50]) == (0, 0, 200)
    np.testing.assert_array_equal(draw_boxes(image, [], [], [], TABLE), image)
    odd = [[-1e9, 5, np.inf, np.nan], [80, 55, 85, 58]]
    assert draw_boxes(image, odd, [1, 2], None, TABLE).shape == image.shape
    with pytest.raises(ValueError, match="2 boxes with 1 classes"):
        draw_boxes(image, boxes, [1], None, TABLE)


def test_scale_enlarges(image):
    ids, segments = two_cars()
    assert draw_panoptic(image, ids, segments, TABLE, scale=3).shape == (180, 270, 3)
    assert draw_semantic(image, ids % 3, TABLE, scale=2).shape == (120, 180, 3)
    assert draw_boxes(image, [[1, 2, 3, 4]], [0], None, TABLE, scale=2).shape == (120, 180, 3)
    with pytest.raises(ValueError, match="scale"):
        draw_panoptic(image, ids, segments, TABLE, scale=0)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    scale=st.integers(1, 2),
)
def test_any_size_and_any_ids(seed, height, width, scale):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    ids = rng.integers(0, 5, (height, width)) * 4_000_000
    segments = [{"id": 4_000_000 * i, "category_id": int(rng.integers(-2, 6))} for i in range(1, 5)]
    drawn = draw_panoptic(image, ids, segments, TABLE, scale=scale)
    assert drawn.shape == (height * scale, width * scale, 3) and drawn.dtype == np.uint8
    draw_semantic(image, rng.integers(-3, 300, (height, width)), TABLE, scale=scale)
    draw_boxes(image, rng.normal(size=(3, 4)) * 50, [0, 1, 9], [0.1, 0.2, 0.3], TABLE)


def test_bad_images_and_sizes_are_refused(image):
    ids, segments = two_cars()
    with pytest.raises(ValueError, match="uint8 RGB"):
        draw_panoptic(image / 255, ids, segments, TABLE)
    with pytest.raises(ValueError, match=r"the map is \(50, 90\), the image \(60, 90\)"):
        draw_panoptic(image, ids[:50], segments, TABLE)
