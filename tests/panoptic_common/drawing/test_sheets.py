"""Sheets place what they are given under titles; legends show the colours of the classes."""

from __future__ import annotations

import numpy as np
import pytest

from panoptic_common.drawing.sheets import contact_sheet, legend

TABLE = [
    {"id": 1, "name": "road", "isthing": 0, "color": [128, 64, 128]},
    {"id": 5, "name": "car", "isthing": 1, "color": [0, 0, 200]},
    {"id": 9, "name": "person", "isthing": 1, "color": [220, 20, 60]},
]


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3)).astype(np.uint8)


def test_contact_sheet_places_panels_under_titles(image):
    red = np.full((20, 40, 3), (255, 0, 0), np.uint8)
    sheet = contact_sheet([[red, None], [image, red]], ["a", "b"], panel_width=80, gap=4)
    head = 30
    assert sheet.shape == (head + 40 + 4 + 53 + 4, 4 + 2 * 84, 3)
    assert tuple(sheet[head + 20, 40]) == (255, 0, 0)
    assert tuple(sheet[head + 20, 84 + 40]) == tuple(sheet[-1, -1])  # empty place
    assert tuple(sheet[head + 44 + 20, 84 + 40]) == (255, 0, 0)
    assert (sheet[:head, :84] > 150).any() and (sheet[:head, 84:] > 150).any()  # letters
    wide = contact_sheet([[red]], ["a"], panel_width=80, footer=legend(TABLE, 300))
    assert wide.shape[1] == 92
    for rows, titles in (([[red]], ["a", "b"]), ([[]], [])):
        with pytest.raises(ValueError, match="every row needs"):
            contact_sheet(rows, titles)


def test_legend_shows_the_colours_and_grows_downwards():
    strip = legend(TABLE, 400)
    for entry in TABLE:
        assert (strip == entry["color"]).all(axis=2).any(), entry["name"]
    only = legend(TABLE, 400, [1])
    assert not (only == TABLE[0]["color"]).all(axis=2).any()
    assert legend(TABLE * 20, 120).shape[0] > strip.shape[0]
    with pytest.raises(ValueError, match="40 pixels"):
        legend(TABLE, 10)
