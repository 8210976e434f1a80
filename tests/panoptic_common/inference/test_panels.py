"""Panels: which a system has, which a user may ask for, and that each draws its own field."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from stub_system import TABLE, stub_predictor

from panoptic_common.drawing.overlays import draw_boxes, draw_panoptic, draw_semantic
from panoptic_common.inference.panels import (
    BOXES,
    IMAGE,
    PANOPTIC,
    SEMANTIC,
    View,
    choose_panels,
    panels_of,
    sheet_panels,
)


def names(panels) -> list[str]:
    return [panel.name for panel in panels]


@pytest.fixture(scope="module")
def predictor():
    return stub_predictor()


@pytest.fixture(scope="module")
def view(predictor) -> View:
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)
    return View(image, predictor(image), predictor, scale=2)


def test_common_panels_draw_the_fields_of_a_prediction(view):
    found = view.prediction
    assert IMAGE.draw(view) is view.image
    np.testing.assert_array_equal(
        PANOPTIC.draw(view),
        draw_panoptic(view.image, found.id_map, found.segments_info, TABLE, scale=2),
    )
    np.testing.assert_array_equal(
        SEMANTIC.draw(view), draw_semantic(view.image, found.semantic, TABLE, scale=2)
    )


def test_boxes_below_the_least_score_are_left_out(view):
    """The boxes have scores 0.9 and 0.3."""

    def drawn(count: int) -> np.ndarray:
        found = view.prediction
        classes, scores = found.classes[:count].tolist(), found.scores[:count].tolist()
        return draw_boxes(view.image, found.boxes[:count], classes, scores, TABLE, scale=2)

    for least, count in ((0.5, 1), (0.2, 2), (0.95, 0)):
        shown = View(view.image, view.prediction, view.predictor, scale=2, least_score=least)
        np.testing.assert_array_equal(BOXES.draw(shown), drawn(count))


def test_a_system_adds_its_own(predictor, monkeypatch):
    common = ["image", "panoptic", "semantic", "boxes"]
    assert list(panels_of(predictor)) == [*common, "spot", "ramp"]
    monkeypatch.delattr("stub_system.panels.PANELS")
    assert list(panels_of(predictor)) == common


def test_panels_are_found_by_name_once_and_in_order(predictor):
    assert names(choose_panels([], predictor)) == ["panoptic", "boxes"]
    asked = ["ramp", "contact_sheet", "image", "ramp"]
    assert names(choose_panels(asked, predictor)) == ["ramp", "image"]
    assert names(choose_panels(["spot"], predictor, pixel=(1, 2))) == ["spot"]


def test_a_pixel_brings_the_panels_that_show_it(predictor):
    assert names(choose_panels([], predictor, (1, 2))) == ["panoptic", "boxes", "spot"]
    assert names(choose_panels(["image"], predictor, (1, 2))) == ["image", "spot"]
    # The contact sheet shows it already.
    assert names(choose_panels(["image", "contact_sheet"], predictor, (1, 2))) == ["image"]


def test_the_old_name_of_the_image_still_works(predictor, caplog):
    with caplog.at_level(logging.WARNING):
        assert names(choose_panels(["picture", "image"], predictor)) == ["image"]
    assert "picture is called image now" in caplog.text
    caplog.clear()
    choose_panels(["image"], predictor)
    assert not caplog.text


def test_what_cannot_be_drawn_is_explained(predictor, monkeypatch):
    with pytest.raises(ValueError, match=r"nonsense is none of .*StubPanoptic: image, .*ramp"):
        choose_panels(["boxes", "nonsense"], predictor)
    with pytest.raises(ValueError, match="spot needs a pixel"):
        choose_panels(["spot"], predictor)
    poor = stub_predictor(WITH_RAMP=False, SPOT=False)
    with pytest.raises(ValueError, match="no ramp of the grid: leave out the panel ramp"):
        choose_panels(["ramp"], poor)
    with pytest.raises(ValueError, match="no spot of the pixel"):
        choose_panels(["image"], poor, pixel=(1, 2))
    monkeypatch.delattr("stub_system.panels.PANELS")
    with pytest.raises(ValueError, match="StubPanoptic has no panel that shows one pixel"):
        choose_panels([], predictor, pixel=(1, 2))


def test_a_contact_sheet_shows_all_that_the_model_has(predictor):
    common = ["image", "semantic", "boxes", "panoptic"]
    assert names(sheet_panels(predictor)) == [*common, "ramp"]
    assert names(sheet_panels(predictor, pixel=(1, 2))) == [*common, "spot", "ramp"]
    poor = stub_predictor(WITH_RAMP=False, SPOT=False)
    assert names(sheet_panels(poor, pixel=(1, 2))) == common
