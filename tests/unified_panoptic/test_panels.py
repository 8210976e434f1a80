"""The panels of the Unified system: the affinity of a pixel, and its score threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from model_factory import IS_THING, NO_PANOPTIC, lively_model, tiny_config

from panoptic_common.drawing.heat import draw_heat
from panoptic_common.inference.explorer import Explorer
from panoptic_common.inference.media import Frame
from panoptic_common.inference.painter import Painter
from panoptic_common.inference.panels import choose_panels, sheet_panels
from panoptic_common.inference.predictor import Predictor
from panoptic_common.inference.record_sheets import demo_columns
from unified_panoptic import panels

TABLE = [
    {"id": k + 1, "name": f"c{k}", "isthing": int(thing), "color": [40 * k, 90, 200 - 40 * k]}
    for k, thing in enumerate(IS_THING)
]
SCORE = "MODEL.UNIFIED.INFERENCE.SCORE_THRESH"


def make_predictor(changes: dict | None = None, score: float | None = None) -> Predictor:
    """A `lively_model` that sees images at their own size."""
    cfg = tiny_config({"INPUT.MIN_SIZE_TEST": 0, SCORE: 0.0, **(changes or {})})
    if score is not None:
        panels.set_score_threshold(cfg, score)
    model = build_model(cfg)
    model.load_state_dict(lively_model(changes).state_dict())
    return Predictor(cfg, model, TABLE)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return make_predictor()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (7, 100), (33, 31)])
def test_the_affinity_has_the_size_of_the_image(predictor, shape):
    found = panels.affinity_of_pixel(predictor, noise(*shape), shape[1] - 1, shape[0] - 1)
    assert found.shape == shape and np.isfinite(found).all()


def test_affinity_follows_the_image_not_the_padding(predictor, monkeypatch):
    # 90 columns are 23 cells of 4 pixels; a ramp over the cells must end at 90 of 92 pixels.
    ramp = torch.arange(23.0).repeat(17, 1)
    monkeypatch.setattr(predictor.model, "affinity_of_pixel", lambda inputs, x, y: ramp)
    painted = panels.affinity_of_pixel(predictor, np.zeros((66, 90, 3), np.uint8), 0, 0)
    # pixel 45 has its centre at 45.5, that is (45.5 - 2) / 4 = 10.875 cells after the first centre
    assert painted[30, 45] == pytest.approx(10.875, abs=1e-3)


def test_the_panel_paints_the_marked_pixel(predictor):
    painter = Painter(predictor, ["affinity"], pixel=(40, 30))
    _, drawn = painter(Frame("a", "a.png", noise(64, 96)))
    red, green, _ = drawn["affinity"][30 * 5 + 2, 40 * 5 + 2].astype(int)  # enlarged by 5
    assert green > red + 60
    with pytest.raises(IndexError, match="lies outside"):
        painter(Frame("b", "b.png", noise(64, 40)))


def test_a_model_without_the_affinity_does_not_offer_it(predictor):
    poor = make_predictor(NO_PANOPTIC)
    assert panels.has_affinity(predictor.model) and not panels.has_affinity(poor.model)
    with pytest.raises(ValueError, match="no affinity of the marked pixel"):
        choose_panels(["affinity"], poor, (1, 1))
    assert "affinity" in [panel.name for panel in sheet_panels(predictor, (1, 1))]
    assert "affinity" not in [panel.name for panel in sheet_panels(poor, (1, 1))]


@pytest.mark.parametrize("method", ["argmax", "heuristic"])
def test_the_score_threshold_reaches_the_map_however_it_is_made(method):
    changes = {"MODEL.UNIFIED.INFERENCE.METHOD": method, "MODEL.UNIFIED.POTENTIAL.VARIANT": "C"}
    low, high = (make_predictor(changes, score)(noise(64, 96)) for score in (0.0, 0.99))
    assert any(segment["isthing"] for segment in low.segments_info)
    assert not any(segment["isthing"] for segment in high.segments_info)
    assert len(high.boxes) == len(low.boxes)  # the detections are still there to be drawn


def test_the_demo_shows_the_affinity_last(predictor):
    names = [column.panel.name for column in demo_columns(predictor)]
    assert names == ["semantic", "boxes", "panoptic", "affinity"]


# ---- one image, looked at from all sides ---------------------------------------------------------


@pytest.mark.parametrize("method", ["argmax", "heuristic"])
@pytest.mark.parametrize("score", [0.1, 0.4, 0.9])
def test_the_slider_gives_what_a_model_of_that_threshold_gives(method, score):
    changes = {"MODEL.UNIFIED.INFERENCE.METHOD": method, "MODEL.UNIFIED.POTENTIAL.VARIANT": "C"}
    predictor, image = make_predictor(changes, 0.3), noise(64, 96)
    explorer = Explorer(predictor)
    assert explorer.slider is not None and explorer.slider.value == 0.3
    assert explorer.slider.low == 0.05 and explorer.slider.is_score
    calls = []
    predictor.model.backbone.register_forward_pre_hook(lambda *_: calls.append(1))
    opened = explorer.open(image)
    shown = opened.show(score)
    opened.show(0.6, pixel=(3, 3))
    assert calls == [1]
    expected = make_predictor(changes, score)(image)
    np.testing.assert_array_equal(shown.result.panoptic, expected.id_map)
    assert shown.result.prediction.segments_info == expected.segments_info
    np.testing.assert_array_equal(shown.result.prediction.boxes, expected.boxes)
    assert shown.view.least_score == score


def test_the_affinity_of_a_clicked_pixel_is_that_of_the_panel(predictor):
    image = noise(66, 90)
    shown = Explorer(predictor).open(image).show(0.3, pixel=(41, 30))
    seen, values = shown.pixel_view, panels.affinity_of_pixel(predictor, image, 41, 30)
    assert seen is not None and seen.title == panels.AFFINITY.title
    np.testing.assert_allclose(
        seen.drawing.astype(int),
        draw_heat(image, values, (41, 30), scale=shown.view.scale).astype(int),
        atol=1,
    )
    id_map = shown.result.panoptic
    means = {row[0]: row[2] for row in seen.rows}
    assert set(means) == set(np.unique(id_map)) - {0}
    for segment, mean in means.items():
        assert mean == pytest.approx(values[id_map == segment].mean(), abs=1e-3)
    assert list(means.values()) == sorted(means.values(), reverse=True)


def test_a_model_without_the_affinity_has_nothing_to_say_of_a_pixel():
    shown = Explorer(make_predictor(NO_PANOPTIC)).open(noise(64, 96)).show(pixel=(3, 3))
    assert shown.pixel_view is None and shown.table()
