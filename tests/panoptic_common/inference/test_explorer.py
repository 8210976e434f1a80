"""One image looked at from all sides: drawings, tables, files, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image
from stub_system import TABLE, stub_predictor

from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.drawing.heat import draw_heat
from panoptic_common.inference.explorer import Explorer, PixelView, Slider


@pytest.fixture
def red() -> np.ndarray:
    """66 x 90 pixels, black on the left and red from column 30 on: the stub's bright segment."""
    image = np.zeros((66, 90, 3), np.uint8)
    image[:, 30:, 0] = 200
    return image


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    return Explorer(stub_predictor())


def test_a_system_without_exploration_has_its_drawings_and_no_slider(explorer, red):
    assert explorer.slider is None
    opened = explorer.open(red, "a")
    shown = opened.show()
    assert opened.scale == 9  # 90 pixels come to about 768
    assert [title for title, _ in shown.drawings()] == [
        *("image", "semantic", "boxes", "ramp of the grid")
    ]
    assert shown.panoptic.shape == (66 * 9, 90 * 9, 3)
    assert shown.pixel_view is None
    # 60 of 90 columns of 66 pixels
    assert shown.table() == [(2, "bright", 0.9, 3960, 66.67)]
    assert shown.sentence() == "1 thing and 0 stuff segments in 90 x 66 pixels, 1980 of them void."


def test_a_pixel_is_looked_at_by_the_panel_that_shows_one(explorer, red):
    shown = explorer.open(red).show(pixel=(40, 30))
    assert shown.pixel_view is not None and shown.pixel_view.title == "spot of the pixel"
    expected = draw_heat(red, np.eye(3), (40, 30), scale=9)
    np.testing.assert_array_equal(shown.pixel_view.drawing, expected)
    assert shown.sentence().endswith("Pixel (40, 30): segment 2, bright, 3960 pixels, score 0.90.")
    assert explorer.open(red).show(pixel=(3, 3)).sentence().endswith("Pixel (3, 3): void.")
    poor = Explorer(stub_predictor(SPOT=False)).open(red).show(pixel=(40, 30))
    assert poor.pixel_view is None


@pytest.mark.parametrize("pixel", [(90, 0), (0, 66), (-1, 5)])
def test_a_pixel_outside_is_refused(explorer, red, pixel):
    with pytest.raises(IndexError, match="lies outside the image of 90 x 66"):
        explorer.open(red).show(pixel=pixel)


def test_the_network_runs_once_per_image(red, monkeypatch):
    predictor = stub_predictor()
    calls = []
    predictor.model.register_forward_pre_hook(lambda *_: calls.append(1))
    opened = Explorer(predictor).open(red)
    for pixel in (None, (1, 1), (50, 50)):
        opened.show(pixel=pixel).drawings()
    assert len(calls) == 1


def test_larger_images_are_reduced(red):
    opened = Explorer(stub_predictor(), longest_side=45).open(red)
    assert opened.image.shape == (33, 45, 3)
    assert opened.show().result.panoptic.shape == (33, 45)


def test_files_are_those_of_coco_and_of_label_images(explorer, red, tmp_path):
    drawing, text, png, labels = explorer.open(red, "cells").show().write(tmp_path)
    assert [path.name for path in (drawing, text, png, labels)] == [
        *("cells_panoptic.png", "panoptic.json", "cells.png", "cells_labels.png")
    ]
    content = json.loads(text.read_text())
    assert content["images"] == [{"id": 1, "file_name": "cells", "height": 66, "width": 90}]
    assert content["annotations"][0]["segments_info"] == [
        {
            **{"id": 2, "category_id": 7, "area": 3960, "bbox": [30, 0, 60, 66], "iscrowd": 0},
            "score": 0.9,
        }
    ]
    id_map = read_id_map(png)
    assert (id_map[:, 30:] == 2).all() and not id_map[:, :30].any()
    stored = cv2.imread(str(labels), cv2.IMREAD_UNCHANGED)  # Pillow 9 makes int32 of it
    assert stored.dtype == np.uint16
    np.testing.assert_array_equal(stored, (id_map == 2).astype(np.uint16))
    np.testing.assert_array_equal(
        np.array(Image.open(drawing)), explorer.open(red, "cells").show().panoptic
    )


def test_names_are_left_out_where_all_things_have_one(explorer, red):
    """They would hide a hundred nuclei; with two classes of things they tell something."""
    assert not explorer.open(red).show().view.names
    predictor = stub_predictor()
    predictor.class_table.append({**TABLE[1], "id": 9, "name": "brighter"})
    shown = Explorer(predictor).open(red).show()
    assert shown.view.names
    assert (shown.panoptic != explorer.open(red).show().panoptic).any()


class Halves:
    """An exploration whose value is the column from which on all is bright."""

    def __init__(self, predictor, image):
        self.first = predictor(image)

    def predict(self, value):
        id_map = np.zeros_like(self.first.id_map)
        id_map[:, int(value) :] = 2
        return replace(self.first, id_map=id_map)

    def look_at(self, view, value):
        return PixelView(f"at {value:g}", view.image, ("x",), [(view.pixel[0],)])


@pytest.mark.parametrize("is_score", [False, True])
def test_a_system_brings_slider_and_exploration(red, monkeypatch, is_score):
    slider = Slider("column", "More is further right.", 0, 60, 1, 0.5, is_score)
    monkeypatch.setattr("stub_system.panels.explore", Halves, raising=False)
    monkeypatch.setattr("stub_system.panels.slider_of", lambda model: slider, raising=False)
    explorer = Explorer(stub_predictor())
    assert explorer.slider is slider
    opened = explorer.open(red)
    assert opened.show().table()[0][3] == 66 * 90  # the model's own value
    shown = opened.show(50, pixel=(7, 1))
    assert shown.table()[0][3] == 66 * 40
    found = shown.pixel_view
    assert (found.title, found.head, found.rows) == ("at 50", ("x",), [(7,)])
    assert found.drawing is red
    assert shown.view.least_score == (50 if is_score else 0.5)
    with pytest.raises(ValueError, match="column is 61: it lies between 0 and 60"):
        opened.show(61)
