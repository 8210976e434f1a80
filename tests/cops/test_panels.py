"""The panels of COPS: the two maps that its model gives of the graph, and where they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
from cops_factory import IS_THING, tiny_config, tiny_model

from cops.panels import EDGES_HEAD
from panoptic_common.drawing.heat import draw_lines, draw_probabilities
from panoptic_common.inference.explorer import Explorer
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


def test_the_demo_compares_what_pre_training_leads_to(predictor):
    columns = demo_columns(predictor)
    titles = [column.title or column.panel.title for column in columns]
    assert titles == ["class argmax", "affinities", "cut edges", "baseline", "full", "calibrated"]
    assert [column.model for column in columns] == [-1, -1, -1, 0, 1, -1]


# ---- one image, looked at from all sides ---------------------------------------------------------


def count_networks(predictor: Predictor) -> list[int]:
    calls: list[int] = []
    predictor.model.backbone.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("offset", [-1.0, 0.0, 2.0])
def test_the_slider_gives_what_a_model_of_that_offset_gives(predictor, image, offset):
    explorer = Explorer(predictor)
    assert explorer.slider is not None and explorer.slider.value == 0
    calls = count_networks(predictor)
    opened = explorer.open(image)
    shown = opened.show(offset)
    opened.show(offset / 2)
    assert calls == [1]
    changes = {"INPUT.MIN_SIZE_TEST": 0, "MODEL.COPS.INFERENCE.EDGE_OFFSET": offset}
    other = Predictor(tiny_config(changes), tiny_model(changes), TABLE)
    expected = other(image)
    np.testing.assert_array_equal(shown.result.panoptic, expected.id_map)
    assert shown.result.prediction.segments_info == expected.segments_info
    for name, values in expected.extra_maps.items():
        np.testing.assert_array_equal(shown.result.prediction.extra_maps[name], values)
    assert Explorer(other).slider.value == offset


def test_more_of_the_offset_joins_more(predictor, image):
    opened = Explorer(predictor).open(image)
    shares = [
        opened.show(offset).result.prediction.extra_maps["cut_edges"].mean()
        for offset in (-3.0, 0.0, 3.0)
    ]
    assert shares[0] > shares[1] > shares[2]


@pytest.mark.parametrize("stride", [4, 2])
def test_the_edges_of_a_pixel_are_those_of_its_cell(image, stride):
    """By the definition of the edge maps (Eq. 10, 11), from the maps of costs themselves."""
    changes = {"INPUT.MIN_SIZE_TEST": 0, "MODEL.COPS.INFERENCE.STRIDE": stride}
    predictor = Predictor(tiny_config(changes), tiny_model(changes), TABLE)
    x, y, offset = 41, 30, 0.5
    opened = Explorer(predictor).open(image)
    shown = opened.show(offset, pixel=(x, y))
    seen = shown.pixel_view
    assert seen is not None and seen.head == EDGES_HEAD
    model = predictor.model
    options = model.options.changed({"edge_offset": offset})
    solved = opened._exploration._solved
    _, costs, result = solved.solve(options)
    maps = costs.edge_costs.numpy()
    height, width = maps.shape[1:]
    clusters = result.node_clusters.reshape(height, width)
    row, column = y // stride, x // stride
    expected = []
    for index, d in enumerate(costs.distances):
        before = 0 if d == 1 else (d + 1) // 2
        for direction, (down, right) in (("horizontal", (0, 1)), ("vertical", (1, 0))):
            channel = 2 * index + down
            for sign in (-1, 1):
                other = (row + sign * d * down, column + sign * d * right)
                if not (0 <= other[0] < height and 0 <= other[1] < width):
                    continue
                first = min((row, column), other)  # the upper or left end
                cost = maps[channel, first[0] + before * down, first[1] + before * right]
                cut = clusters[other] != clusters[row, column]
                probability = round(float(1 / (1 + np.exp(np.float64(cost)))), 3)
                entry = (direction, float(sign * d * stride), round(float(cost), 2), probability)
                expected.append((*entry, "cut" if cut else "joined"))
    assert len(expected) > 6
    assert sorted(expected) == sorted(tuple(row) for row in seen.rows)


def test_the_drawing_of_edges_is_the_part_around_the_pixel(predictor, image):
    opened = Explorer(predictor).open(image)
    for pixel in ((0, 0), (45, 33), (89, 65)):
        seen = opened.show(pixel=pixel).pixel_view
        assert seen is not None and seen.drawing.ndim == 3 and max(seen.drawing.shape) >= 500


def test_few_solutions_are_kept(predictor, image, monkeypatch):
    monkeypatch.setattr("cops.modeling.inference.MOST_SOLUTIONS", 2)
    opened = Explorer(predictor).open(image)
    first = opened.show(0.0).result.panoptic
    for offset in (1.0, 2.0, 3.0):
        opened.show(offset)
    assert len(opened._exploration._solved._solved) == 2
    np.testing.assert_array_equal(opened.show(0.0).result.panoptic, first)
