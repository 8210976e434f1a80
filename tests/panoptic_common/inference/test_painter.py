"""The painter: what it draws of each frame, at which size, and what it keeps for the sheet."""

from __future__ import annotations

import numpy as np
import pytest
from stub_system import stub_predictor

from panoptic_common.inference import painter as painter_module
from panoptic_common.inference.media import Frame
from panoptic_common.inference.painter import Painter, side_by_side

SHEET_WIDTH = 384 + 6  # of a column with its gap


def frame(height: int = 24, width: int = 40) -> Frame:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Frame("a", "a.png", image)


@pytest.fixture(scope="module")
def predictor():
    return stub_predictor()


def test_wanted_panels_are_drawn_enlarged(predictor):
    prediction, panels = Painter(predictor, ["ramp", "image"])(frame(24, 96))
    assert list(panels) == ["ramp", "image"]
    assert panels["ramp"].shape == (5 * 24, 5 * 96, 3) and panels["image"].shape == (24, 96, 3)
    assert prediction.id_map.shape == (24, 96)


def test_large_frames_are_reduced_and_the_pixel_with_them(predictor):
    painter = Painter(predictor, ["spot"], pixel=(78, 46), longest_side=40)
    prediction, panels = painter(frame(48, 80))
    assert prediction.id_map.shape == (24, 40)
    # Half of (78, 46) is (39, 23), the last pixel; enlarged by 13 its middle is (513, 305).
    assert tuple(panels["spot"][305, 513]) == (80, 255, 120)
    with pytest.raises(IndexError, match="outside"):
        Painter(predictor, ["spot"], pixel=(78, 46))(frame(24, 40))


def test_the_least_score_reaches_the_boxes(predictor):
    few, many = (Painter(predictor, ["boxes"], least_score=s)(frame())[1] for s in (0.5, 0.2))
    assert (few["boxes"] != many["boxes"]).any()


def test_the_contact_sheet_has_a_row_per_frame_up_to_a_limit(predictor, monkeypatch):
    monkeypatch.setattr(painter_module, "SHEET_ROWS", 2)
    painter = Painter(predictor, ["contact_sheet", "image"])
    for _ in range(3):
        _, panels = painter(frame())
        assert list(panels) == ["image"]
    assert len(painter.rows) == 2
    sheet = painter.draw_sheet()
    # image, semantic, boxes, panoptic, ramp
    assert sheet.shape[1] == 6 + 5 * SHEET_WIDTH
    assert sheet.shape[0] > 2 * round(384 * 24 / 40)


def test_without_a_contact_sheet_nothing_is_kept(predictor):
    painter = Painter(predictor, ["image"])
    painter(frame())
    assert painter.rows == []
    with pytest.raises(ValueError, match="image"):
        painter.draw_sheet()


def test_side_by_side_repeats_what_is_smaller_and_evens_the_sides():
    small = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    large = np.full((9, 15, 3), 7, np.uint8)
    row = side_by_side({"image": small, "boxes": large})
    assert row.shape == (10, 30, 3)
    np.testing.assert_array_equal(row[:9:3, :15:3], small)
    np.testing.assert_array_equal(row[:9, 15:], large)
    assert side_by_side({"a": small}).shape == (4, 6, 3)
    assert side_by_side({}) is None
