"""Sheets beside the truth: which model stands in which column, and the pixel that they mark."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from stub_system import TABLE, stub_predictor

from panoptic_common.coco.segment_ids import write_id_map
from panoptic_common.drawing.overlays import draw_panoptic
from panoptic_common.drawing.sheets import contact_sheet
from panoptic_common.inference.panels import PANOPTIC
from panoptic_common.inference.record_sheets import (
    DEFAULT_COLUMNS,
    Column,
    central_pixel,
    demo_columns,
    draw_record_sheet,
)


@pytest.fixture
def record(tmp_path) -> dict:
    image = np.zeros((24, 96, 3), np.uint8)
    image[:, 48:] = 200
    ids = np.where(np.arange(96) < 40, 1, 2) * np.ones((24, 1), np.int64)
    Image.fromarray(image).save(tmp_path / "a.png")
    write_id_map(tmp_path / "ids.png", ids.astype(np.int32))
    segments = [
        {"id": 1, "category_id": 0, "isthing": False, "iscrowd": 0, "area": 24 * 40},
        {"id": 2, "category_id": 1, "isthing": True, "iscrowd": 0, "area": 24 * 56},
    ]
    return {
        "file_name": str(tmp_path / "a.png"),
        "pan_seg_file_name": str(tmp_path / "ids.png"),
        "segments_info": segments,
        "ids": ids,
        "image": image,
    }


def test_columns_show_the_model_that_they_name(record):
    """One model finds the bright segment, the other refuses it."""
    found, missed = stub_predictor(), stub_predictor(SCORE_THRESH=0.95)
    columns = (Column(PANOPTIC, "first", model=0), Column(PANOPTIC, "last"))
    sheet = draw_record_sheet([missed, found], [record], columns)
    image, segments = record["image"], record["segments_info"]
    expected = [
        image,
        draw_panoptic(image, record["ids"], segments, TABLE, scale=5),
        *(
            draw_panoptic(image, p.id_map, p.segments_info, TABLE, scale=5)
            for p in (missed(image), found(image))
        ),
    ]
    body = contact_sheet([expected], ["image", "truth", "first", "last"])
    np.testing.assert_array_equal(sheet[: len(body)], body)
    assert len(sheet) > len(body)  # the legend
    assert len(draw_record_sheet([missed, found], [record] * 2, columns)) > len(sheet) + 90


def test_a_system_says_how_it_wants_to_be_shown(record, monkeypatch):
    predictor = stub_predictor()
    columns = demo_columns(predictor)
    assert [column.title or column.panel.title for column in columns] == [
        "before",
        "ramp of the grid",
        "spot of the pixel",
    ]
    width = draw_record_sheet([predictor], [record], columns).shape[1]
    assert width == 6 + 5 * (384 + 6)
    monkeypatch.delattr("stub_system.panels.DEMO_COLUMNS")
    assert demo_columns(predictor) == DEFAULT_COLUMNS


def test_a_column_that_a_model_does_not_have_is_refused(record):
    poor = stub_predictor(WITH_RAMP=False)
    with pytest.raises(ValueError, match="no ramp of the grid"):
        draw_record_sheet([poor], [record], demo_columns(poor))


def test_the_marked_pixel_lies_deep_inside_the_largest_single_thing():
    ids = np.full((40, 60), 1, np.int32)
    ids[5:16, 10:31] = 2  # a thing of 11 x 21
    ids[20:40, 0:60] = 3  # a larger crowd
    ids[6:9, 40:45] = 4
    info = [
        {"id": 1, "isthing": False, "iscrowd": 0, "area": 900},
        {"id": 2, "isthing": True, "iscrowd": 0, "area": 231},
        {"id": 3, "isthing": True, "iscrowd": 1, "area": 1200},
        {"id": 4, "isthing": True, "iscrowd": 0, "area": 15},
    ]
    x, y = central_pixel(ids, info)
    assert y == 10 and 15 <= x <= 25  # the only row that is 5 pixels from both edges
    x, y = central_pixel(ids, [info[0]])
    assert ids[y, x] == 1
    assert central_pixel(ids, []) == (30, 20)
