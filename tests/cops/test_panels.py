"""The panels of COPS: the two maps that its model gives of the graph, and where they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
from cops_factory import IS_THING, tiny_config, tiny_model

from panoptic_common.drawing.heat import draw_lines, draw_probabilities
from panoptic_common.inference.media import Frame
from panoptic_common.inference.painter import Painter
from panoptic_common.inference.panels import choose_panels, sheet_panels
from panoptic_common.inference.predictor import Predictor
from panoptic_common.inference.record_sheets import demo_columns

TABLE = [
    {"id": k + 1, "name": f"c{k}", "isthing": int(thing), "color": [40 * k, 90, 200 - 40 * k]}
    for k, thing in enumerate(IS_THING)
]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    changes = {"INPUT.MIN_SIZE_TEST": 0}
    return Predictor(tiny_config(changes), tiny_model(changes), TABLE)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """66 x 90 pixels are 17 x 23 cells, of which the last reach 2 pixels beyond."""
    return np.random.default_rng(0).integers(0, 255, (66, 90, 3)).astype(np.uint8)


def test_both_maps_come_at_the_size_of_the_image(predictor, image):
    found = predictor(image)
    output = predictor.model([predictor.prepare(image)])[0]
    rows, columns = np.arange(66) // 4, np.arange(90) // 4
    assert set(found.extra_maps) == {"affinity_map", "cut_edges"}
    for name, values in found.extra_maps.items():
        cells = np.asarray(output[name], np.float32)
        np.testing.assert_array_equal(values, cells[rows[:, None], columns])
        assert 0 <= values.min() <= values.max() <= 1


def test_the_panels_draw_these_maps(predictor, image):
    found, drawn = Painter(predictor, ["affinities", "cut_edges"])(Frame("a", "a.png", image))
    maps = found.extra_maps
    np.testing.assert_array_equal(
        drawn["affinities"], draw_probabilities(image, maps["affinity_map"], scale=6)
    )
    np.testing.assert_array_equal(drawn["cut_edges"], draw_lines(image, maps["cut_edges"], scale=6))


def test_they_are_on_every_contact_sheet_and_need_no_pixel(predictor):
    names = [panel.name for panel in sheet_panels(predictor)]
    assert names == ["image", "semantic", "boxes", "panoptic", "affinities", "cut_edges"]
    with pytest.raises(ValueError, match="COPS has no panel that shows one pixel"):
        choose_panels([], predictor, (1, 1))


def test_the_demo_compares_the_first_model_with_the_last(predictor):
    columns = demo_columns(predictor)
    titles = [column.title or column.panel.title for column in columns]
    assert titles == ["class argmax", "affinities", "cut edges", "baseline", "full"]
    assert [column.model for column in columns] == [-1, -1, -1, 0, -1]
