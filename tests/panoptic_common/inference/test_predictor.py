"""From an image to a prediction at its size, with a system that is easy to see through."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from stub_system import SYSTEMS, TABLE, stub_config, stub_predictor

from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.inference.predictor import Predictor


@pytest.fixture
def image() -> np.ndarray:
    """66 x 90 pixels, dark on the left and bright red from column 30 on."""
    image = np.zeros((66, 90, 3), np.uint8)
    image[:, 30:, 0] = 200
    return image


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder, cfg = tmp_path_factory.mktemp("stub"), stub_config()
    checkpointer = PanopticCheckpointer(build_model(cfg), str(folder), cfg=cfg, class_table=TABLE)
    checkpointer.save("model", iteration=0)
    return str(folder / "model.pth")


def test_everything_comes_at_the_size_of_the_image(image):
    found = stub_predictor()(image)
    bright = np.broadcast_to(np.arange(90) >= 30, (66, 90))
    np.testing.assert_array_equal(found.semantic, bright)
    np.testing.assert_array_equal(found.id_map, 2 * bright)
    assert found.semantic.dtype == np.int32
    assert [segment["id"] for segment in found.segments_info] == [2]
    assert found.variants["void"][0].max() == 0
    np.testing.assert_array_equal(found.boxes[1], [4, 4, 20, 12])
    np.testing.assert_allclose(found.scores, [0.9, 0.3])
    assert found.classes.tolist() == [1, 1]  # contiguous: the first thing is class 1


def test_extra_maps_are_stretched_in_squares_without_the_padding(image):
    """66 x 90 pixels are 17 x 23 cells, of which the last reach 2 pixels beyond."""
    found = stub_predictor()(image)
    expected = np.broadcast_to(np.arange(90) // 4 / 22, (66, 90))
    np.testing.assert_allclose(found.extra_maps["ramp"], expected, rtol=1e-6)
    assert stub_predictor(WITH_RAMP=False)(image).extra_maps == {}


def test_a_map_of_no_grid_is_an_error(image, monkeypatch):
    predictor = stub_predictor()
    output = predictor.model([predictor.prepare(image)])[0]
    monkeypatch.setattr(
        predictor.model, "forward", lambda batch: [{**output, "ramp": torch.zeros(5, 5)}]
    )
    with pytest.raises(ValueError, match=r"\(5, 5\) cells is that of no grid .* 66 x 90 pixels"):
        predictor(image)


def test_a_system_without_a_detector_has_no_boxes(image, monkeypatch):
    predictor = stub_predictor()
    output = predictor.model([predictor.prepare(image)])[0]
    del output["instances"]
    monkeypatch.setattr(predictor.model, "forward", lambda batch: [output])
    found = predictor(image)
    assert found.boxes.shape == (0, 4) and len(found.scores) == len(found.classes) == 0


@pytest.mark.parametrize("shape", [(1, 1), (7, 400), (500, 3)])
def test_any_size_is_prepared_and_predicted(shape):
    predictor = stub_predictor()
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3)).astype(np.uint8)
    found = predictor(image)
    assert found.id_map.shape == found.semantic.shape == found.extra_maps["ramp"].shape == shape
    inputs = predictor.prepare(image)
    assert (inputs["height"], inputs["width"]) == shape
    np.testing.assert_array_equal(inputs["image"].permute(1, 2, 0).numpy(), image)


def test_the_channel_order_is_that_of_the_config(checkpoint, image):
    def load(order: str) -> Predictor:
        return Predictor.from_checkpoint(checkpoint, SYSTEMS, opts=["INPUT.FORMAT", order])

    assert load("RGB")(image).semantic.any()  # red comes first
    assert not load("BGR")(image).semantic.any()
    assert load("BGR")(np.ascontiguousarray(image[:, :, ::-1])).semantic.any()


def test_a_checkpoint_carries_its_config_and_classes(checkpoint):
    predictor = Predictor.from_checkpoint(checkpoint, SYSTEMS)
    assert [entry["name"] for entry in predictor.class_table] == ["dark", "bright"]
    assert predictor.meta_architecture == "StubPanoptic" and not predictor.model.training
    with pytest.raises(ValueError, match=r"model.pth, with the config in it: .*MODEL.STUB"):
        Predictor.from_checkpoint(checkpoint, {})
    with pytest.raises(ValueError, match="NONSENSE"):
        Predictor.from_checkpoint(checkpoint, SYSTEMS, opts=["MODEL.NONSENSE", "1"])


def test_the_system_says_what_a_score_threshold_sets(checkpoint, image, monkeypatch):
    def segments(threshold: float | None) -> list[dict]:
        found = Predictor.from_checkpoint(checkpoint, SYSTEMS, score_threshold=threshold)(image)
        assert len(found.boxes) == 2  # the detections are still there to be drawn
        return found.segments_info

    assert segments(None) and segments(0.8) and not segments(0.95)
    # A system that has no such threshold is not troubled by one.
    monkeypatch.delattr("stub_system.panels.set_score_threshold")
    assert segments(0.95)


def test_without_a_gpu_the_cpu_is_used(checkpoint, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    predictor = Predictor.from_checkpoint(checkpoint, SYSTEMS, opts=["MODEL.DEVICE", "cuda"])
    assert predictor.model.limit.device.type == "cpu"
