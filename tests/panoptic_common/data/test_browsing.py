"""What is told of a data set, which images are shown, and that sheets show what is fed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from detectron2.data import transforms as T
from mapped_samples import FixedCrop

from panoptic_common.coco.records import read_records
from panoptic_common.data.browsing import (
    annotated,
    choose_records,
    describe,
    draw_sheets,
    fed,
    keep_truth,
)
from panoptic_common.data.mapper import PanopticDatasetMapper

TABLE = [
    {"id": 1, "name": "person", "isthing": 1, "color": [220, 20, 60]},
    {"id": 2, "name": "sky", "isthing": 0, "color": [70, 130, 180]},
    {"id": 3, "name": "unicorn", "isthing": 1, "color": [1, 2, 3]},
]


@pytest.fixture
def tiny_records(paths):
    """Records and class table of three images."""
    table, records = read_records(paths)
    return records, table


def record(*classes: int, size: tuple[int, int] = (48, 64), area: int = 10) -> dict[str, Any]:
    segments = [
        {"id": k + 1, "category_id": c, "iscrowd": 0, "area": area + k, "bbox": [0, 0, 5, 2]}
        for k, c in enumerate(classes)
    ]
    return {"segments_info": segments, "height": size[0], "width": size[1]}


def test_counts_by_hand():
    """Areas of persons are 10, 11 and 10: the median is 10. Two images are 64 wide."""
    records = [record(0, 0, 1), record(0, size=(30, 20)), record()]
    lines = [line.split() for line in describe(records, TABLE).splitlines()]
    assert ["person", "thing", "2", "3", "0", "10", "10", "11"] in lines
    assert ["sky", "stuff", "1", "1", "0", "12", "12", "12"] in lines
    told = describe(records, TABLE)
    assert "3 images of 2 sizes: 2 of 64 x 48; shorter side 20 to 48, median 48" in told
    assert "1 images without a segment" in told
    assert "classes without a segment: unicorn" in told


def test_areas_that_the_json_lacks_are_counted(tiny_records):
    records, table = tiny_records
    expected = describe(records, table)
    for entry in records:
        for segment in entry["segments_info"]:
            segment["area"] = None
    assert describe(records, table) == expected


def test_a_rare_class_is_shown():
    records = [record(0) for _ in range(50)]
    records[17] = record(0, 2)
    chosen = choose_records(records, 3, 3)
    assert records[17] in chosen and len(chosen) == 3
    assert len(choose_records(records[:2], 9, 3)) == 2


def test_what_is_fed_is_drawn_in_true_colours(tiny_records):
    """A mapper that gives BGR shows the same image as one that gives RGB: the crop of the file."""
    records, table = tiny_records
    window = FixedCrop(4, 8, 40, 48)
    shown = []
    for image_format in ("RGB", "BGR"):
        mapper = PanopticDatasetMapper(True, [window], image_format, keep_truth)
        shown.append(fed(mapper(records[0]), image_format, table))
    np.testing.assert_array_equal(shown[0][0], shown[1][0])
    whole = annotated(records[0], table)[0]
    scale = len(whole) // records[0]["height"]
    again = len(shown[0][0]) // 40
    # Away from the corners where the sizes are written. Enlarging smooths the noise by up to 7;
    # exchanged colours, or a crop elsewhere, would differ by 100.
    np.testing.assert_allclose(
        shown[0][0][: 20 * again : again, ::again].astype(int),
        whole[4 * scale : 24 * scale : scale, 8 * scale : 56 * scale : scale].astype(int),
        atol=30,
    )


def test_sheets_hold_six_images_each_and_repeat(tiny_records):
    records, table = tiny_records
    mapper = PanopticDatasetMapper(True, [T.RandomFlip()], "RGB", keep_truth)
    many = [records[k % len(records)] for k in range(7)]
    sheets = list(draw_sheets(many, table, mapper, draws=1))
    assert len(sheets) == 2 and len(sheets[0]) > 3 * len(sheets[1])
    again = list(draw_sheets(many, table, mapper, draws=1))
    np.testing.assert_array_equal(sheets[0], again[0])
    other = next(draw_sheets(many, table, mapper, draws=1, seed=3))
    assert (other != sheets[0]).any()
